// A model without weights. One byte of text is one token; the row of a token is
//     [ id, position, number of tokens of its sequence so far, number of sequences in the batch ]
// so that tests can tell from a row where it was computed. In a batch of rows the first value of each stands for the
// id. The scores of a sequence are
//     [ its last id, its number of tokens ]
// A session holds as many bytes as the model says for each token that it has room for, wherever one looks.
// An adapter adds 1000 times its number, times its scale, to the first value of every row. Some ids misbehave.
#pragma once

#include "model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <thread>

namespace fake {

constexpr int32_t id_nan = 200;            // its row is NaN, always
constexpr int32_t id_nan_in_company = 201; // its row is NaN unless the cache was wiped just before
constexpr int32_t id_no_memory = 202;      // the batch fails with GGE_E_MEMORY
constexpr int32_t id_slow = 203;           // runs until it is aborted
constexpr int32_t id_gate = 204;           // runs until the test lets one more through the gate, or it is aborted
constexpr int32_t id_device = 205;         // the batch fails with GGE_E_DEVICE
constexpr int32_t n_embd = 4;
constexpr int32_t n_cls_out = 2;

// What sessions did, shared with the test.
struct Log {
    std::function<void()> on_compute; // in place of keeping what they did
    std::mutex mutex;
    std::vector<std::vector<int32_t>> batches; // ids
    std::vector<std::vector<uint8_t>> wanted;  // of each of them
    std::vector<gge::TokenBatch> batches_of_rows;
    std::vector<gge::SessionOptions> opened;
    int n_wipes = 0;
    int n_slow = 0;             // batches that were slow, or came to the gate
    std::atomic<int> n_gate{0}; // that may pass the gate

    std::vector<std::vector<int32_t>> get_batches() {
        const std::lock_guard<std::mutex> lock(mutex);
        return batches;
    }

    // Tokens of each batch.
    std::vector<size_t> sizes() {
        const std::lock_guard<std::mutex> lock(mutex);
        std::vector<size_t> sizes;
        for (const auto &batch : batches) {
            sizes.push_back(batch.size());
        }
        return sizes;
    }

    // Tokens that the sessions had room for.
    std::vector<size_t> capacities() {
        const std::lock_guard<std::mutex> lock(mutex);
        std::vector<size_t> capacities;
        for (const gge::SessionOptions &options : opened) {
            capacities.push_back(static_cast<size_t>(options.n_ubatch));
        }
        return capacities;
    }
};

class Session final : public gge::BackendSession {
public:
    Session(gge::SessionOptions options, Log &log, const gge::ModelFacts &facts, const gge_memory &memory,
            const std::atomic<bool> &is_lost)
        : options_(options), log_(log), memory_(memory), is_lost_(is_lost), has_mrope_(facts.has_mrope),
          cacheless_(facts.cacheless), seen_(static_cast<size_t>(options.n_seq_max)) {}

    void reset(bool wipe) override {
        std::fill(seen_.begin(), seen_.end(), 0);
        wiped_ = wiped_ || wipe;
        const std::lock_guard<std::mutex> lock(log_.mutex);
        log_.n_wipes += wipe ? 1 : 0;
    }

    void use_adapter(int32_t adapter, float scale) override { shift_ = 1000.0F * static_cast<float>(adapter) * scale; }

    gge_memory memory() const override { return memory_; }
    int64_t n_graphs_reused() const override { return 0; }

    const float *compute(const gge::TokenBatch &batch, const std::atomic<bool> &abort) override {
        const size_t n = batch.ids.size();
        if (n == 0 || static_cast<int64_t>(n) > options_.n_ubatch) {
            throw gge::Error(GGE_E_INTERNAL, "micro-batch too large");
        }
        note(batch);
        if (is_lost_) {
            throw gge::Error(GGE_E_DEVICE, "the device is lost");
        }
        check_rows(batch);
        if (cacheless_) {
            std::fill(seen_.begin(), seen_.end(), 0);
        }
        const int32_t n_seq = batch.sequences.back() + 1;
        if (n_seq > options_.n_seq_max) {
            throw gge::Error(GGE_E_INTERNAL, "too many sequences");
        }
        rows_.clear();
        for (size_t t = 0; t < n; ++t) {
            const int32_t id = batch.ids[t];
            if (id == id_no_memory) {
                throw gge::Error(GGE_E_MEMORY, "no memory");
            }
            if (id == id_device) {
                throw gge::Error(GGE_E_DEVICE, "the device failed");
            }
            if (id == id_slow || id == id_gate) {
                wait(id == id_gate, abort);
            }
            int64_t &n_seen = seen_[static_cast<size_t>(batch.sequences[t])];
            if (!has_mrope_ && batch.positions[t] != n_seen) {
                throw gge::Error(GGE_E_INTERNAL, "positions of a sequence do not follow each other");
            }
            ++n_seen;
            if (n_seen > options_.n_ctx) {
                throw gge::Error(GGE_E_INTERNAL, "cache is full");
            }
            const bool bad = id == id_nan || (id == id_nan_in_company && !wiped_);
            const float value = batch.rows.empty() ? static_cast<float>(id) : batch.rows[t * n_embd];
            const float first = bad ? std::numeric_limits<float>::quiet_NaN() : value + shift_;
            if (options_.rank) {
                rows_.resize(static_cast<size_t>(n_seq * n_cls_out));
                float *scores = rows_.data() + static_cast<size_t>(batch.sequences[t] * n_cls_out);
                scores[0] = first;
                scores[1] = static_cast<float>(n_seen);
            }
            if (options_.rank || batch.wanted[t] == 0) {
                continue;
            }
            rows_.push_back(first);
            rows_.push_back(static_cast<float>(batch.positions[t]));
            rows_.push_back(static_cast<float>(n_seen));
            rows_.push_back(static_cast<float>(n_seq));
        }
        wiped_ = false;
        return rows_.data();
    }

private:
    void wait(bool at_gate, const std::atomic<bool> &abort) {
        {
            const std::lock_guard<std::mutex> lock(log_.mutex);
            ++log_.n_slow;
        }
        while (!abort && !(at_gate && passes_gate())) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        if (abort) {
            throw gge::Error(GGE_E_ABORTED, "aborted");
        }
    }

    bool passes_gate() {
        int n = log_.n_gate;
        return n > 0 && log_.n_gate.compare_exchange_strong(n, n - 1);
    }

    void note(const gge::TokenBatch &batch) {
        if (log_.on_compute) {
            log_.on_compute();
            return;
        }
        const std::lock_guard<std::mutex> lock(log_.mutex);
        log_.batches.push_back(batch.ids);
        log_.wanted.push_back(batch.wanted);
        if (!batch.rows.empty()) {
            log_.batches_of_rows.push_back(batch);
        }
    }

    void check_rows(const gge::TokenBatch &batch) const {
        const size_t n = batch.ids.size();
        const auto is_wanted = [](uint8_t wanted) { return wanted == 1; };
        if (batch.wanted.size() != n || std::none_of(batch.wanted.begin(), batch.wanted.end(), is_wanted)) {
            throw gge::Error(GGE_E_INTERNAL, "a batch wants no rows");
        }
        const size_t n_places = batch.rows.empty() || !has_mrope_ ? 0 : n;
        const bool lacks_rows =
            batch.rows.empty() && std::find(batch.ids.begin(), batch.ids.end(), -1) != batch.ids.end();
        if (lacks_rows || (!batch.rows.empty() && batch.rows.size() != n * n_embd) ||
            batch.heights.size() != n_places || batch.widths.size() != n_places) {
            throw gge::Error(GGE_E_INTERNAL, "a batch lacks rows or places");
        }
    }

    gge::SessionOptions options_;
    Log &log_;
    gge_memory memory_;
    const std::atomic<bool> &is_lost_;
    bool has_mrope_;
    bool cacheless_;
    std::vector<int64_t> seen_; // tokens, by sequence
    bool wiped_ = false;
    float shift_ = 0.0F;
    std::vector<float> rows_;
};

class Model final : public gge::BackendModel {
public:
    explicit Model(Log &log) : log_(log) {
        facts_.architecture = "fake";
        facts_.tokenizer = "bytes";
        facts_.n_embd = n_embd;
        facts_.n_layer = 1;
        facts_.n_ctx_train = 1024;
        facts_.n_vocab = 256;
        facts_.attention = gge::Attention::causal;
        facts_.has_cache = true;
        facts_.cannot_rank = "the model has no classification head, so it cannot rank";
    }

    const gge::ModelFacts &facts() const noexcept override { return facts_; }
    gge::ModelFacts &facts() noexcept { return facts_; }

    void tokenize(std::string_view text, bool add_special, bool, std::vector<int32_t> &ids) const override {
        if (on_tokenize) {
            on_tokenize(text);
        }
        n_bytes_tokenized += text.size();
        if (add_special && facts_.token_bos >= 0) {
            ids.push_back(facts_.token_bos);
        }
        for (size_t i = 0; i < text.size(); ++i) {
            if (const auto merged = merges.find(std::string(text.substr(i, 2))); merged != merges.end()) {
                ids.push_back(merged->second);
                ++i;
            } else {
                ids.push_back(static_cast<unsigned char>(text[i]));
            }
        }
        if (add_special && facts_.token_eos >= 0 && facts_.architecture != "eurobert") {
            ids.push_back(facts_.token_eos);
        }
    }

    const gge::Seams *seams(bool) const override { return known_seams.get(); }

    std::unique_ptr<gge::BackendSession> open(const gge::SessionOptions &options) const override {
        const std::lock_guard<std::mutex> lock(log_.mutex);
        if (options.n_ubatch > n_ubatch_limit || options.n_ctx > n_ubatch_limit) {
            throw gge::Error(GGE_E_MEMORY, "no memory for the compute state");
        }
        log_.opened.push_back(options);
        return std::make_unique<Session>(options, log_, facts_, memory_of(options), is_lost);
    }

    void survey(int64_t, const std::function<void(const gge::Measure &)> &use) const override {
        use([this](const gge::SessionOptions &options) { return memory_of(options); });
    }

    std::vector<std::pair<std::string, int32_t>> special_tokens() const override { return known_special; }

    // The row of an id is the id, four times.
    void token_rows(const int32_t *ids, size_t n, float *rows) const override {
        for (size_t i = 0; i < n * n_embd; ++i) {
            rows[i] = static_cast<float>(ids[i / n_embd]);
        }
    }

    const std::vector<std::unique_ptr<gge::BackendTower>> &towers() const noexcept override { return known_towers; }

    std::atomic<int64_t> n_ubatch_limit{1 << 20};
    std::atomic<bool> is_lost{false}; // every batch fails with GGE_E_DEVICE
    int64_t n_bytes_of_weights = 0;
    int64_t n_bytes_per_token = 0;
    std::vector<std::unique_ptr<gge::BackendTower>> known_towers;
    std::unique_ptr<gge::Seams> known_seams;
    std::map<std::string, int32_t> merges; // of two bytes
    std::vector<std::pair<std::string, int32_t>> known_special = {{"<sep>", 3}, {"</s>", 2}, {"<s>", 1}};
    std::function<void(std::string_view text)> on_tokenize; // called first, on the thread that tokenises
    mutable std::atomic<size_t> n_bytes_tokenized{0};

private:
    gge_memory memory_of(const gge::SessionOptions &options) const {
        gge_memory memory{};
        memory.weights_device = memory.weights_host = n_bytes_of_weights;
        memory.compute_device = memory.compute_host = n_bytes_per_token * options.n_ubatch;
        memory.cache_device = memory.cache_host = n_bytes_per_token * options.n_ctx;
        return memory;
    }

    gge::ModelFacts facts_;
    Log &log_;
};

inline std::shared_ptr<const gge::Model> wrap(std::vector<std::unique_ptr<gge::BackendModel>> copies,
                                              const gge::Device &device = {}) {
    gge::DeviceChoice choice{std::vector<gge::Device>(copies.size(), device), "fake", copies.size() > 1};
    return std::make_shared<const gge::Model>(std::move(copies), std::move(choice));
}

inline std::shared_ptr<const gge::Model> wrap(std::unique_ptr<Model> model, const gge::Device &device = {}) {
    std::vector<std::unique_ptr<gge::BackendModel>> copies;
    copies.push_back(std::move(model));
    return wrap(std::move(copies), device);
}

} // namespace fake
