// One call as the engine sees it: what is asked for, and what has come of each input.
#pragma once

#include "media_rows.h"
#include "rows.h"

#include <condition_variable>
#include <mutex>

namespace gge {

// The way of a job with media, which makes its own micro-batches.
struct MediaPlan {
    Plan plan;
    MediaRows rows;
    size_t next = 0; // micro-batch
};

// What a worker needs to make rows of a job.
struct RowDesk {
    Pooler pooler;
    RowWriter writer;
    std::vector<int64_t> not_finite; // inputs
};

// Several workers may compute inputs of one job at a time, each of them its own.
struct Job {
    // Checks the call, and which inputs can be computed with a context of n_ctx. Throws Error; so does the first bad
    // input of a call that does not collect. What the options point to is borrowed until report().
    Job(const Model &model, std::shared_ptr<const Tokens> tokens, const EncodeOptions &options, const RowsOut &out,
        int64_t n_ctx, size_t n_workers = 1);

    bool rank() const noexcept { return pooling == GGE_POOLING_RANK; }
    bool has_media() const noexcept { return !tokens->media.empty(); }
    // Nothing more is to be computed.
    bool over() const noexcept { return n_left == 0 || abort || failed; }

    int64_t n_tokens_of(int64_t i) const { return n_tokens[static_cast<size_t>(i)]; }
    void *row(int64_t i) const;

    // Tokens of the longest input that has no more than that, 0 if there is none.
    int64_t longest_up_to(int64_t limit);

    // Notes that the row of input i is there.
    void succeed(int64_t i);
    // Notes that input i has no row, which ends a call that does not collect.
    void fail(int64_t i, gge_status why, const std::string &message);
    // Notes what ends the job, unless it is over.
    void fail(const std::exception_ptr &why);

    // Tells the caller of an ended job what came of it. Throws Error.
    void report();

    const std::shared_ptr<const Tokens> tokens;
    const EncodeOptions options;
    const RowsOut out;
    const gge_pooling pooling;
    const RowFormat format;

    int64_t n_total = 0;
    int64_t longest = 0;

    // The submitting thread's first, the workers' then, the reporting one's when the job is done. What is said of an
    // input is written by the one worker that computes it.
    std::vector<gge_status> status;
    std::vector<uint8_t> finished; // 1: the row is there, or the input has failed
    std::vector<int64_t> n_tokens; // per input, 0 for those that are not computed
    std::atomic<int64_t> n_left;   // inputs that are not finished
    std::atomic<int> n_faults{0};  // in upstream, with an input alone
    std::atomic<bool> failed{false};
    std::mutex failing; // what follows, and what sets n_tokens to 0
    std::map<int64_t, std::string> messages;
    int64_t n_failed = 0;
    std::exception_ptr error; // that is no input's own, or the call does not collect

    // the workers'
    std::vector<RowDesk> desks;       // of each
    std::unique_ptr<MediaPlan> media; // of the one that has the turn

    std::atomic<bool> abort{false};
    std::atomic<int64_t> n_done{0}; // tokens

    // under the engine's mutex
    size_t number = 0;    // in the queue
    bool started = false; // has been in a micro-batch
    int n_computing = 0;  // workers that have inputs of it in their turn
    bool done = false;
    bool closed = false;
    bool told = true; // on_done has returned, or there is none
    gge_done_fn on_done = nullptr;
    void *user_data = nullptr;
    std::shared_ptr<Job> next_ended;
    std::condition_variable changed; // who waits for the job
};

} // namespace gge
