// Which inputs of which jobs make the next micro-batch. Pure: no model, no thread, no clock.
#pragma once

#include "planner.h"

namespace gge {

struct SchedulerLimits {
    int64_t n_ubatch = 0;   // tokens that inputs are packed up to
    int64_t n_seq_max = 0;  // sequences per micro-batch
    int64_t max_queued = 0; // tokens of bounded jobs
};

// Jobs whose kinds are equal share micro-batches.
struct JobKind {
    int32_t adapter = 0;
    float adapter_scale = 1.0F;
    bool rank = false;
    bool alone = false; // not even those of its kind: its owner makes the micro-batches, the scheduler gives it turns

    bool shares_with(const JobKind &other) const noexcept {
        return !alone && !other.alone && adapter == other.adapter && adapter_scale == other.adapter_scale &&
               rank == other.rank;
    }
};

// The rule: the smallest job goes first, but as long as it is not also the oldest, every fourth token is the oldest's. So
// a small job overtakes large ones that came before it and waits for two micro-batches of them at most, the one that runs
// and one that is the oldest's, however many there are; and each job in turn becomes the oldest, which has a quarter of
// the device at least. A job of less than a
// micro-batch counts as one, so that small ones go in the order in which they came, and so do jobs of equal size.
//
// A micro-batch takes of the first job the longest input, then the longest that still fits, and so on as plan() does;
// what room is left goes to the others, the smallest first, in the same way. An input that is longer than the budget is
// a micro-batch by itself. The order is looked at anew for each micro-batch.
class Scheduler {
public:
    struct Input {
        size_t job;
        int64_t i_input; // -1: it is the turn of a job that is alone
        int64_t n_tokens;
    };

    explicit Scheduler(const SchedulerLimits &limits);

    // Whether a bounded job of that many tokens has room in the queue. It counts with what it has left there, but at most
    // with three quarters of the limit, so that small ones still find room behind a huge one. An empty queue has room for
    // every job.
    bool has_room(int64_t n_tokens) const noexcept;

    // Adds a job and returns its number, which is that of a removed one if there is one.
    size_t add(Shelf inputs, const JobKind &kind, bool bounded);
    void remove(size_t job) noexcept;

    // Whether there is nothing to take.
    bool empty() const noexcept { return by_size_.size() == n_lent_; }

    // Takes out the next micro-batch; empty if there is none. Valid until the next call. Inputs of a job stand together.
    // A job that is alone has one turn at a time, until set_left().
    const std::vector<Input> &next() noexcept;

    // Takes out all inputs of a job.
    void drop(size_t job) noexcept;
    // Takes out one that has more than n tokens and returns its number; -1 if there is none.
    int64_t take_longer(size_t job, int64_t n) noexcept;
    // Ends the turn of a job that is alone, and notes what it has left. Without any inputs it gets no more turns.
    void set_left(size_t job, int64_t n_inputs, int64_t n_tokens) noexcept;

    // In the queue, not in a micro-batch yet.
    int64_t n_queued_inputs() const noexcept { return n_queued_inputs_; }
    int64_t n_queued_tokens() const noexcept { return n_queued_tokens_; }

private:
    struct Entry {
        Shelf shelf;
        JobKind kind;
        bool bounded = false;
        int64_t size = 0;     // in tokens, as it counts
        int64_t n_inputs = 0; // left
        int64_t n_tokens = 0;
        int64_t debit = 0; // of a turn of one that is alone
        bool lent = false; // it has that turn
    };

    size_t choose_first() noexcept;
    size_t first_there(const std::vector<size_t> &list) const noexcept;
    void take_back(Entry &entry) noexcept;
    void fill_from(size_t job, int64_t &room) noexcept;
    void note_left(size_t job, int64_t n_inputs, int64_t n_tokens) noexcept;
    int64_t counted(const Entry &entry) const noexcept;

    const SchedulerLimits limits_;
    std::vector<Entry> entries_;
    std::vector<size_t> free_;    // numbers of removed jobs
    std::vector<size_t> by_size_; // jobs that have inputs left, the smallest first, of equal ones the oldest
    std::vector<size_t> by_age_;  // the oldest first
    size_t n_lent_ = 0;
    std::vector<Input> next_;
    int64_t owed_ = 0;  // tokens of smaller jobs that the oldest has not had its share for
    int64_t debit_ = 0; // what a token of this micro-batch adds to that
    int64_t n_queued_inputs_ = 0;
    int64_t n_queued_tokens_ = 0;
    int64_t n_counted_ = 0; // tokens of bounded jobs, as they count
};

} // namespace gge
