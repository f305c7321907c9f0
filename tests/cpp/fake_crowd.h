// Threads that use an engine over the fake model at once, and what comes of it.
#pragma once

#include "fake_engine.h"

#include <random>
#include <thread>

namespace fake {

class Crowd {
public:
    // n_texts: of a call, at most
    Crowd(const Setup &setup, size_t n_texts) : s_(setup), n_texts_(n_texts) {}

    // Waiting calls, requests and aborts, until n_enough results are right; then a close in the midst of it.
    void run(size_t n_threads, int n_enough) {
        std::vector<std::thread> threads;
        for (uint64_t seed = 0; seed < n_threads; ++seed) {
            threads.emplace_back([this, seed] { call_until_closed(seed); });
        }
        while (n_right_ < n_enough) {
            std::this_thread::yield();
        }
        closes_ = true;
        s_.engine->close();
        for (std::thread &thread : threads) {
            thread.join();
        }
        CHECK_EQ(n_wrong_.load(), 0);
    }

private:
    void call_until_closed(uint64_t seed) {
        std::mt19937_64 random(seed);
        try {
            while (true) {
                const IdLists texts = random_texts(random);
                const bool right = random() % 2 == 0 ? are_right(texts, s_.encode(s_.tokens(texts)))
                                                     : is_right_or_ended(texts, random() % 3 == 0);
                (right ? n_right_ : n_wrong_) += 1;
            }
        } catch (const gge::Error &e) {
            n_wrong_ += closes_ && e.status() == GGE_E_CLOSED ? 0 : 1;
        }
    }

    bool is_right_or_ended(const IdLists &texts, bool aborts) {
        Request request(s_, texts);
        if (aborts) {
            request.abort();
        }
        const gge_status status = request.finish();
        return (status == GGE_OK && are_right(texts, request.out)) || (status == GGE_E_ABORTED && aborts) ||
               (status == GGE_E_CLOSED && closes_);
    }

    // Short ones, and now and then one of several micro-batches.
    IdLists random_texts(std::mt19937_64 &random) const {
        IdLists texts(1 + random() % n_texts_);
        for (auto &text : texts) {
            const uint64_t most = random() % 25 == 0 ? 100 : 15;
            text = sequence(static_cast<int32_t>(random() % 100), static_cast<int32_t>(1 + random() % most));
        }
        return texts;
    }

    // As the rows of a call on its own, but for the number of sequences in the micro-batch.
    static bool are_right(const IdLists &texts, const std::vector<float> &out) {
        for (size_t i = 0; i < texts.size(); ++i) {
            const auto n = static_cast<float>(texts[i].size());
            if (out[4 * i] != static_cast<float>(texts[i].back()) || out[4 * i + 1] != n - 1 || out[4 * i + 2] != n) {
                return false;
            }
        }
        return true;
    }

    const Setup &s_;
    size_t n_texts_;
    std::atomic<int> n_right_{0};
    std::atomic<int> n_wrong_{0};
    std::atomic<bool> closes_{false};
};

} // namespace fake
