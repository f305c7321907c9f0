// The queue, the worker thread, and the way from tokens to the caller's rows.
#pragma once

#include "media_rows.h"
#include "planner.h"
#include "rows.h"
#include "tokens.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace gge {

// The session that an engine with these options ends up with once it has had an input of n_ctx tokens. Throws Error.
SessionOptions largest_session(const ModelFacts &facts, const EngineOptions &options);

// What a model and an engine would hold then, without loading the weights. Throws Error.
gge_memory estimate(const std::string &path, const LoadOptions &load, const EngineOptions &options);

class Engine {
public:
    Engine(std::shared_ptr<const Model> model, const EngineOptions &options);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    // Blocks until the rows are there. Any number of threads. Throws Error.
    void encode(const Tokens &tokens, const EncodeOptions &options, const RowsOut &out);

    // Ends the calls that are queued or running.
    void abort() noexcept;

    void close() noexcept;

    gge_engine_info info() const;

private:
    struct Job;

    // Of a piece, the rows of tokens that are read: n from begin.
    struct ReadRows {
        int64_t begin;
        int64_t n;
        bool pooled;
    };

    void work() noexcept;
    void run(Job &job);
    std::string find_room(const Job &job);
    void run_plan(Job &job, const Plan &plan);
    void compute(Job &job, const Microbatch &batch);
    void fill_tokens(const Job &job, const Microbatch &batch);
    void write_rows(Job &job, const Piece &piece, const float *rows, size_t n);
    void retry_alone(Job &job, const Microbatch &batch, const Error &error);
    void retry_not_finite(Job &job);
    void run_alone(Job &job, int64_t i_input);
    void wipe();
    void wait(Job &job);
    void finish(Job &job);
    static ReadRows rows_to_read(const Job &job, const Piece &piece);
    void fit_session(int64_t longest, bool rank);
    PlanLimits limits() const;
    bool splits(bool rank) const;

    const std::shared_ptr<const Model> model_;
    const bool may_split_;               // a long input may span micro-batches
    const int64_t n_ctx_;                // longest input that is accepted
    const SessionOptions first_session_; // n_ubatch: the budget of micro-batches
    const gge_attention attention_;

    // Owned by the worker once it runs.
    SessionOptions session_options_;  // n_ctx: room for the longest input of late
    int64_t n_tokens_since_long_ = 0; // of jobs since one with an input beyond the budget
    std::unique_ptr<BackendSession> session_;
    std::unique_ptr<MediaRows> media_;
    TokenBatch tokens_;

    mutable std::mutex mutex_;
    std::condition_variable wake_; // the worker waits for jobs
    std::deque<std::shared_ptr<Job>> queue_;
    std::shared_ptr<Job> running_;
    bool closing_ = false;
    std::thread worker_;
};

} // namespace gge
