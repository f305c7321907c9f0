// One call as the engine sees it: what is asked for, and what has come of each input.
#pragma once

#include "media_rows.h"
#include "rows.h"

#include <condition_variable>

namespace gge {

// The way of a job with media, which makes its own micro-batches.
struct MediaPlan {
    Plan plan;
    MediaRows rows;
    size_t next = 0; // micro-batch
};

struct Job {
    // Checks the call, and which inputs can be computed with a context of n_ctx. Throws Error; so does the first bad
    // input of a call that does not collect. What the options point to is borrowed until report().
    Job(const Model &model, std::shared_ptr<const Tokens> tokens, const EncodeOptions &options, const RowsOut &out,
        int64_t n_ctx);

    bool rank() const noexcept { return pooling == GGE_POOLING_RANK; }
    bool has_media() const noexcept { return !tokens->media.empty(); }
    // Nothing more is to be computed.
    bool over() const noexcept { return n_left == 0 || abort || error != nullptr; }

    int64_t n_tokens_of(int64_t i) const { return n_tokens[static_cast<size_t>(i)]; }
    void *row(int64_t i) const;

    // Tokens of the longest input that has no more than that, 0 if there is none.
    int64_t longest_up_to(int64_t limit) const;

    // Notes that the row of input i is there.
    void succeed(int64_t i);
    // Notes that input i has no row, which ends a call that does not collect.
    void fail(int64_t i, gge_status why, const std::string &message);

    // Tells the caller of an ended job what came of it. Throws Error.
    void report();

    const std::shared_ptr<const Tokens> tokens;
    const EncodeOptions options;
    const RowsOut out;
    const gge_pooling pooling;
    const RowFormat format;

    // The submitting thread's first, the worker's then, the reporting one's when the job is done.
    std::vector<gge_status> status;
    std::vector<bool> finished; // the row is there, or the input has failed
    std::map<int64_t, std::string> messages;
    std::vector<int64_t> n_tokens; // per input, 0 for those that are not computed
    int64_t n_total = 0;
    int64_t longest = 0;
    int64_t n_left = 0; // inputs that are not finished
    int64_t n_failed = 0;
    std::exception_ptr error; // that is no input's own, or the call does not collect

    // worker only
    Pooler pooler;
    RowWriter writer;
    std::vector<int64_t> not_finite;
    std::unique_ptr<MediaPlan> media;
    int n_faults = 0; // in upstream, with an input alone

    std::atomic<bool> abort{false};
    std::atomic<int64_t> n_done{0}; // tokens

    // under the engine's mutex
    size_t number = 0;     // in the queue
    bool started = false;  // has been in a micro-batch
    bool computed = false; // is in the one that is being computed
    bool done = false;
    bool closed = false;
    bool told = true; // on_done has returned, or there is none
    gge_done_fn on_done = nullptr;
    void *user_data = nullptr;
    std::shared_ptr<Job> next_ended;
    std::condition_variable changed; // who waits for the job
};

} // namespace gge
