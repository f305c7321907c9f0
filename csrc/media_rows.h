// The rows that towers make of the media in a job: which of them are made together, and how long they are kept.
#pragma once

#include "media.h"
#include "planner.h"
#include "tokens.h"

#include <map>

namespace gge {

// The compute states of the towers of a model, of one of its copies, opened when they are needed. Used by one thread at
// a time.
class Towers {
public:
    Towers(const Model &model, size_t copy, int32_t n_threads, bool cuda_graphs)
        : model_(model), copy_(copy), n_threads_(n_threads), cuda_graphs_(cuda_graphs) {}

    TowerSession &session(gge_modality modality);
    // Drops one whose state is unknown.
    void drop(gge_modality modality) noexcept { sessions_.erase(modality); }

private:
    const Model &model_;
    const size_t copy_;
    const int32_t n_threads_;
    const bool cuda_graphs_;
    std::map<gge_modality, std::unique_ptr<TowerSession>> sessions_;
};

// Those of one job, whichever towers make them. Used by one thread at a time.
class MediaRows {
public:
    // Borrows both. n_tower_batch: rows that a tower makes together; a medium that has more is encoded by itself.
    MediaRows(const Model &model, const Tokens &tokens, int64_t n_tower_batch);

    // Has the media of micro-batch at encoded, together with those of the ones behind it as far as there is room.
    void prepare(Towers &towers, const Plan &plan, size_t at, const std::atomic<bool> &abort);

    // Has those of one that is no part of the plan encoded, until the next release.
    void prepare_alone(Towers &towers, const Microbatch &batch, const std::atomic<bool> &abort);

    // Fills in the rows of a micro-batch that holds media, which are prepared, and the places of its tokens.
    void fill(const Microbatch &batch, TokenBatch &out) const;

    // Drops what only micro-batches up to that one need.
    void release(size_t at);
    void release_alone();

private:
    using Key = std::pair<const Media *, size_t>; // a unit of a medium

    struct Held {
        std::vector<float> rows;
        int64_t last_use = 0; // micro-batch
        bool finite = true;
    };

    // Units that are to be encoded together.
    struct Window {
        std::map<Key, int64_t> last_uses;
        std::vector<const MediaSpan *> spans; // of each unit, the first
        int64_t n_rows = 0;
        size_t n_batches = 0; // that are in it as a whole
    };

    std::vector<const MediaSpan *> spans_of(const Microbatch &batch) const;
    Window gather(const Plan &plan, size_t begin, size_t end);
    bool add(const Microbatch &batch, int64_t number, Window &window);
    void encode(Towers &towers, const Window &window, const std::atomic<bool> &abort);
    void run_pass(Towers &towers, const Window &window, const std::vector<const MediaSpan *> &spans,
                  const std::atomic<bool> &abort);
    void drop_until(int64_t batch);
    void fill_piece(const Piece &piece, TokenBatch &out, float *rows) const;

    const Model &model_;
    const Tokens &tokens_;
    int64_t room_;           // rows of a pass
    size_t alone_until_ = 0; // up to there each micro-batch is encoded by itself, since together they failed
    std::map<Key, Held> held_;
};

} // namespace gge
