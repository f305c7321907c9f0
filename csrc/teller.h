// The thread that calls what requests that are done are to call. Whatever that waits for, an interpreter's lock say, the
// worker computes meanwhile, and what is done by then is told of in one call.
#pragma once

#include "job.h"

#include <mutex>
#include <thread>

namespace gge {

class Teller {
public:
    // mutex: that of the jobs' engine, which is borrowed.
    explicit Teller(std::mutex &mutex);
    ~Teller();
    Teller(const Teller &) = delete;
    Teller &operator=(const Teller &) = delete;

    // Has on_done called for a job that has ended. With the mutex held.
    void add(std::shared_ptr<Job> job) noexcept;

    // Waits until all have been told of, and ends the thread. Without the mutex, not on the thread itself.
    void finish() noexcept;

    bool is_here() const noexcept { return std::this_thread::get_id() == id_; }

private:
    void work() noexcept;

    std::mutex &mutex_;
    std::condition_variable wake_;
    std::shared_ptr<Job> first_; // which knows the next
    Job *last_ = nullptr;
    bool finishing_ = false;
    std::thread::id id_;
    std::thread thread_;
};

} // namespace gge
