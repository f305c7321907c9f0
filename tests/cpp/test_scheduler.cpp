#include "check.h"
#include "scheduler.h"

#include <algorithm>
#include <map>
#include <random>

using gge::JobKind;
using gge::plan;
using gge::Scheduler;
using gge::Shelf;

namespace {

using Counts = std::vector<int64_t>;
using Batch = std::vector<std::pair<size_t, int64_t>>; // job, input

constexpr int64_t no_bound = int64_t{1} << 40;

struct Setup {
    explicit Setup(int64_t n_ubatch, int64_t n_seq_max = 255, int64_t max_queued = no_bound)
        : scheduler({n_ubatch, n_seq_max, max_queued}) {}

    size_t add(const Counts &counts, const JobKind &kind = {}, bool bounded = false) {
        return scheduler.add(Shelf(counts), kind, bounded);
    }

    Batch next() {
        Batch batch;
        for (const Scheduler::Input &input : scheduler.next()) {
            batch.emplace_back(input.job, input.i_input);
            n_handed_out += input.n_tokens;
        }
        return batch;
    }

    Scheduler scheduler;
    int64_t n_handed_out = 0;
};

JobKind adapter(int32_t number, float scale = 1.0F) {
    return {number, scale, false, false};
}

} // namespace

TEST(nothing_queued_gives_no_micro_batch) {
    Setup s(8);
    CHECK(s.scheduler.empty());
    CHECK(s.next().empty());
    const size_t job = s.add({0, 0});
    CHECK(s.scheduler.empty() && s.next().empty());
    s.scheduler.remove(job);
}

TEST(limits_without_room_are_refused) {
    CHECK_THROWS(GGE_E_INTERNAL, Setup(0, 1));
    CHECK_THROWS(GGE_E_INTERNAL, Setup(1, 0));
}

TEST(a_job_alone_runs_in_the_micro_batches_of_its_plan) {
    std::mt19937_64 random(7);
    for (int round = 0; round < 300; ++round) {
        const auto n_ubatch = static_cast<int64_t>(1 + random() % 64);
        const auto n_seq_max = static_cast<int64_t>(1 + random() % 9);
        Counts counts(random() % 50);
        for (int64_t &n : counts) {
            n = static_cast<int64_t>(random() % 100);
        }
        Setup s(n_ubatch, n_seq_max);
        s.add(counts);
        const gge::Plan wanted = plan(counts, {n_ubatch, n_seq_max, false});
        for (size_t b = 0; b < wanted.size(); ++b) {
            const auto found = s.scheduler.next();
            CHECK_EQ(found.size(), wanted[b].size());
            for (size_t k = 0; k < std::min(found.size(), wanted[b].size()); ++k) {
                CHECK(found[k].i_input == wanted[b][k].i_input && found[k].n_tokens == wanted[b][k].end);
            }
        }
        CHECK(s.next().empty());
        CHECK_EQ(s.scheduler.n_queued_inputs(), 0);
        CHECK_EQ(s.scheduler.n_queued_tokens(), 0);
    }
}

TEST(jobs_share_a_micro_batch_the_smallest_first) {
    Setup s(10);
    const size_t large = s.add({4, 4, 4, 1});
    const size_t small = s.add({3});
    const size_t smallest = s.add({2}); // both of less than a micro-batch
    CHECK(s.next() == (Batch{{small, 0}, {smallest, 0}, {large, 0}, {large, 3}}));
    CHECK(s.next() == (Batch{{large, 1}, {large, 2}}));
    CHECK(s.scheduler.empty());
}

TEST(what_does_not_fit_is_left_for_the_next_and_shorter_ones_pass_it) {
    Setup s(10);
    const size_t first = s.add({6});
    const size_t second = s.add({7});
    const size_t third = s.add({4, 2});
    CHECK(s.next() == (Batch{{first, 0}, {third, 0}}));
    CHECK(s.next() == (Batch{{second, 0}, {third, 1}}));
}

TEST(a_small_job_overtakes_a_large_one_between_two_micro_batches) {
    Setup s(8);
    const size_t bulk = s.add(Counts(1000, 8));
    for (int i = 0; i < 10; ++i) {
        CHECK(s.next() == (Batch{{bulk, i}}));
    }
    const size_t small = s.add({5});
    CHECK(s.next()[0] == std::make_pair(small, int64_t{0}));
    CHECK(s.next() == (Batch{{bulk, 10}}));
}

TEST(at_most_one_micro_batch_of_large_jobs_comes_before_a_small_one_however_many_there_are) {
    Setup s(8);
    for (int i = 0; i < 50; ++i) {
        s.add(Counts(100, 8));
    }
    for (int i = 0; i < 1000; ++i) {
        s.next();
    }
    for (int i = 0; i < 20; ++i) { // one at a time, as fast as they are computed
        const size_t small = s.add({8});
        const bool is_first = s.next()[0].first == small;
        CHECK(is_first || s.next()[0].first == small);
        s.scheduler.remove(small);
    }
}

TEST(the_oldest_job_gets_a_quarter_of_what_smaller_ones_could_fill_alone) {
    Setup s(8);
    const size_t bulk = s.add(Counts(100, 8));
    std::vector<size_t> waiting;
    for (int b = 0; b < 400; ++b) {
        waiting.push_back(s.add({8}));
        const Batch batch = s.next();
        CHECK_EQ(batch.size(), size_t{1});
        CHECK_EQ(batch[0].first == bulk, b % 4 == 3);
        if (batch[0].first != bulk) {
            CHECK_EQ(batch[0].first, waiting.front()); // in the order in which they came
            s.scheduler.remove(waiting.front());
            waiting.erase(waiting.begin());
        }
    }
    s.scheduler.remove(bulk);
    CHECK_EQ(waiting.size(), size_t{100});
}

TEST(the_quarter_is_counted_in_tokens) {
    Setup s(8);
    const size_t old = s.add({80, 80, 80, 80});
    int64_t n_of_old = 0;
    int64_t n_of_small = 0;
    while (n_of_old < 320) {
        const size_t small = s.add({8});
        const auto batch = s.scheduler.next();
        (batch[0].job == old ? n_of_old : n_of_small) += batch[0].n_tokens;
        s.scheduler.remove(small);
    }
    CHECK_EQ(n_of_small, 3 * 240 + 24); // before the first, 24
}

TEST(what_the_oldest_had_is_not_held_against_the_next) {
    Setup s(8);
    const size_t old = s.add({800});
    const size_t next = s.add(Counts(200, 8));
    for (int b = 0; b < 4; ++b) {
        s.add({8});
        CHECK_EQ(s.next()[0].first == old, b == 3); // with much more than a quarter
    }
    for (int b = 0; b < 4; ++b) {
        s.add({8});
        CHECK_EQ(s.next()[0].first == next, b == 3);
    }
}

TEST(jobs_of_equal_size_go_in_the_order_of_arrival) {
    Setup s(4);
    const size_t a = s.add({4});
    const size_t b = s.add({4});
    const size_t c = s.add({2, 2});
    const size_t d = s.add({4, 4});
    const size_t e = s.add({4, 4});
    CHECK(s.next() == (Batch{{a, 0}}));
    CHECK(s.next() == (Batch{{b, 0}}));
    CHECK(s.next() == (Batch{{c, 0}, {c, 1}}));
    CHECK(s.next() == (Batch{{d, 0}}));
    CHECK(s.next() == (Batch{{d, 1}}));
    CHECK(s.next() == (Batch{{e, 0}}));
}

TEST(jobs_of_other_kinds_never_share) {
    Setup s(16);
    std::map<size_t, JobKind> kinds;
    for (const JobKind &kind : {adapter(0), adapter(1), adapter(1, 0.5F), JobKind{0, 1.0F, true, false}}) {
        for (int i = 0; i < 3; ++i) {
            kinds[s.add({2, 2}, kind)] = kind;
        }
    }
    for (int b = 0; b < 4; ++b) {
        const Batch batch = s.next();
        CHECK_EQ(batch.size(), size_t{6});
        for (const auto &[job, i] : batch) {
            CHECK(kinds[job].shares_with(kinds[batch[0].first]));
        }
    }
    CHECK(s.scheduler.empty());
}

TEST(a_long_input_is_a_micro_batch_by_itself) {
    Setup s(8);
    const size_t small = s.add({3});
    const size_t job = s.add({20, 2, 9});
    CHECK(s.next() == (Batch{{small, 0}, {job, 1}}));
    CHECK(s.next() == (Batch{{job, 0}}));
    const size_t late = s.add({3});
    CHECK(s.next() == (Batch{{late, 0}}));
    CHECK(s.next() == (Batch{{job, 2}}));
}

TEST(a_job_that_is_alone_gets_turns_until_it_has_nothing_left) {
    Setup s(8);
    JobKind alone;
    alone.alone = true;
    const size_t media = s.add({5, 5, 5}, alone);
    const Batch turn = {{media, -1}};
    CHECK(s.next() == turn);
    s.scheduler.set_left(media, 2, 10);
    CHECK_EQ(s.scheduler.n_queued_tokens(), 10);
    const size_t small = s.add({2});
    CHECK(s.next() == (Batch{{small, 0}})); // by the same rule
    CHECK(s.next() == turn);
    s.scheduler.set_left(media, 0, 0);
    CHECK(s.scheduler.empty());
}

TEST(a_job_that_is_alone_has_one_turn_at_a_time) {
    Setup s(8);
    JobKind alone;
    alone.alone = true;
    const size_t a = s.add({5, 5}, alone);
    const size_t b = s.add({5, 5, 5}, alone);
    CHECK(s.next() == (Batch{{a, -1}}));
    CHECK(s.next() == (Batch{{b, -1}}));
    CHECK(s.scheduler.empty()); // though both have inputs left
    CHECK(s.next().empty());
    const size_t small = s.add({2});
    CHECK(s.next() == (Batch{{small, 0}}));
    s.scheduler.set_left(b, 2, 10);
    CHECK(s.next() == (Batch{{b, -1}}));
    s.scheduler.set_left(a, 1, 5);
    s.scheduler.set_left(b, 1, 5);
    CHECK(s.next() == (Batch{{a, -1}}));
    s.scheduler.drop(a); // while it has its turn
    s.scheduler.remove(a);
    CHECK(s.next() == (Batch{{b, -1}}));
    s.scheduler.set_left(b, 0, 0);
    CHECK(s.scheduler.empty());
    CHECK_EQ(s.scheduler.n_queued_tokens(), 0);
}

TEST(removed_jobs_leave_nothing_behind_and_their_numbers_are_used_again) {
    Setup s(8);
    const size_t a = s.add({3, 3});
    const size_t b = s.add({4});
    s.scheduler.remove(a);
    CHECK_EQ(s.scheduler.n_queued_inputs(), 1);
    CHECK_EQ(s.scheduler.n_queued_tokens(), 4);
    CHECK_EQ(s.add({5, 1}), a);
    CHECK(s.next() == (Batch{{b, 0}, {a, 1}}));
    CHECK_EQ(s.scheduler.take_longer(a, 5), -1);
    CHECK_EQ(s.scheduler.take_longer(a, 4), 0);
    CHECK(s.scheduler.empty());
    s.add({7});
    s.scheduler.drop(b);
    s.scheduler.remove(b);
}

TEST(a_full_queue_has_no_room_until_inputs_have_left_it) {
    Setup s(10, 255, 100);
    CHECK(s.scheduler.has_room(1000)); // into an empty queue
    s.add(Counts(6, 10), {}, true);
    CHECK(s.scheduler.has_room(40) && !s.scheduler.has_room(41));
    s.add(Counts(4, 10), {}, true);
    CHECK(!s.scheduler.has_room(1));
    s.next();
    CHECK(s.scheduler.has_room(10) && !s.scheduler.has_room(11));
}

TEST(a_huge_job_leaves_room_for_small_ones) {
    Setup s(10, 255, 100);
    const size_t huge = s.add(Counts(100, 10), {}, true);
    CHECK(s.scheduler.has_room(25) && !s.scheduler.has_room(26));
    const size_t small = s.add({20}, {}, true);
    CHECK(s.scheduler.has_room(5) && !s.scheduler.has_room(6));
    s.scheduler.remove(huge);
    CHECK(s.scheduler.has_room(80) && s.scheduler.has_room(1000)); // which counts as 75
    s.scheduler.remove(small);
}

TEST(unbounded_jobs_take_no_room) {
    Setup s(10, 255, 100);
    s.add(Counts(100, 10));
    CHECK(s.scheduler.has_room(1000));
    s.add(Counts(10, 10), {}, true);
    CHECK(!s.scheduler.has_room(100));
}

TEST(many_small_jobs_fill_micro_batches) {
    std::mt19937_64 random(3);
    Setup s(512);
    int64_t n_tokens = 0;
    for (int i = 0; i < 2000; ++i) { // few long ones, most of them short
        const double x = static_cast<double>(random() % 1000 + 1) / 1000.0;
        const int64_t n = 4 + static_cast<int64_t>(508 * x * x * x);
        s.add({n});
        n_tokens += n;
    }
    int64_t n_batches = 0;
    while (!s.scheduler.empty()) {
        s.next();
        ++n_batches;
    }
    CHECK_EQ(s.n_handed_out, n_tokens);
    CHECK(n_tokens > 99 * 512 * n_batches / 100);
}

TEST(random_jobs_run_once_within_the_limits) {
    std::mt19937_64 random(11);
    for (int round = 0; round < 100; ++round) {
        const auto n_ubatch = static_cast<int64_t>(1 + random() % 64);
        const auto n_seq_max = static_cast<int64_t>(1 + random() % 9);
        Setup s(n_ubatch, n_seq_max);
        std::map<size_t, Counts> left; // by job
        std::map<size_t, JobKind> kinds;
        for (int step = 0; step < 200; ++step) {
            if (random() % 3 == 0) {
                Counts counts(random() % 20);
                for (int64_t &n : counts) {
                    n = static_cast<int64_t>(random() % 80);
                }
                const JobKind kind = adapter(static_cast<int32_t>(random() % 2));
                const size_t job = s.add(counts, kind);
                left[job] = counts;
                kinds[job] = kind;
            } else if (random() % 10 == 0 && !left.empty()) {
                s.scheduler.remove(left.begin()->first);
                left.erase(left.begin());
            }
            const auto batch = s.scheduler.next();
            int64_t sum = 0;
            for (const Scheduler::Input &input : batch) {
                int64_t &n = left.at(input.job).at(static_cast<size_t>(input.i_input));
                CHECK_EQ(n, input.n_tokens);
                CHECK(n > 0 && kinds[input.job].shares_with(kinds[batch[0].job]));
                n = 0;
                sum += input.n_tokens;
            }
            CHECK(static_cast<int64_t>(batch.size()) <= n_seq_max && (sum <= n_ubatch || batch.size() == 1));
            int64_t n_left = 0;
            for (const auto &[job, counts] : left) {
                n_left += std::count_if(counts.begin(), counts.end(), [](int64_t n) { return n > 0; });
            }
            CHECK_EQ(s.scheduler.n_queued_inputs(), n_left);
            CHECK(!batch.empty() || n_left == 0);
        }
    }
}
