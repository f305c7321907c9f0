// An engine over the fake model, and what a caller needs around it.
#pragma once

#include "check.h"
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
    explicit Setup(gge::EngineOptions options = small(), const std::function<void(Model &)> &change = {},
                   size_t n_copies = 1) {
        std::vector<std::unique_ptr<gge::BackendModel>> copies;
        for (size_t i = 0; i < n_copies; ++i) {
            auto backend = std::make_unique<Model>(log);
            backends.push_back(backend.get());
            if (change) {
                change(*backend);
            }
            copies.push_back(std::move(backend));
        }
        model = wrap(std::move(copies));
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

    Log log; // of all copies
    std::vector<Model *> backends;
    std::shared_ptr<const gge::Model> model;
    std::unique_ptr<gge::Engine> engine;
};

using IdLists = std::vector<std::vector<int32_t>>;

// A call that does not wait, and all that must live as long.
struct Request {
    Request(const Setup &s, const IdLists &texts, gge::EncodeOptions options = raw())
        : Request(s, s.tokens(texts), options) {}

    Request(const Setup &s, gge::Tokens made, gge::EncodeOptions options) : engine(s.engine.get()) {
        const auto tokens = std::make_shared<const gge::Tokens>(std::move(made));
        const bool by_token = options.pooling == GGE_POOLING_NONE;
        const auto n_rows = by_token ? static_cast<int64_t>(tokens->ids.size()) : tokens->n_texts();
        out.assign(static_cast<size_t>(4 * n_rows), -1.0F);
        status.assign(static_cast<size_t>(tokens->n_texts()), -1);
        options.report.status = status.data();
        job = engine->prepare(tokens, options, {out.data(), n_rows, 4}, count, &n_told);
        engine->submit(job);
    }

    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    static void count(void *const *n_told, int64_t n) {
        std::for_each(n_told, n_told + n, [](void *one) { ++*static_cast<std::atomic<int> *>(one); });
    }

    // The status of the call.
    gge_status finish() {
        engine->await(*job);
        CHECK_EQ(n_told.load(), 1);
        try {
            job->report();
            return GGE_OK;
        } catch (const gge::Error &e) {
            return e.status();
        }
    }

    void abort() { engine->abort(*job); }

    gge::Engine *engine;
    std::vector<float> out;
    std::vector<int32_t> status;
    std::atomic<int> n_told{0};
    std::shared_ptr<gge::Job> job;
};

inline std::vector<int32_t> sequence(int32_t from, int32_t n) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < n; ++i) {
        ids.push_back((from + i) % 200);
    }
    return ids;
}

} // namespace fake
