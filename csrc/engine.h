// The queue: callers on one side, the workers' threads on the other.
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

    // A worker, with its copy of the model, and its thread.
    struct Seat {
        std::unique_ptr<Worker> worker;
        std::thread thread;
        Clock::time_point since = Clock::now();  // it computes, or waits
        std::vector<std::shared_ptr<Job>> ended; // with the last turn; the worker's own
        bool computes = false;
        bool is_lost = false; // the device, so that it takes no more turns
    };

    std::vector<Seat> make_seats(const EngineOptions &options);

    // callers
    void enqueue(const std::shared_ptr<Job> &job, bool bounded);
    void wait(Job &job);

    // with the mutex held
    void stop(Job &job) noexcept;
    void stop_computing(Job &job) noexcept;
    std::shared_ptr<Job> end(Job &job) noexcept; // whose callers are to be woken
    void stop_all() noexcept;
    void clock(Seat &seat, bool computes) noexcept;

    // a worker's thread
    void work(Seat &seat) noexcept;
    bool takes_turns(const Seat &seat) const noexcept { return !closing_ && !seat.is_lost; }
    static void wake_callers(Seat &seat) noexcept;
    bool begin_turn(Seat &seat) noexcept;
    void end_turn(Seat &seat) noexcept;

    // what a worker asks for
    void stop_with(Worker &worker, Job &job) noexcept override;
    int64_t take_longer(Job &job, int64_t n) noexcept override;
    int64_t longest_of_jobs() noexcept override;

    const std::shared_ptr<const Model> model_;
    const GraphsChoice graphs_;
    Budget budget_; // settled by the constructor
    const gge_attention attention_;
    std::vector<Seat> seats_; // of each copy of the model

    mutable std::mutex mutex_;
    std::condition_variable wake_; // workers wait for jobs
    std::condition_variable idle_; // drain() waits for their end
    Teller teller_{mutex_};
    Scheduler scheduler_;
    std::vector<std::shared_ptr<Job>> jobs_; // by number; NULL: free
    int64_t n_jobs_ = 0;
    gge_engine_stats stats_{};
    bool closing_ = false;
    bool draining_ = false;
    bool joined_ = false;  // the threads, or somebody does so
    size_t n_working_ = 0; // seats that are not lost
};

} // namespace gge
