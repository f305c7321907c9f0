// The compute state of an engine, and the way from the inputs of a turn to the caller's rows.
#pragma once

#include "budget.h"
#include "job.h"

namespace gge {

class Worker;

// What a worker asks of its engine during a turn. Takes the engine's mutex.
class WorkerHost {
public:
    // From now on the end of that job alone stops the worker.
    virtual void stop_with(Worker &worker, Job &job) noexcept = 0;
    // Takes an input of a job that has more than n tokens out of the queue and returns its number, -1 if there is none.
    virtual int64_t take_longer(Job &job, int64_t n) noexcept = 0;
    // Tokens of the longest input of the jobs that there are.
    virtual int64_t longest_of_jobs() noexcept = 0;

protected:
    ~WorkerHost() = default;
};

struct WorkerOptions {
    size_t number = 0; // of the worker, and of its copy of the model
    Budget budget;
    int64_t n_tower_batch = 0;
};

class Worker {
public:
    // What was computed.
    struct Counts {
        int64_t n_texts = 0;
        int64_t n_tokens = 0;
        int64_t n_microbatches = 0;
        int64_t n_tokens_offered = 0;
        int64_t n_graphs_reused = 0;
    };

    // session: the first one, opened. Borrows host and model.
    Worker(WorkerHost &host, const Model &model, const WorkerOptions &options, std::unique_ptr<BackendSession> session);

    // Of its copy of the model.
    size_t number() const noexcept { return options_.number; }

    // Begins a turn, which is what add() is called for until the next one: a micro-batch, an input that is longer, or
    // with i_input -1 what its job makes of it. With the engine's mutex held.
    void clear_turn() noexcept;
    void add(Job &job, const Piece &piece) noexcept;

    // Computes the turn. On the worker's thread.
    void run_turn() noexcept;

    // Of the turn. With the engine's mutex held.
    const std::vector<Job *> &jobs() const noexcept { return turn_jobs_; }
    const Counts &counts() const noexcept { return counts_; }

    // Whether the device has failed in several turns in succession.
    bool device_is_lost() const noexcept;

    // Stops if the jobs that it computes for are all over. With the engine's mutex held.
    void look_at_jobs() noexcept;
    // Computes for that one alone, or for none. With the engine's mutex held.
    void compute_for(Job *job) noexcept;

    // Frees the compute state. When no turn runs any more.
    void release() noexcept;

private:
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

    void fail_turn(const Error &error);
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

    RowDesk &desk(Job &job) const noexcept { return job.desks[options_.number]; }

    bool make_room(Job &job, int64_t longest, int64_t n_tokens);
    void fail_longer(Job &job, int64_t room, const std::string &lack);
    void fit_session(int64_t longest, bool rank);
    int64_t longest_of_late();
    void open_session(const SessionOptions &options);
    void drop_session() noexcept;
    void wipe();
    PlanLimits limits(bool rank) const;

    WorkerHost &host_;
    const Model &model_;
    const WorkerOptions options_;

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
    int64_t n_graphs_ = 0;         // reused by this session so far
    int n_device_faults_ = 0;      // turns in succession that it failed in

    std::atomic<bool> stop_{false}; // what is being computed
    std::vector<Job *> computed_;   // for these; under the engine's mutex
};

} // namespace gge
