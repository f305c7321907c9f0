// The queue, the worker thread, and the way from tokens to the caller's rows.
#pragma once

#include "cuda_graphs.h"
#include "job.h"
#include "scheduler.h"

#include <chrono>
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

    const std::shared_ptr<const Model> &model() const noexcept { return model_; }

    // Blocks until the rows are there, borrowing tokens meanwhile. Any number of threads. Throws Error.
    void encode(const Tokens &tokens, const EncodeOptions &options, const RowsOut &out);

    // The same in steps, for callers that do something else meanwhile: prepare, submit, await, Job::report. on_done may
    // be NULL; it is called on the worker thread, without the mutex. Throw Error.
    std::shared_ptr<Job> prepare(std::shared_ptr<const Tokens> tokens, const EncodeOptions &options, const RowsOut &out,
                                 gge_done_fn on_done, void *user_data) const;
    void submit(const std::shared_ptr<Job> &job); // GGE_E_BUSY, GGE_E_CLOSED
    // Until it is done and on_done has returned. On the worker thread, GGE_E_BUSY if that would be a wait.
    void await(Job &job);

    void abort(Job &job) noexcept;
    // Ends the calls that are queued or running.
    void abort() noexcept;

    // Ends them too, and takes no more.
    void close() noexcept;
    // Takes no more, waits for those that there are, and closes.
    void drain() noexcept;

    gge_engine_info info() const;
    gge_engine_stats stats() const;

private:
    using Clock = std::chrono::steady_clock;

    // A piece of an input in a micro-batch.
    struct Share {
        Job *job;
        Piece piece;
    };

    // Of a piece, the rows of tokens that are read: n from begin.
    struct ReadRows {
        int64_t begin;
        int64_t n;
        bool pooled;
    };

    // What was computed.
    struct Counts {
        int64_t n_texts = 0;
        int64_t n_tokens = 0;
        int64_t n_microbatches = 0;
        int64_t n_tokens_offered = 0;
    };

    // callers
    void enqueue(const std::shared_ptr<Job> &job, bool bounded);
    void wait(Job &job);
    bool on_worker() const noexcept { return std::this_thread::get_id() == worker_id_; }

    // with the mutex held
    void stop(Job &job) noexcept;
    void end(Job &job) noexcept;
    void stop_all() noexcept;
    void clock(bool computes) noexcept;

    // the worker
    void work() noexcept;
    void tell_ended(std::unique_lock<std::mutex> &lock) noexcept;
    bool begin_turn() noexcept;
    void run_turn() noexcept;
    void end_turn() noexcept;
    void run_inputs();
    void run_media(Job &job);
    void run_media_batch(Job &job, size_t at);
    void retry_alone(const Error &error);
    void retry_not_finite(Job &job);
    void run_input(Job &job, int64_t i_input, bool tells);
    void fail(Job &job, int64_t i_input, const Error &error);
    static void tell_progress(Job &job);
    void compute(const std::vector<Share> &batch);
    void fill_tokens(const std::vector<Share> &batch);
    void write_rows(Job &job, const Piece &piece, const float *rows, size_t n);
    static ReadRows rows_to_read(const Job &job, const Piece &piece);
    void stop_with(Job &job) noexcept;
    bool make_room(Job &job, int64_t longest, int64_t n_tokens);
    void fit_session(int64_t longest, bool rank);
    int64_t longest_of_late();
    void open_session(const SessionOptions &options);
    void drop_session() noexcept;
    void wipe();
    PlanLimits limits(bool rank) const;

    const std::shared_ptr<const Model> model_;
    const bool may_split_; // a long input may span micro-batches
    const int64_t n_ctx_;  // longest input that is accepted
    const GraphsChoice graphs_;
    SessionOptions first_session_; // n_ubatch: the budget of micro-batches; settled by the constructor
    const gge_attention attention_;
    const int64_t n_tower_batch_;

    // Owned by the worker once it runs.
    std::unique_ptr<BackendSession> session_;
    SessionOptions session_options_;  // n_ctx: room for the longest input of late
    int64_t n_tokens_since_long_ = 0; // of jobs since one with an input beyond the budget
    std::unique_ptr<Towers> towers_;
    TokenBatch tokens_;
    std::vector<Share> turn_;      // what the scheduler gave, input by input
    std::vector<Job *> turn_jobs_; // each once
    std::vector<Share> batch_;     // of a turn that is more than one micro-batch, or that is computed again
    std::vector<Piece> pieces_;    // of a micro-batch with media
    Counts counts_;                // of the turn
    int64_t n_graphs_before_ = 0;  // reused by sessions that are gone
    int64_t n_graphs_ = 0;         // and by this one

    std::atomic<bool> stop_{false}; // what is being computed

    mutable std::mutex mutex_;
    std::condition_variable wake_; // the worker waits for jobs
    std::condition_variable idle_; // drain() waits for their end
    Scheduler scheduler_;
    std::vector<std::shared_ptr<Job>> jobs_; // by number; NULL: free
    int64_t n_jobs_ = 0;
    std::vector<Job *> computed_; // the jobs for which the worker computes right now
    std::shared_ptr<Job> ended_;  // the first of those whose callers are to be told, which knows the next
    Job *last_ended_ = nullptr;
    gge_engine_stats stats_{};
    Clock::time_point since_ = Clock::now(); // the worker computes, or waits
    bool computes_ = false;
    bool closing_ = false;
    bool draining_ = false;
    std::thread::id worker_id_;
    std::thread worker_;
};

} // namespace gge
