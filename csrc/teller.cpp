#include "teller.h"

namespace gge {
namespace {

constexpr size_t n_at_once = 256;

} // namespace

Teller::Teller(std::mutex &mutex) : mutex_(mutex) {
    thread_ = std::thread(&Teller::work, this);
    const std::lock_guard<std::mutex> lock(mutex_);
    id_ = thread_.get_id();
}

Teller::~Teller() {
    finish();
}

void Teller::add(std::shared_ptr<Job> job) noexcept {
    Job *const added = job.get();
    (first_ == nullptr ? first_ : last_->next_ended) = std::move(job);
    last_ = added;
    wake_.notify_one();
}

void Teller::finish() noexcept {
    std::thread thread;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        finishing_ = true;
        thread.swap(thread_);
    }
    wake_.notify_one();
    if (thread.joinable()) {
        thread.join();
    }
}

void Teller::work() noexcept {
    std::array<void *, n_at_once> data{};
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        wake_.wait(lock, [&] { return first_ != nullptr || finishing_; });
        if (first_ == nullptr) {
            return;
        }
        std::shared_ptr<Job> job = std::move(first_);
        const gge_done_fn on_done = job->on_done;
        Job *last = job.get();
        size_t n = 0;
        data[n++] = last->user_data;
        for (; n < n_at_once && last->next_ended != nullptr && last->next_ended->on_done == on_done; ++n) {
            last = last->next_ended.get();
            data[n] = last->user_data;
        }
        first_ = std::move(last->next_ended);
        lock.unlock();
        on_done(data.data(), static_cast<int64_t>(n));
        lock.lock();
        while (job != nullptr) {
            job->told = true;
            job->changed.notify_all();
            job = std::shared_ptr<Job>(std::move(job->next_ended));
        }
    }
}

} // namespace gge
