#include "check.h"
#include "inputs.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#if defined(__GLIBC__)
#include <pthread.h>
#endif

using namespace gge;

namespace {

constexpr int64_t n_inputs = 5000;
constexpr size_t much = 1 << 20; // bytes, enough for more threads than any test asks for

TokenizeOptions on(int32_t n_threads) {
    TokenizeOptions options;
    options.n_threads = n_threads;
    return options;
}

Tokens run(int64_t n, size_t n_bytes, const TokenizeOptions &options, const AddInput &add) {
    return add_inputs(n, n_bytes, options, [&] { return add; });
}

// The threads that add was called on.
class Threads {
public:
    void note() {
        const std::lock_guard<std::mutex> lock(mutex_);
        ids_.insert(std::this_thread::get_id());
        arrived_.notify_all();
    }

    // Goes on once that many threads have come here.
    void meet(size_t n) {
        note();
        std::unique_lock<std::mutex> lock(mutex_);
        CHECK(arrived_.wait_for(lock, std::chrono::seconds(30), [&] { return ids_.size() >= n; }));
    }

    size_t n() const { return ids_.size(); }
    bool only_this() const { return ids_ == std::set<std::thread::id>{std::this_thread::get_id()}; }

private:
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::set<std::thread::id> ids_;
};

// Input i has 1 + i % 7 ids, a medium if i % 11 is 0, and its own pooled rows if i % 13 is 0.
void add_varied(int64_t i, Tokens &tokens) {
    if (i % 11 == 0) {
        tokens.media.push_back({static_cast<int64_t>(tokens.ids.size()), 1 + i % 7, nullptr, static_cast<size_t>(i)});
    }
    tokens.ids.insert(tokens.ids.end(), static_cast<size_t>(1 + i % 7), static_cast<int32_t>(i));
    if (i % 13 == 0) {
        tokens.pooled[i] = {1, i};
    }
}

} // namespace

TEST(what_blocks_hold_is_joined_in_the_order_of_the_inputs) {
    for (const int32_t n_threads : {1, 2, 3, 8}) {
        const Tokens t = run(n_inputs, much, on(n_threads), add_varied);
        CHECK_EQ(t.n_texts(), n_inputs);
        CHECK_EQ(t.offsets.size(), static_cast<size_t>(n_inputs) + 1);
        bool same = true;
        for (int64_t i = 0; i < n_inputs; ++i) {
            same = same && t.n_tokens(i) == 1 + i % 7 && t.status[static_cast<size_t>(i)] == GGE_OK &&
                   t.n_media(i) == (i % 11 == 0 ? 1 : 0);
            for (int64_t k = t.offsets[static_cast<size_t>(i)]; k < t.offsets[static_cast<size_t>(i) + 1]; ++k) {
                same = same && t.ids[static_cast<size_t>(k)] == static_cast<int32_t>(i);
            }
        }
        CHECK(same);
        CHECK_EQ(t.media.size(), size_t{455});
        CHECK_EQ(t.media[1].begin, t.offsets[11]);
        CHECK_EQ(t.media.back().i_unit, size_t{4994});
        CHECK_EQ(t.media.back().begin, t.offsets[4994]);
        CHECK_EQ(t.pooled.size(), size_t{385});
        CHECK_EQ(t.pooled.at(4992).end, int64_t{4992});
    }
}

TEST(no_inputs_have_no_tokens) {
    const Tokens t = run(0, 0, on(4), add_varied);
    CHECK_EQ(t.n_texts(), int64_t{0});
    CHECK(t.offsets == std::vector<int64_t>({0}) && t.ids.empty());
}

TEST(much_text_is_shared_out_and_little_is_not) {
    Threads two;
    run(100, much, on(2), [&](int64_t, Tokens &) { two.meet(2); });
    CHECK_EQ(two.n(), size_t{2});
    const auto stays = [](int64_t n, size_t n_bytes, const TokenizeOptions &options) {
        Threads threads;
        run(n, n_bytes, options, [&](int64_t, Tokens &) { threads.note(); });
        return threads.only_this();
    };
    CHECK(stays(1, much, on(8)));
    CHECK(stays(1000, (1 << 16) - 1, on(8)));
    CHECK(stays(1000, 0, on(0)));
    CHECK(stays(1000, much, on(1)));
}

TEST(the_prompt_counts_as_text_of_every_input) {
    TokenizeOptions options = on(2);
    options.prompt = std::string(100, 'p');
    Threads threads;
    run(1000, 0, options, [&](int64_t, Tokens &) { threads.meet(2); });
    CHECK_EQ(threads.n(), size_t{2});
}

TEST(the_first_error_by_place_is_that_of_the_call) {
    const auto fails = [](int64_t i, Tokens &) {
        if (i == 37 || i == 40 || i > 3000) {
            throw Error(GGE_E_TOO_LONG, "input " + std::to_string(i), i);
        }
    };
    for (const int32_t n_threads : {1, 2, 8}) {
        for (int k = 0; k < 20; ++k) {
            CHECK_EQ(CHECK_THROWS(GGE_E_TOO_LONG, run(n_inputs, much, on(n_threads), fails)), "input 37");
        }
    }
}

TEST(an_error_ends_what_comes_behind_it) {
    std::atomic<int64_t> n_added{0};
    const auto fails = [&](int64_t i, Tokens &) {
        ++n_added;
        if (i == 0) {
            throw Error(GGE_E_INVALID, "the first", i);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    CHECK_THROWS(GGE_E_INVALID, run(n_inputs, much, on(2), fails));
    CHECK(n_added < n_inputs / 2);
}

TEST(errors_of_inputs_are_collected_but_others_fail_the_call) {
    std::vector<int32_t> status(static_cast<size_t>(n_inputs), -1);
    for (const int32_t n_threads : {1, 2, 8}) {
        TokenizeOptions options = on(n_threads);
        options.report.status = status.data();
        const Tokens t = run(n_inputs, much, options, [](int64_t i, Tokens &to) {
            if (i % 100 == 99) {
                throw Error(GGE_E_INVALID, "input " + std::to_string(i), i);
            }
            to.ids.push_back(0);
        });
        CHECK_EQ(t.messages.size(), size_t{50});
        CHECK_EQ(t.messages.at(4999), "input 4999");
        CHECK(t.status[99] == GGE_E_INVALID && t.n_tokens(99) == 0 && t.n_tokens(100) == 1);
        CHECK_THROWS(GGE_E_FORMAT, run(n_inputs, much, options, [](int64_t i, Tokens &) {
                         if (i == 4000) {
                             throw Error(GGE_E_FORMAT, "the vocabulary");
                         }
                     }));
        bool out_of_memory = false;
        try {
            run(n_inputs, much, options, [](int64_t i, Tokens &) {
                if (i == 4500) {
                    throw std::bad_alloc();
                }
            });
        } catch (const std::bad_alloc &) {
            out_of_memory = true;
        }
        CHECK(out_of_memory);
    }
}

namespace {

struct Asked {
    Threads threads;
    std::atomic<int> n{0};
    int limit = 1;
};

TokenizeOptions asking(Asked &asked, int32_t n_threads) {
    TokenizeOptions options = on(n_threads);
    options.callbacks.user_data = &asked;
    options.callbacks.abort = [](void *data) -> int32_t {
        auto *a = static_cast<Asked *>(data);
        a->threads.note();
        return ++a->n >= a->limit;
    };
    return options;
}

} // namespace

TEST(abort_is_asked_on_the_calling_thread_and_ends_all) {
    for (const int32_t n_threads : {1, 4}) {
        Asked asked;
        asked.limit = 3;
        std::atomic<int64_t> n_added{0};
        CHECK_THROWS(GGE_E_ABORTED, run(1'000'000, much, asking(asked, n_threads), [&](int64_t, Tokens &) {
                         ++n_added;
                         std::this_thread::sleep_for(std::chrono::milliseconds(1));
                     }));
        CHECK(asked.threads.only_this());
        CHECK_EQ(asked.n.load(), 3);
        CHECK(n_added < 1'000'000);
    }
}

TEST(abort_is_asked_while_only_other_threads_work) {
    Asked asked;
    asked.limit = 2;
    const std::thread::id caller = std::this_thread::get_id();
    Threads threads;
    const auto add = [&](int64_t, Tokens &) {
        threads.meet(2);
        while (std::this_thread::get_id() != caller && asked.n < asked.limit) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    };
    CHECK_THROWS(GGE_E_ABORTED, run(2, much, asking(asked, 2), add));
    CHECK(asked.threads.only_this());
}

#if defined(__GLIBC__)
TEST(threads_that_cannot_be_started_are_done_without) {
    pthread_attr_t attr;
    size_t stack = 0;
    CHECK_EQ(pthread_getattr_default_np(&attr), 0);
    CHECK_EQ(pthread_attr_getstacksize(&attr, &stack), 0);
    CHECK_EQ(pthread_attr_setstacksize(&attr, size_t{1} << 47), 0); // more than there are addresses
    CHECK_EQ(pthread_setattr_default_np(&attr), 0);
    Threads threads;
    const Tokens t = run(n_inputs, much, on(4), [&](int64_t i, Tokens &to) {
        threads.note();
        add_varied(i, to);
    });
    CHECK_EQ(pthread_attr_setstacksize(&attr, stack), 0);
    CHECK_EQ(pthread_setattr_default_np(&attr), 0);
    pthread_attr_destroy(&attr);
    CHECK(threads.only_this());
    CHECK_EQ(t.n_texts(), n_inputs);
}
#endif
