// One engine with a copy of the model on each of several devices.
#include "check.h"
#include "fake_crowd.h"
#include "fake_media.h"

#include <cmath>

using namespace gge;
using fake::raw;
using fake::Request;
using fake::sequence;

namespace {

using Inputs = fake::IdLists;

void causal(fake::Model &) {}

void cacheless(fake::Model &m) {
    m.facts().cacheless = true;
}

struct Setup : fake::Setup {
    explicit Setup(const std::function<void(fake::Model &)> &change = causal, size_t n_copies = 2)
        : fake::Setup(fake::small(), change, n_copies) {}
};

// Inputs that fill a micro-batch each.
Inputs bulk(int32_t n) {
    Inputs texts;
    for (int32_t i = 0; i < n; ++i) {
        texts.push_back(sequence(i, 16));
    }
    return texts;
}

// All copies are held by one request until open().
struct Held : Setup {
    explicit Held(const std::function<void(fake::Model &)> &change = causal, size_t n_copies = 2)
        : Setup(change, n_copies), n(static_cast<int>(n_copies)), gate(*this, texts_at_gate(n)) {
        wait_for_slow(n);
    }

    void open() {
        log.n_gate = n;
        CHECK_EQ(gate.finish(), GGE_OK);
    }

    static Inputs texts_at_gate(int n) {
        Inputs texts(static_cast<size_t>(n), sequence(0, 16));
        for (auto &text : texts) {
            text[0] = fake::id_gate;
        }
        return texts;
    }

    int n;
    Request gate;
};

int64_t count(const std::vector<int32_t> &status, gge_status which) {
    return std::count(status.begin(), status.end(), which);
}

} // namespace

TEST(copies_share_the_inputs_of_one_call_and_give_the_rows_of_one_copy) {
    for (const auto kind : {causal, cacheless}) {
        Inputs texts = bulk(40);
        for (int32_t i = 0; i < 40; ++i) {
            texts.push_back(sequence(i, 1 + i % 9));
        }
        texts.push_back(sequence(3, 100)); // longer than a micro-batch
        const Setup one(kind, 1);
        const Setup three(kind, 3);
        for (const gge_pooling pooling : {GGE_POOLING_LAST, GGE_POOLING_MEAN, GGE_POOLING_NONE}) {
            for (int round = 0; round < 10; ++round) {
                CHECK(three.encode(three.tokens(texts), raw(pooling)) == one.encode(one.tokens(texts), raw(pooling)));
            }
        }
    }
}

TEST(copies_compute_inputs_of_one_call_at_the_same_time) {
    Held s; // waits until both are at the gate
    CHECK_EQ(s.engine->stats().n_calls_running, 1);
    CHECK_EQ(s.engine->stats().n_texts_queued, 0);
    s.open();
    CHECK(s.gate.status == std::vector<int32_t>(2, GGE_OK));
}

TEST(a_small_call_is_computed_on_the_copy_that_is_free) {
    Setup s;
    Request held(s, Inputs{{fake::id_gate}});
    s.wait_for_slow();
    CHECK_EQ(s.encode(s.tokens({{7}}))[0], 7.0F);
    CHECK_EQ(held.n_told.load(), 0);
    s.log.n_gate = 1;
    CHECK_EQ(held.finish(), GGE_OK);
}

TEST(a_small_call_goes_before_what_is_left_of_a_large_one) {
    Setup s;
    Inputs texts = bulk(50);
    texts[0][0] = texts[1][0] = fake::id_gate;
    Request large(s, texts);
    s.wait_for_slow(2);
    Request few(s, Inputs{{9}, {8}});
    s.log.n_gate = 2;
    CHECK(few.finish() == GGE_OK && large.finish() == GGE_OK);
    const Inputs batches = s.log.get_batches();
    CHECK_EQ(batches.size(), size_t{51});
    const auto place = std::find(batches.begin(), batches.end(), std::vector<int32_t>{9, 8}) - batches.begin();
    CHECK(place == 2 || place == 3);
}

TEST(a_call_ends_once_when_its_last_inputs_are_done) {
    Setup s;
    Inputs texts = bulk(20);
    texts[0][0] = fake::id_gate;
    Request call(s, texts);
    s.wait_for_slow();
    while (s.log.get_batches().size() < 20) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK_EQ(call.n_told.load(), 0);
    CHECK_EQ(s.engine->stats().n_calls, 0);
    s.log.n_gate = 1;
    CHECK_EQ(call.finish(), GGE_OK);
    CHECK_EQ(s.engine->stats().n_calls, 1);
}

TEST(counters_are_sums_over_the_copies) {
    Held s;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(s.engine->stats().seconds_computing > 0.03);
    s.open();
    CHECK_EQ(s.encode(s.tokens(bulk(30))).size(), size_t{120});
    const gge_engine_stats stats = s.engine->stats();
    CHECK_EQ(stats.n_texts, 32);
    CHECK_EQ(stats.n_tokens, 32 * 16);
    CHECK_EQ(stats.n_microbatches, 32);
    CHECK_EQ(stats.n_tokens_offered, 32 * 16);
    CHECK_EQ(stats.n_calls, 2);
    CHECK(stats.n_calls_queued == 0 && stats.n_calls_running == 0 && stats.n_tokens_queued == 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(s.engine->stats().seconds_waiting > stats.seconds_waiting + 0.03);
}

TEST(progress_counts_what_all_copies_do) {
    const Setup s;
    std::vector<int64_t> seen;
    EncodeOptions o = raw();
    o.callbacks.user_data = &seen;
    o.callbacks.progress = [](void *to, int64_t done, int64_t total) {
        CHECK_EQ(total, 50 * 16);
        static_cast<std::vector<int64_t> *>(to)->push_back(done);
    };
    s.encode(s.tokens(bulk(50)), o);
    CHECK(std::is_sorted(seen.begin(), seen.end()));
    CHECK_EQ(seen.back(), 50 * 16);
}

TEST(an_abort_stops_the_copies_that_compute_for_that_call_alone) {
    Held s;
    auto slow = sequence(0, 16);
    slow[0] = fake::id_slow;
    Request large(s, Inputs{slow, {7}});
    Request small(s, Inputs{{fake::id_slow}});
    s.open();
    s.wait_for_slow(4); // one copy has the slow text, the other one what is small
    large.abort();
    CHECK_EQ(s.encode(s.tokens(bulk(3))).size(), size_t{12}); // on the copy that has stopped
    CHECK(large.n_told == 0 && small.n_told == 0);
    small.abort();
    CHECK(small.finish() == GGE_E_ABORTED && large.finish() == GGE_E_ABORTED);
    CHECK(large.status == std::vector<int32_t>(2, GGE_E_ABORTED));
}

TEST(an_abort_stops_all_copies_of_a_call) {
    Setup s;
    Inputs texts = bulk(30);
    texts[0][0] = texts[1][0] = fake::id_slow;
    Request call(s, texts);
    s.wait_for_slow(2);
    call.abort();
    CHECK_EQ(call.finish(), GGE_E_ABORTED);
    CHECK_EQ(count(call.status, GGE_E_ABORTED), 30);
    CHECK_EQ(s.log.get_batches().size(), size_t{2});
    CHECK_EQ(s.engine->stats().n_texts_queued, 0);
    CHECK_EQ(s.engine->stats().n_calls_aborted, 1);
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
}

TEST(an_error_that_ends_a_call_stops_the_other_copies) {
    Setup s;
    Inputs texts = bulk(30);
    texts[0][0] = fake::id_slow;
    texts[1][15] = fake::id_nan;
    const std::string message = CHECK_THROWS(GGE_E_NOT_FINITE, s.encode(s.tokens(texts)));
    CHECK(check::contains(message, "text 1"));
    CHECK(s.log.get_batches().size() < 30);
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
}

TEST(inputs_that_fail_on_one_copy_fail_alone) {
    Setup s;
    Inputs texts = bulk(60);
    for (const size_t i : {size_t{3}, size_t{20}, size_t{41}}) {
        texts[i][5] = fake::id_no_memory;
        texts[i + 1][15] = fake::id_nan;
        texts[i + 2][15] = fake::id_nan_in_company;
    }
    Request call(s, texts);
    CHECK_EQ(call.finish(), GGE_OK);
    CHECK_EQ(count(call.status, GGE_E_MEMORY), 3);
    CHECK_EQ(count(call.status, GGE_E_NOT_FINITE), 3);
    CHECK_EQ(count(call.status, GGE_OK), 54);
    CHECK(call.out[4 * 22] == fake::id_nan_in_company && std::isnan(call.out[4 * 21]));
    CHECK_EQ(s.engine->stats().n_texts_failed, 6);
    CHECK_EQ(s.engine->stats().n_texts, 54);
}

TEST(a_copy_whose_device_is_lost_fails_a_few_inputs_and_leaves_the_rest_to_the_others) {
    for (const bool opens : {true, false}) {
        Setup s;
        Request held(s, Inputs{{fake::id_gate}});
        s.wait_for_slow();
        Request other(s, Inputs{{fake::id_gate}});
        s.wait_for_slow(2);
        for (fake::Model *backend : s.backends) { // the one that gets through the gate finds it lost
            backend->is_lost = true;
            backend->n_ubatch_limit = opens ? 1 << 20 : 0;
        }
        s.log.n_gate = 1;
        while (held.n_told + other.n_told == 0) {
        }
        Request large(s, bulk(30));
        while (s.engine->stats().n_texts_queued > 27) {
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        CHECK_EQ(s.engine->stats().n_texts_queued, 27); // nobody takes them
        for (fake::Model *backend : s.backends) {
            backend->is_lost = false;
            backend->n_ubatch_limit = 1 << 20;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        CHECK_EQ(s.engine->stats().n_texts_queued, 27); // it is not asked again
        s.log.n_gate = 1;
        CHECK(held.finish() == GGE_OK && other.finish() == GGE_OK && large.finish() == GGE_OK);
        CHECK_EQ(count(large.status, GGE_OK), 27);
        CHECK(count(large.status, GGE_E_DEVICE) >= 1);
        CHECK_EQ(count(large.status, GGE_E_DEVICE) + count(large.status, GGE_E_MEMORY), 3);
    }
}

TEST(the_last_copy_stays_though_its_device_fails) {
    Setup s;
    for (fake::Model *backend : s.backends) {
        backend->is_lost = true;
    }
    for (int round = 0; round < 20; ++round) {
        Request call(s, bulk(4));
        CHECK_EQ(call.finish(), GGE_OK);
        CHECK_EQ(count(call.status, GGE_E_DEVICE), 4);
    }
    for (fake::Model *backend : s.backends) {
        backend->is_lost = false;
    }
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
}

TEST(the_copy_with_the_least_memory_has_the_word_on_the_budget) {
    EngineOptions o = fake::small();
    o.n_ubatch = 512;
    int n = 0;
    const fake::Setup s(o, [&](fake::Model &m) { m.n_ubatch_limit = ++n == 2 ? 200 : 1000; }, 3);
    CHECK_EQ(s.engine->info().n_ubatch, 128);
    CHECK_EQ(s.encode(s.tokens(Inputs(9, sequence(0, 100)))).size(), size_t{36});
}

TEST(only_the_copy_that_computes_a_long_input_grows) {
    Setup s(cacheless);
    CHECK_EQ(s.encode(s.tokens({sequence(0, 300)}))[2], 300.0F);
    CHECK(s.log.capacities() == (std::vector<size_t>{16, 16, 512}));
}

TEST(what_one_copy_has_no_room_for_fails_with_what_is_queued_of_that_length) {
    Held s([](fake::Model &m) {
        cacheless(m);
        m.n_ubatch_limit = 300;
    });
    Request call(s, Inputs{sequence(0, 600), sequence(0, 200), {1}, sequence(0, 700), sequence(0, 20)});
    s.open();
    CHECK_EQ(call.finish(), GGE_OK);
    CHECK(call.status == (std::vector<int32_t>{GGE_E_MEMORY, GGE_OK, GGE_OK, GGE_E_MEMORY, GGE_OK}));
}

TEST(close_ends_what_all_copies_compute_and_tells_each_call_once) {
    Held s;
    std::vector<std::unique_ptr<Request>> requests;
    for (int32_t i = 0; i < 20; ++i) {
        requests.push_back(std::make_unique<Request>(s, Inputs{{i}, sequence(i, 16)}));
    }
    s.engine->close();
    CHECK_EQ(s.gate.n_told.load(), 1); // before close returned
    CHECK_EQ(s.gate.finish(), GGE_E_CLOSED);
    for (const auto &request : requests) {
        CHECK_EQ(request->n_told.load(), 1);
        CHECK_EQ(request->finish(), GGE_E_CLOSED);
    }
    CHECK_THROWS(GGE_E_CLOSED, Request(s, Inputs{{1}}));
    s.engine->close();
}

TEST(drain_waits_for_all_copies) {
    Held s;
    Request call(s, bulk(20));
    std::thread other([&] { s.engine->drain(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK_EQ(call.n_told.load(), 0);
    s.log.n_gate = 2;
    other.join();
    CHECK(call.n_told == 1 && s.gate.n_told == 1);
    CHECK(call.finish() == GGE_OK && s.gate.finish() == GGE_OK);
}

namespace {

struct Told {
    explicit Told(const Setup &setup) : s(setup) {}

    static void tell(void *const *calls, int64_t n) {
        auto &seen = *static_cast<Told *>(calls[0]);
        CHECK_EQ(++seen.n_now, 1);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        CHECK_THROWS(GGE_E_BUSY, seen.s.encode(seen.s.tokens({{1}})));
        --seen.n_now;
        seen.n_told += static_cast<int>(n);
    }

    const Setup &s;
    std::atomic<int> n_now{0};
    std::atomic<int> n_told{0};
};

} // namespace

TEST(callbacks_run_one_at_a_time_and_no_worker_waits_for_another) {
    const Setup s(causal, 4);
    Told callbacks(s);
    const auto tokens = std::make_shared<const Tokens>(s.tokens(bulk(2)));
    std::vector<std::vector<float>> rows(50, std::vector<float>(8));
    std::vector<std::shared_ptr<Job>> jobs;
    for (auto &out : rows) {
        jobs.push_back(s.engine->prepare(tokens, raw(), {out.data(), 2, 4}, Told::tell, &callbacks));
        s.engine->submit(jobs.back());
    }
    for (const auto &job : jobs) {
        s.engine->await(*job);
        job->report();
    }
    CHECK_EQ(callbacks.n_told.load(), 50);
}

TEST(a_call_with_media_is_computed_by_one_copy_at_a_time) {
    fake::TowerLog tower_log;
    const auto change = [&](fake::Model &m) {
        fake::add_towers(m, tower_log);
        fake::small(m);
    };
    const auto first_values = [](const Setup &s, const Tokens &tokens) {
        const auto n = static_cast<int64_t>(tokens.ids.size());
        std::vector<float> out(static_cast<size_t>(4 * n));
        s.engine->encode(tokens, raw(GGE_POOLING_NONE), {out.data(), n, 4});
        std::vector<float> values;
        for (size_t t = 0; t < tokens.ids.size(); ++t) {
            values.push_back(out[4 * t]);
        }
        return values;
    };
    const auto inputs_of = [&](const Setup &s) {
        fake::Inputs inputs;
        for (uint8_t i = 0; i < 9; ++i) {
            inputs.push_back({fake::medium(fake::image(*s.model, 3, 3, i)), fake::text("ab")});
        }
        return fake::tokenize(s.model, inputs);
    };
    const Setup one(change, 1);
    const std::vector<float> expected = first_values(one, inputs_of(one));
    const Setup three(change, 3);
    const Tokens tokens = inputs_of(three);
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
        callers.emplace_back([&] {
            for (int round = 0; round < 5; ++round) {
                CHECK(first_values(three, tokens) == expected);
                CHECK_EQ(three.encode(three.tokens({{5}}))[0], 5.0F);
            }
        });
    }
    for (std::thread &caller : callers) {
        caller.join();
    }
    CHECK_EQ(three.engine->stats().n_texts, 4 * 5 * 10);
}

TEST(rows_of_many_threads_are_those_of_calls_on_their_own) {
    for (const auto kind : {causal, cacheless}) {
        const Setup s(kind, 3);
        fake::Crowd(s, 20).run(8, 3000);
    }
}
