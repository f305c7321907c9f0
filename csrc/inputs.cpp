// Inputs are given out in blocks, in their order, to whichever thread is free. So when one fails, those before it are
// done or on their way, and the first failure by place is the one that a single thread would have met.
#include "inputs.h"

#include "abort_timer.h"
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace gge {
namespace {

// Keeps a thread busy for ten times as long as it takes to start one: half a millisecond of WordPiece, the fastest.
constexpr size_t bytes_per_thread = 1 << 15;

// Few enough inputs that threads end at about the same time.
constexpr int64_t blocks_per_thread = 16;
constexpr int64_t max_block = 1024;

int64_t n_threads_for(int64_t n, size_t n_bytes, int32_t n_threads) {
    const int64_t useful = std::min(n, static_cast<int64_t>(n_bytes / bytes_per_thread));
    if (useful < 2 || n_threads == 1) {
        return 1;
    }
    return std::min<int64_t>(useful, n_threads > 0 ? n_threads : default_n_threads());
}

void append(Tokens &tokens, Tokens &&block) {
    const auto n_before = static_cast<int64_t>(tokens.ids.size());
    tokens.ids.insert(tokens.ids.end(), block.ids.begin(), block.ids.end());
    for (size_t i = 1; i < block.offsets.size(); ++i) {
        tokens.offsets.push_back(n_before + block.offsets[i]);
    }
    tokens.status.insert(tokens.status.end(), block.status.begin(), block.status.end());
    tokens.messages.merge(block.messages);
    for (MediaSpan &span : block.media) {
        span.begin += n_before;
        tokens.media.push_back(std::move(span));
    }
    tokens.pooled.merge(block.pooled);
}

class SharedInputs {
public:
    SharedInputs(int64_t n, int64_t n_threads, const TokenizeOptions &options)
        : n_(n), block_size_(n_threads == 1 ? std::max<int64_t>(n, 1)
                                            : std::clamp<int64_t>(n / (n_threads * blocks_per_thread), 1, max_block)),
          blocks_(static_cast<size_t>((n + block_size_ - 1) / block_size_)), collects_(options.report.collects()),
          timer_(options.callbacks), end_(static_cast<int64_t>(blocks_.size())) {}

    // adders: of the calling thread and of the others, of which those that cannot be started are done without.
    void run(const std::vector<AddInput> &adders) {
        std::vector<std::thread> threads;
        threads.reserve(adders.size());
        try {
            for (size_t k = 1; k < adders.size(); ++k) {
                threads.emplace_back([this, &add = adders[k]] {
                    work(add, nullptr);
                    const std::lock_guard<std::mutex> lock(mutex_);
                    ++n_ended_;
                    ended_.notify_one();
                });
            }
        } catch (const std::exception &) { // no memory for a thread, or the system has no more of them
        }
        work(adders[0], &timer_);
        wait(threads.size());
        for (std::thread &thread : threads) {
            thread.join();
        }
        if (error_) {
            std::rethrow_exception(error_);
        }
    }

    Tokens merged() {
        if (blocks_.size() == 1) {
            return std::move(blocks_[0]);
        }
        size_t n_ids = 0;
        for (const Tokens &block : blocks_) {
            n_ids += block.ids.size();
        }
        Tokens tokens;
        tokens.ids.reserve(n_ids);
        tokens.offsets.reserve(static_cast<size_t>(n_) + 1);
        tokens.offsets.push_back(0);
        tokens.status.reserve(static_cast<size_t>(n_));
        for (Tokens &block : blocks_) {
            append(tokens, std::exchange(block, {}));
        }
        return tokens;
    }

private:
    // timer: of the calling thread alone
    void work(const AddInput &add, AbortTimer *timer) noexcept {
        for (int64_t b = next_++; b < end_; b = next_++) {
            try {
                fill(b, add, timer);
            } catch (const Error &e) {
                fail(e.status() == GGE_E_ABORTED ? -1 : b); // aborting ends all blocks
            } catch (...) {
                fail(b);
            }
        }
    }

    void fill(int64_t b, const AddInput &add, AbortTimer *timer) {
        Tokens &tokens = blocks_[static_cast<size_t>(b)];
        tokens.offsets.reserve(static_cast<size_t>(block_size_) + 1);
        tokens.offsets.push_back(0);
        tokens.status.reserve(static_cast<size_t>(block_size_));
        const int64_t end = std::min(n_, (b + 1) * block_size_);
        for (int64_t i = b * block_size_; i < end && b < end_; ++i) {
            if (timer != nullptr) {
                timer->check();
            }
            try {
                add(i, tokens);
                tokens.status.push_back(GGE_OK);
            } catch (const Error &e) {
                if (e.input_index() != i || !collects_) {
                    throw;
                }
                tokens.status.push_back(e.status());
                tokens.messages[i] = e.what();
            }
            tokens.offsets.push_back(static_cast<int64_t>(tokens.ids.size()));
        }
    }

    // What is thrown while block b is filled is the outcome, unless a block before it fails too.
    void fail(int64_t b) noexcept {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (b < end_) {
            end_ = b;
            error_ = std::current_exception();
        }
    }

    void wait(size_t n_threads) noexcept {
        std::unique_lock<std::mutex> lock(mutex_);
        while (n_ended_ < n_threads) {
            ended_.wait_for(lock, abort_interval);
            lock.unlock();
            try {
                timer_.check();
            } catch (...) {
                fail(-1);
            }
            lock.lock();
        }
    }

    const int64_t n_;
    const int64_t block_size_;
    std::vector<Tokens> blocks_;
    const bool collects_;
    AbortTimer timer_;
    std::atomic<int64_t> next_{0};
    std::atomic<int64_t> end_; // blocks from here on need not be filled

    std::mutex mutex_;
    std::exception_ptr error_;
    std::condition_variable ended_;
    size_t n_ended_ = 0;
};

} // namespace

Tokens add_inputs(int64_t n, size_t n_bytes, const TokenizeOptions &options, const std::function<AddInput()> &make) {
    n_bytes += static_cast<size_t>(n) * options.prompt.size();
    const int64_t n_threads = n_threads_for(n, n_bytes, options.n_threads);
    std::vector<AddInput> adders(static_cast<size_t>(n_threads));
    std::generate(adders.begin(), adders.end(), make);
    SharedInputs inputs(n, n_threads, options);
    inputs.run(adders);
    return inputs.merged();
}

} // namespace gge
