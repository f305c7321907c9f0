// An engine over the fake model, and what a caller needs around it.
#pragma once

#include "engine.h"
#include "fake_backend.h"

namespace fake {

inline gge::EngineOptions small() {
    gge::EngineOptions o;
    o.n_ubatch = 16;
    o.n_seq_max = 4;
    o.n_threads = 1;
    return o;
}

inline gge::EncodeOptions raw(gge_pooling pooling = GGE_POOLING_LAST) {
    gge::EncodeOptions o;
    o.pooling = pooling;
    o.normalize = GGE_OFF;
    return o;
}

struct Setup {
    explicit Setup(gge::EngineOptions options = small(), const std::function<void(Model &)> &change = {}) {
        auto backend = std::make_unique<Model>(log);
        if (change) {
            change(*backend);
        }
        model = wrap(std::move(backend));
        engine = std::make_unique<gge::Engine>(model, options);
    }

    gge::Tokens tokens(const std::vector<std::vector<int32_t>> &texts) const {
        std::vector<int32_t> ids;
        std::vector<int64_t> offsets = {0};
        for (const auto &text : texts) {
            ids.insert(ids.end(), text.begin(), text.end());
            offsets.push_back(static_cast<int64_t>(ids.size()));
        }
        return gge::take_ids(model, ids.data(), offsets.data(), static_cast<int64_t>(texts.size()));
    }

    std::vector<float> encode(const gge::Tokens &t, gge::EncodeOptions options = raw()) const {
        const size_t n_rows = options.pooling == GGE_POOLING_NONE ? t.ids.size() : static_cast<size_t>(t.n_texts());
        std::vector<float> out(n_rows * 4, -1.0F);
        engine->encode(t, options, {out.data(), static_cast<int64_t>(n_rows), 4});
        return out;
    }

    void wait_for_slow(int n = 1) {
        while (true) {
            const std::lock_guard<std::mutex> lock(log.mutex);
            if (log.n_slow >= n) {
                return;
            }
        }
    }

    Log log;
    std::shared_ptr<const gge::Model> model;
    std::unique_ptr<gge::Engine> engine;
};

inline std::vector<int32_t> sequence(int32_t from, int32_t n) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < n; ++i) {
        ids.push_back((from + i) % 200);
    }
    return ids;
}

} // namespace fake
