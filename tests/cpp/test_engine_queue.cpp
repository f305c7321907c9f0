// What callers of one engine have to do with each other.
#include "check.h"
#include "fake_crowd.h"

#include <cmath>

using namespace gge;
using fake::raw;
using fake::Request;
using fake::sequence;
using fake::Setup;
using fake::small;

namespace {

using Inputs = fake::IdLists;
using Batches = std::vector<std::vector<int32_t>>;

// An engine whose worker is held by a request until open(), so that all that is queued meanwhile is there at once.
struct Held : Setup {
    explicit Held(EngineOptions options = small(), const std::function<void(fake::Model &)> &change = {})
        : Setup(options, change), gate(*this, Inputs{{fake::id_gate}}) {
        wait_for_slow();
    }

    void open() {
        log.n_gate = 1;
        CHECK_EQ(gate.finish(), GGE_OK);
    }

    // Those after the gate.
    Batches batches() {
        Batches all = log.get_batches();
        all.erase(all.begin());
        return all;
    }

    Request gate;
};

void causal(fake::Model &) {}

void cacheless(fake::Model &m) {
    m.facts().cacheless = true;
}

void adapters(fake::Model &m) {
    m.facts().n_adapters = 2;
}

} // namespace

TEST(inputs_of_several_calls_share_micro_batches) {
    Held s;
    Request a(s, Inputs{{1}, {2, 3}});
    Request b(s, Inputs{{4}});
    Request c(s, Inputs{{5, 6, 7}});
    s.open();
    for (Request *r : {&a, &b, &c}) {
        CHECK_EQ(r->finish(), GGE_OK);
    }
    CHECK(s.batches() == (Batches{{2, 3, 1, 4, 5, 6, 7}}));
    CHECK(a.out == (std::vector<float>{1, 0, 1, 4, 3, 1, 2, 4}));
    CHECK(b.out == (std::vector<float>{4, 0, 1, 4}));
    CHECK(c.out == (std::vector<float>{7, 2, 3, 4}));
}

TEST(calls_that_share_a_micro_batch_keep_their_own_pooling_and_format) {
    Held s;
    EncodeOptions mean = raw(GGE_POOLING_MEAN);
    EncodeOptions unit = raw(GGE_POOLING_CLS);
    unit.normalize = GGE_ON;
    unit.truncate_dim = 1;
    const std::vector<float> weight = {2, 0, 0, 0};
    EncodeOptions projected = raw();
    projected.projection = weight.data();
    projected.n_projection = 1;
    Request a(s, Inputs{{10, 20}}, mean);
    Request b(s, Inputs{{7, 8}}, unit);
    Request c(s, Inputs{{30, 40}}, raw(GGE_POOLING_NONE));
    Request d(s, Inputs{{50, 60}}, projected);
    s.open();
    for (Request *r : {&a, &b, &c, &d}) {
        CHECK_EQ(r->finish(), GGE_OK);
    }
    CHECK_EQ(s.batches().size(), size_t{1});
    CHECK(a.out == (std::vector<float>{15, 0.5F, 1.5F, 4}));
    CHECK(b.out == (std::vector<float>{1, -1, -1, -1}));
    CHECK(c.out == (std::vector<float>{30, 0, 1, 4, 40, 1, 2, 4}));
    CHECK(d.out == (std::vector<float>{120, -1, -1, -1}));
}

TEST(calls_with_other_adapters_or_scores_do_not_share) {
    Held s(small(), [](fake::Model &m) {
        adapters(m);
        m.facts().n_cls_out = fake::n_cls_out;
    });
    EncodeOptions one = raw();
    one.adapter = 1;
    EncodeOptions half = one;
    half.adapter_scale = 0.5F;
    Request a(s, Inputs{{1}});
    Request b(s, Inputs{{2}}, one);
    Request c(s, Inputs{{3}}, half);
    Request d(s, Inputs{{4}}, raw(GGE_POOLING_RANK));
    Request e(s, Inputs{{5}}, one);
    s.open();
    for (Request *r : {&a, &b, &c, &d, &e}) {
        CHECK_EQ(r->finish(), GGE_OK);
    }
    CHECK(s.batches() == (Batches{{1}, {2, 5}, {3}, {4}}));
    CHECK(a.out[0] == 1 && b.out[0] == 1002 && c.out[0] == 503 && d.out[1] == 1 && e.out[0] == 1005);
}

TEST(a_small_call_is_not_stuck_behind_a_bulk_one) {
    Setup s;
    Inputs bulk(50, sequence(0, 16));
    bulk[0][0] = fake::id_gate;
    Request large(s, bulk);
    s.wait_for_slow();
    Request few(s, Inputs{{9}, {8}});
    s.log.n_gate = 1;
    CHECK_EQ(few.finish(), GGE_OK);
    CHECK_EQ(large.finish(), GGE_OK);
    CHECK(s.log.get_batches()[1] == (std::vector<int32_t>{9, 8})); // nothing of 16 tokens fits beside them
    CHECK_EQ(s.log.get_batches().size(), size_t{51});
}

TEST(what_a_small_call_leaves_of_a_micro_batch_goes_to_the_bulk_one) {
    Held s;
    Request large(s, Inputs{sequence(0, 16), sequence(0, 9), sequence(50, 9)});
    Request few(s, Inputs{{9}, {8}});
    s.open();
    CHECK(few.finish() == GGE_OK && large.finish() == GGE_OK);
    Batches wanted = {{9, 8}, sequence(0, 16), sequence(50, 9)};
    const auto nine = sequence(0, 9);
    wanted[0].insert(wanted[0].end(), nine.begin(), nine.end());
    CHECK(s.batches() == wanted);
}

TEST(nobody_comes_between_the_pieces_of_a_split_input) {
    Setup s;
    auto text = sequence(0, 40); // three micro-batches
    text[0] = fake::id_gate;
    Request large(s, Inputs{text});
    s.wait_for_slow();
    Request few(s, Inputs{{9}});
    s.log.n_gate = 1;
    CHECK(few.finish() == GGE_OK && large.finish() == GGE_OK);
    CHECK(s.log.sizes() == (std::vector<size_t>{16, 16, 8, 1}));
    CHECK(large.out == (std::vector<float>{39, 39, 40, 1}));
}

TEST(requests_beyond_the_bound_are_busy_until_there_is_room) {
    EngineOptions o = small();
    o.max_queued_tokens = 40;
    Held s(o);
    Request a(s, Inputs{sequence(0, 16)});
    Request b(s, Inputs{sequence(0, 16)});
    CHECK(check::contains(CHECK_THROWS(GGE_E_BUSY, Request(s, Inputs{sequence(0, 9)})), "9 tokens"));
    Request c(s, Inputs{sequence(0, 8)});
    CHECK_THROWS(GGE_E_BUSY, Request(s, Inputs{{1}}));
    std::thread waiting([&] { CHECK_EQ(s.encode(s.tokens({{7}}))[0], 7.0F); }); // it waits in the queue itself
    while (s.engine->stats().n_texts_queued < 4) {
    }
    a.abort();
    Request d(s, Inputs{sequence(0, 16)});
    s.open();
    waiting.join();
    CHECK(a.finish() == GGE_E_ABORTED && b.finish() == GGE_OK && c.finish() == GGE_OK && d.finish() == GGE_OK);
    Request e(s, Inputs{std::vector<std::vector<int32_t>>(10, sequence(0, 16))});
    CHECK_EQ(e.finish(), GGE_OK);
}

TEST(a_request_that_waits_in_the_queue_frees_its_place_at_once_when_it_is_aborted) {
    Held s;
    Request a(s, Inputs{{1}, {2}});
    Request b(s, Inputs{{3}});
    CHECK_EQ(s.engine->stats().n_texts_queued, 3);
    a.abort();
    a.abort();
    CHECK_EQ(s.engine->stats().n_texts_queued, 1);
    CHECK_EQ(a.finish(), GGE_E_ABORTED); // though the worker is busy
    s.open();
    CHECK_EQ(b.finish(), GGE_OK);
    CHECK(a.status == std::vector<int32_t>(2, GGE_E_ABORTED) && std::isnan(a.out[0]));
    CHECK(s.batches() == (Batches{{3}}));
    CHECK_EQ(s.engine->stats().n_calls_aborted, 1);
}

TEST(an_aborted_request_leaves_those_in_its_micro_batch_alone) {
    Held s;
    Request a(s, Inputs{{1}, sequence(0, 16)});
    Request b(s, Inputs{{fake::id_gate}, {2}});
    s.open();
    s.wait_for_slow(2);
    CHECK(s.batches() == (Batches{{fake::id_gate, 2, 1}}));
    a.abort();
    CHECK_EQ(s.engine->stats().n_texts_queued, 0);
    s.log.n_gate = 1;
    CHECK_EQ(b.finish(), GGE_OK);
    CHECK_EQ(a.finish(), GGE_E_ABORTED);
    CHECK(a.status == (std::vector<int32_t>{GGE_OK, GGE_E_ABORTED})); // what was computed is kept
    CHECK(a.out[0] == 1 && std::isnan(a.out[4]) && b.out[4] == 2);
    CHECK_EQ(s.batches().size(), size_t{1});
}

TEST(only_when_all_of_a_micro_batch_are_aborted_it_ends_early) {
    Held s;
    Request a(s, Inputs{{1}, sequence(0, 16)});
    Request b(s, Inputs{{fake::id_slow}});
    Request c(s, Inputs{{3}});
    s.open();
    s.wait_for_slow(2);
    CHECK(s.batches() == (Batches{{fake::id_slow, 3, 1}}));
    a.abort();
    b.abort();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(a.n_told == 0 && b.n_told == 0); // c still wants it
    c.abort();
    CHECK(a.finish() == GGE_E_ABORTED && b.finish() == GGE_E_ABORTED && c.finish() == GGE_E_ABORTED);
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
}

TEST(a_fault_of_one_call_is_no_other_calls) {
    struct Case {
        int32_t id;
        gge_status status;
    };
    for (const Case bad : {Case{fake::id_no_memory, GGE_E_MEMORY}, Case{fake::id_nan, GGE_E_NOT_FINITE},
                           Case{fake::id_device, GGE_E_DEVICE}}) {
        for (const auto kind : {causal, cacheless}) {
            Held s(small(), kind);
            Request a(s, Inputs{{1}});
            Request b(s, Inputs{{2}, {bad.id}});
            EncodeOptions one = raw();
            const Tokens t = s.tokens({{bad.id}});
            std::thread raises([&] { CHECK_THROWS(bad.status, s.encode(t, one)); }); // it does not collect
            while (s.engine->stats().n_texts_queued < 4) {
            }
            s.open();
            raises.join();
            CHECK(a.finish() == GGE_OK && b.finish() == GGE_OK);
            CHECK(a.status == std::vector<int32_t>{GGE_OK});
            CHECK(b.status == (std::vector<int32_t>{GGE_OK, bad.status}));
            CHECK(a.out[0] == 1 && b.out[0] == 2 && std::isnan(b.out[4]));
            CHECK_EQ(s.engine->stats().n_texts_failed, 2);
        }
    }
}

TEST(an_input_that_finds_no_memory_fails_no_other_call) {
    Held s(small(), [](fake::Model &m) {
        cacheless(m);
        m.n_ubatch_limit = 300;
    });
    Request a(s, Inputs{sequence(0, 600), sequence(0, 200), {1}});
    Request b(s, Inputs{sequence(0, 100)});
    s.open();
    CHECK(a.finish() == GGE_OK && b.finish() == GGE_OK);
    CHECK(a.status == (std::vector<int32_t>{GGE_E_MEMORY, GGE_OK, GGE_OK}));
    CHECK(b.status == std::vector<int32_t>{GGE_OK} && b.out[2] == 100);
}

TEST(a_grown_session_is_kept_while_a_job_with_a_long_input_waits) {
    Held s(small(), cacheless);
    Request first(s, Inputs{sequence(0, 300)});
    Request second(s, Inputs{sequence(0, 300), sequence(0, 299)});
    std::vector<std::unique_ptr<Request>> few;
    for (int32_t i = 0; i < 50; ++i) {
        few.push_back(std::make_unique<Request>(s, Inputs{sequence(i, 16)}));
    }
    s.open();
    CHECK(first.finish() == GGE_OK && second.finish() == GGE_OK);
    for (const auto &request : few) {
        CHECK_EQ(request->finish(), GGE_OK);
    }
    CHECK(s.log.capacities() == (std::vector<size_t>{16, 512}));
}

TEST(close_ends_all_requests_and_tells_each_once) {
    Held s;
    std::vector<std::unique_ptr<Request>> requests;
    for (int32_t i = 0; i < 20; ++i) {
        requests.push_back(std::make_unique<Request>(s, Inputs{{i}, sequence(i, 16)}));
    }
    std::thread waiting([&] { CHECK_THROWS(GGE_E_CLOSED, s.encode(s.tokens({{7}}))); });
    while (s.engine->stats().n_texts_queued < 41) {
    }
    s.engine->close();
    waiting.join();
    CHECK_EQ(s.gate.n_told.load(), 1); // before close returned
    CHECK_EQ(s.gate.finish(), GGE_E_CLOSED);
    for (const auto &request : requests) {
        CHECK_EQ(request->n_told.load(), 1);
        CHECK_EQ(request->finish(), GGE_E_CLOSED);
        CHECK(request->status == std::vector<int32_t>(2, GGE_E_CLOSED));
    }
    CHECK_THROWS(GGE_E_CLOSED, Request(s, Inputs{{1}}));
    CHECK_EQ(s.engine->stats().n_calls_aborted, 0);
}

TEST(drain_finishes_what_is_queued_and_takes_no_more) {
    Held s;
    Request a(s, Inputs{{1}, sequence(0, 16)});
    std::thread other([&] { s.engine->drain(); });
    const auto tokens = std::make_shared<const Tokens>(s.tokens({{2}}));
    std::vector<float> out(4);
    gge_status late = GGE_OK;
    while (late == GGE_OK) {
        const auto job = s.engine->prepare(tokens, raw(), {out.data(), 1, 4}, nullptr, nullptr);
        try {
            s.engine->submit(job);
            s.engine->abort(*job);
        } catch (const Error &e) {
            late = e.status();
        }
    }
    CHECK_EQ(late, GGE_E_CLOSED);
    CHECK_EQ(a.n_told.load(), 0);
    s.open();
    other.join();
    CHECK_EQ(a.n_told.load(), 1);
    CHECK_EQ(a.finish(), GGE_OK);
    s.engine->drain();
}

TEST(close_cuts_a_drain_short) {
    Held s;
    Request a(s, Inputs{{1}});
    std::thread other([&] { s.engine->drain(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    s.engine->close();
    other.join();
    CHECK_EQ(a.finish(), GGE_E_CLOSED);
    CHECK_EQ(s.gate.finish(), GGE_E_CLOSED);
}

namespace {

// Requests that each start the next one from on_done.
struct Chain {
    static void next(void *const *chains, int64_t n) {
        std::for_each(chains, chains + n, [](void *one) { static_cast<Chain *>(one)->step(); });
    }

    void step() {
        if (job != nullptr) {
            engine->await(*job); // done: no wait
            job->report();
            ++n_finished;
        }
        if (n_finished == 100) {
            ended = true;
            return;
        }
        job = engine->prepare(tokens, raw(), {out.data(), 1, 4}, next, this);
        engine->submit(job);
    }

    Engine *engine;
    std::shared_ptr<const Tokens> tokens;
    std::vector<float> out = std::vector<float>(4);
    std::shared_ptr<Job> job;
    int n_finished = 0;
    std::atomic<bool> ended{false};
};

} // namespace

TEST(a_request_may_be_finished_and_the_next_one_started_when_it_is_done) {
    const Setup s;
    Chain chain;
    chain.engine = s.engine.get();
    chain.tokens = std::make_shared<const Tokens>(s.tokens({{5}}));
    chain.step();
    while (!chain.ended) {
    }
    CHECK_EQ(chain.out[0], 5.0F);
    CHECK_EQ(s.engine->stats().n_calls, 100);
}

TEST(the_engines_own_thread_never_waits_for_itself) {
    Setup s;
    struct State {
        Setup *s;
        Request *other = nullptr;
        std::atomic<int> n_refused{0};
    } state{&s};
    const auto tokens = std::make_shared<const Tokens>(s.tokens({{fake::id_gate}}));
    std::vector<float> out(4);
    const auto job = s.engine->prepare(
        tokens, raw(), {out.data(), 1, 4},
        [](void *const *data, int64_t) {
            auto &seen = *static_cast<State *>(*data);
            CHECK_THROWS(GGE_E_BUSY, seen.s->engine->await(*seen.other->job));
            CHECK_THROWS(GGE_E_BUSY, seen.s->encode(seen.s->tokens({{1}})));
            seen.s->engine->close(); // begins to
        },
        &state);
    s.engine->submit(job);
    s.wait_for_slow();
    Request other(s, Inputs{{fake::id_gate}});
    state.other = &other;
    s.log.n_gate = 1;
    s.engine->await(*job);
    job->report();
    CHECK_EQ(other.finish(), GGE_E_CLOSED);
    s.engine->close();
}

TEST(who_is_told_of_a_request_keeps_nobody_waiting_for_the_device) {
    const Setup s;
    std::atomic<bool> goes_on{false};
    const auto tokens = std::make_shared<const Tokens>(s.tokens({{1}}));
    std::vector<float> out(4);
    const auto job = s.engine->prepare(
        tokens, raw(), {out.data(), 1, 4},
        [](void *const *flag, int64_t) {
            while (!*static_cast<std::atomic<bool> *>(*flag)) {
                std::this_thread::yield();
            }
        },
        &goes_on);
    s.engine->submit(job);
    CHECK_EQ(s.encode(s.tokens({{2}}))[0], 2.0F); // meanwhile
    goes_on = true;
    s.engine->await(*job);
}

TEST(requests_that_end_together_are_told_of_in_one_call) {
    Held s;
    struct Told {
        int n_requests = 0;
        int n_calls = 0;
    };
    Told told;
    const auto tokens = std::make_shared<const Tokens>(s.tokens({{1}}));
    std::vector<float> out(4);
    std::vector<std::shared_ptr<Job>> jobs;
    for (int i = 0; i < 600; ++i) {
        jobs.push_back(s.engine->prepare(
            tokens, raw(), {out.data(), 1, 4},
            [](void *const *data, int64_t n) {
                CHECK(std::all_of(data, data + n, [&](void *one) { return one == *data; }));
                auto &seen = *static_cast<Told *>(*data);
                seen.n_requests += static_cast<int>(n);
                ++seen.n_calls;
            },
            &told));
        s.engine->submit(jobs.back());
    }
    s.engine->abort();
    for (const auto &job : jobs) {
        s.engine->await(*job);
    }
    CHECK_EQ(told.n_requests, 600);
    CHECK(told.n_calls < 60);
}

TEST(a_request_without_anything_to_compute_is_done_too) {
    const Setup s;
    Request none(s, Inputs{});
    CHECK_EQ(none.finish(), GGE_OK);
    Request empty(s, Inputs{{}, {}});
    CHECK_EQ(empty.finish(), GGE_OK);
    CHECK(empty.status == std::vector<int32_t>(2, GGE_E_EMPTY));
    CHECK_EQ(s.engine->stats().n_texts_failed, 2);
}

TEST(a_bad_input_of_a_request_that_does_not_collect_is_told_at_once) {
    const Setup s;
    std::vector<float> out(8);
    const auto tokens = std::make_shared<const Tokens>(s.tokens({{1}, {}}));
    CHECK(check::contains(
        CHECK_THROWS(GGE_E_EMPTY, s.engine->prepare(tokens, raw(), {out.data(), 2, 4}, nullptr, nullptr)), "text 1"));
    EncodeOptions o = raw();
    o.callbacks.progress = [](void *, int64_t, int64_t) {};
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, s.engine->prepare(tokens, o, {}, nullptr, nullptr)), "progress"));
}

TEST(counters_tell_what_was_done_and_what_waits) {
    Held s;
    gge_engine_stats stats = s.engine->stats();
    CHECK(stats.n_calls_running == 1 && stats.n_calls_queued == 0 && stats.n_texts_queued == 0);
    Request a(s, Inputs{sequence(0, 10), sequence(0, 5)});
    Request b(s, Inputs{sequence(0, 40), {}});
    stats = s.engine->stats();
    CHECK(stats.n_calls_queued == 2 && stats.n_texts_queued == 3 && stats.n_tokens_queued == 55);
    CHECK(stats.n_texts == 0 && stats.n_tokens == 0 && stats.n_microbatches == 0 && stats.n_calls == 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(s.engine->stats().seconds_computing > 0.01); // though no micro-batch has ended
    s.open();
    CHECK(a.finish() == GGE_OK && b.finish() == GGE_OK);
    stats = s.engine->stats();
    CHECK_EQ(stats.n_texts, 4);
    CHECK_EQ(stats.n_texts_failed, 1);
    CHECK_EQ(stats.n_tokens, 1 + 15 + 40);
    CHECK_EQ(stats.n_microbatches, 1 + 1 + 3);
    CHECK_EQ(stats.n_tokens_offered, 5 * 16);
    CHECK_EQ(stats.n_calls, 3);
    CHECK(stats.n_calls_queued == 0 && stats.n_calls_running == 0 && stats.n_tokens_queued == 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(s.engine->stats().seconds_waiting > stats.seconds_waiting);
    CHECK_EQ(s.engine->stats().seconds_computing, stats.seconds_computing);
}

TEST(rows_of_many_threads_are_those_of_calls_on_their_own) {
    for (const auto kind : {causal, cacheless}) {
        const Setup s(small(), kind);
        fake::Crowd(s, 6).run(16, 600);
    }
}
