// A backend that fails on chosen token ids, around a real one.
#pragma once

#include "backend.h"
#include "log.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <mutex>
#include <thread>

namespace faulty {

// What happens to a micro-batch that holds the token, or to the rows of the token's sequence.
enum class Kind { nan, infinity, no_memory, device, internal, slow };

struct Fault {
    Kind kind;
    int n_times; // how often it strikes; -1 = always
};

// Faults by token id, for all models of the process.
class Faults {
public:
    static Faults &all() {
        static Faults faults;
        return faults;
    }

    void set(std::map<int32_t, Fault> faults) {
        const std::lock_guard<std::mutex> lock(mutex_);
        faults_ = std::move(faults);
        n_slow_ = 0;
    }

    // Whether a token strikes now, and how.
    bool strikes(int32_t id, Kind &kind) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = faults_.find(id);
        if (found == faults_.end() || found->second.n_times == 0) {
            return false;
        }
        found->second.n_times -= found->second.n_times > 0 ? 1 : 0;
        kind = found->second.kind;
        n_slow_ += kind == Kind::slow ? 1 : 0;
        return true;
    }

    // Whether nothing is computed: then all values are 1. For what the rest of a call costs.
    std::atomic<bool> idle{false};

    int n_slow() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return n_slow_;
    }

private:
    std::mutex mutex_;
    std::map<int32_t, Fault> faults_;
    int n_slow_ = 0; // micro-batches that are or were waiting for their abort
};

class Session final : public gge::BackendSession {
public:
    // width: of the rows that compute returns; rank: they are rows of sequences
    Session(std::unique_ptr<gge::BackendSession> inner, size_t width, bool rank)
        : inner_(std::move(inner)), width_(width), rank_(rank) {}

    void reset(bool wipe) override { inner_->reset(wipe); }

    void use_adapter(int32_t adapter, float scale) override { inner_->use_adapter(adapter, scale); }

    gge_memory memory() const override { return inner_->memory(); }
    int64_t n_graphs_reused() const override { return inner_->n_graphs_reused(); }

    const float *compute(const gge::TokenBatch &batch, const std::atomic<bool> &abort) override {
        if (Faults::all().idle) {
            const auto n_wanted = std::count(batch.wanted.begin(), batch.wanted.end(), uint8_t{1});
            const auto n_rows = static_cast<size_t>(rank_ ? batch.sequences.back() + 1 : n_wanted);
            rows_.assign(n_rows * width_, 1.0F);
            return rows_.data();
        }
        std::map<int32_t, float> poison; // by sequence
        for (size_t t = 0; t < batch.ids.size(); ++t) {
            Kind kind{};
            if (Faults::all().strikes(batch.ids[t], kind)) {
                if (kind == Kind::nan || kind == Kind::infinity) {
                    poison[batch.sequences[t]] = kind == Kind::nan ? std::numeric_limits<float>::quiet_NaN()
                                                                   : std::numeric_limits<float>::infinity();
                } else {
                    fail(kind, abort);
                }
            }
        }
        const float *rows = inner_->compute(batch, abort);
        if (poison.empty()) {
            return rows;
        }
        const std::vector<int32_t> sequences = sequences_of_rows(batch);
        rows_.assign(rows, rows + sequences.size() * width_);
        for (size_t r = 0; r < sequences.size(); ++r) {
            if (const auto found = poison.find(sequences[r]); found != poison.end()) {
                rows_[r * width_] = found->second;
            }
        }
        return rows_.data();
    }

private:
    std::vector<int32_t> sequences_of_rows(const gge::TokenBatch &batch) const {
        std::vector<int32_t> sequences;
        for (size_t t = 0; t < batch.ids.size(); ++t) {
            if (rank_ ? t == 0 || batch.sequences[t] != batch.sequences[t - 1] : batch.wanted[t] != 0) {
                sequences.push_back(batch.sequences[t]);
            }
        }
        return sequences;
    }

    static void fail(Kind kind, const std::atomic<bool> &abort) {
        gge::log_line(GGE_LOG_ERROR, "fault: the device is about to fail");
        switch (kind) {
        case Kind::no_memory: throw gge::Error(GGE_E_MEMORY, "injected: no memory");
        case Kind::device: throw gge::Error(GGE_E_DEVICE, "injected: the device failed");
        case Kind::internal: throw gge::Error(GGE_E_INTERNAL, "injected: a fault");
        default:
            while (!abort) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
            throw gge::Error(GGE_E_ABORTED, "aborted");
        }
    }

    std::unique_ptr<gge::BackendSession> inner_;
    const size_t width_;
    const bool rank_;
    std::vector<float> rows_;
};

class Model final : public gge::BackendModel {
public:
    explicit Model(std::unique_ptr<gge::BackendModel> inner) : inner_(std::move(inner)) {}

    const gge::ModelFacts &facts() const noexcept override { return inner_->facts(); }

    void tokenize(std::string_view text, bool add_special, bool parse_special,
                  std::vector<int32_t> &ids) const override {
        inner_->tokenize(text, add_special, parse_special, ids);
    }

    void token_rows(const int32_t *ids, size_t n, float *rows) const override { inner_->token_rows(ids, n, rows); }

    const std::vector<std::unique_ptr<gge::BackendTower>> &towers() const noexcept override { return inner_->towers(); }

    std::unique_ptr<gge::BackendSession> open(const gge::SessionOptions &options) const override {
        const int32_t width = options.rank ? facts().n_cls_out : facts().n_embd;
        return std::make_unique<Session>(inner_->open(options), static_cast<size_t>(width), options.rank);
    }

    void survey(int64_t n_tower_batch, const std::function<void(const gge::Measure &)> &use) const override {
        inner_->survey(n_tower_batch, use);
    }

    std::vector<std::pair<std::string, int32_t>> special_tokens() const override { return inner_->special_tokens(); }
    const gge::Seams *seams(bool parse_special) const override { return inner_->seams(parse_special); }

private:
    std::unique_ptr<gge::BackendModel> inner_;
};

} // namespace faulty
