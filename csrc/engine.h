// The queue: callers on one side, the worker's thread on the other.
#pragma once

#include "cuda_graphs.h"
#include "scheduler.h"
#include "teller.h"
#include "worker.h"

#include <chrono>
#include <mutex>
#include <thread>

namespace gge {

// What a model and an engine would hold once it has had an input as long as it has room for, without loading the
// weights. Throws Error.
gge_memory estimate(const std::string &path, const LoadOptions &load, const EngineOptions &options);

class Engine final : private WorkerHost {
public:
    Engine(std::shared_ptr<const Model> model, const EngineOptions &options);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    const std::shared_ptr<const Model> &model() const noexcept { return model_; }

    // Blocks until the rows are there, borrowing tokens meanwhile. Any number of threads. Throws Error.
    void encode(const Tokens &tokens, const EncodeOptions &options, const RowsOut &out);

    // The same in steps, for callers that do something else meanwhile: prepare, submit, await, Job::report. on_done may
    // be NULL; it is called on the teller's thread, without the mutex. Throw Error.
    std::shared_ptr<Job> prepare(std::shared_ptr<const Tokens> tokens, const EncodeOptions &options, const RowsOut &out,
                                 gge_done_fn on_done, void *user_data) const;
    void submit(const std::shared_ptr<Job> &job); // GGE_E_BUSY, GGE_E_CLOSED
    // Until it is done and on_done has returned. In an on_done, GGE_E_BUSY if that would be a wait.
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

    std::unique_ptr<Worker> open_worker(const EngineOptions &options);

    // callers
    void enqueue(const std::shared_ptr<Job> &job, bool bounded);
    void wait(Job &job);

    // with the mutex held
    void stop(Job &job) noexcept;
    std::shared_ptr<Job> end(Job &job) noexcept; // whose callers are to be woken
    void stop_all() noexcept;
    void clock(bool computes) noexcept;

    // the worker's thread
    void work() noexcept;
    void wake_callers() noexcept;
    bool begin_turn() noexcept;
    void end_turn() noexcept;

    // what the worker asks for
    void stop_with(Worker &worker, Job &job) noexcept override;
    void drop_longer(Job &job, int64_t n) noexcept override;
    int64_t longest_of_jobs() noexcept override;

    const std::shared_ptr<const Model> model_;
    const GraphsChoice graphs_;
    Budget budget_; // settled by the constructor
    const gge_attention attention_;
    const std::unique_ptr<Worker> worker_;

    mutable std::mutex mutex_;
    std::condition_variable wake_; // the worker waits for jobs
    std::condition_variable idle_; // drain() waits for their end
    Teller teller_{mutex_};
    Scheduler scheduler_;
    std::vector<std::shared_ptr<Job>> jobs_; // by number; NULL: free
    int64_t n_jobs_ = 0;
    gge_engine_stats stats_{};
    Clock::time_point since_ = Clock::now(); // the worker computes, or waits
    bool computes_ = false;
    bool closing_ = false;
    bool draining_ = false;
    std::vector<std::shared_ptr<Job>> ended_; // with the last turn; the worker's own
    std::thread thread_;
};

} // namespace gge
