#include "check.h"
#include "planner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

using gge::Microbatch;
using gge::Piece;
using gge::Plan;
using gge::plan;
using gge::PlanLimits;

namespace {

// Inputs of each micro-batch.
std::vector<std::vector<int64_t>> inputs_of(const Plan &plan) {
    std::vector<std::vector<int64_t>> inputs(plan.size());
    for (size_t b = 0; b < plan.size(); ++b) {
        for (const Piece &piece : plan[b]) {
            inputs[b].push_back(piece.i_input);
        }
    }
    return inputs;
}

using Inputs = std::vector<std::vector<int64_t>>;

// Every token once, in order, inside the limits.
void check_plan(const std::vector<int64_t> &counts, const PlanLimits &limits, const Plan &plan) {
    std::map<int64_t, int64_t> next;
    for (size_t b = 0; b < plan.size(); ++b) {
        const Microbatch batch = plan[b];
        int64_t sum = 0;
        for (const Piece &piece : batch) {
            CHECK_EQ(piece.begin, next[piece.i_input]);
            CHECK(piece.end > piece.begin);
            next[piece.i_input] = piece.end;
            sum += piece.end - piece.begin;
        }
        const bool may_be_long = batch.size() == 1 && !limits.may_split;
        CHECK_EQ(batch.n_tokens(), sum);
        CHECK(sum >= 1 && (sum <= limits.n_ubatch || may_be_long));
        CHECK(batch.size() >= 1 && static_cast<int64_t>(batch.size()) <= limits.n_seq_max);
        CHECK_EQ(batch.continues(), batch[0].begin > 0);
        if (batch.continues()) {
            CHECK_EQ(batch.size(), size_t{1});
            CHECK(b > 0 && plan[b - 1].size() == 1 && plan[b - 1][0].i_input == batch[0].i_input);
        }
    }
    for (size_t i = 0; i < counts.size(); ++i) {
        CHECK_EQ(next[static_cast<int64_t>(i)], counts[i]);
    }
}

} // namespace

TEST(no_inputs_give_no_batches) {
    CHECK_EQ(plan({}, {8, 2, false}).size(), size_t{0});
    CHECK_EQ(plan({0, 0}, {8, 2, false}).size(), size_t{0});
}

TEST(longest_first_and_equal_lengths_in_input_order) {
    const std::vector<int64_t> counts = {2, 5, 2, 5, 5};
    const Plan found = plan(counts, {10, 8, false});
    check_plan(counts, {10, 8, false}, found);
    CHECK(inputs_of(found) == (Inputs{{1, 3}, {4, 0, 2}}));
}

TEST(the_longest_input_that_fits_fills_what_is_left) {
    CHECK(inputs_of(plan({300, 200, 400, 100, 12, 11}, {512, 8, false})) == (Inputs{{2, 3, 4}, {0, 1, 5}}));
    CHECK(inputs_of(plan({6, 5, 3, 3}, {8, 8, false})) == (Inputs{{0}, {1, 2}, {3}}));
}

TEST(sequence_limit_closes_a_batch) {
    const std::vector<int64_t> counts(5, 1);
    const Plan found = plan(counts, {100, 2, false});
    CHECK(inputs_of(found) == (Inputs{{0, 1}, {2, 3}, {4}}));
    check_plan(counts, {100, 2, false}, found);
}

TEST(exact_fit_fills_a_batch) {
    CHECK_EQ(plan({4, 4}, {8, 8, false}).size(), size_t{1});
    CHECK_EQ(plan({4, 5}, {8, 8, false}).size(), size_t{2});
}

TEST(long_input_spans_batches_and_nobody_joins_it) {
    const Plan found = plan({3, 20, 2}, {8, 8, true});
    check_plan({3, 20, 2}, {8, 8, true}, found);
    CHECK(inputs_of(found) == (Inputs{{1}, {1}, {1}, {0, 2}}));
    CHECK(!found[0].continues() && found[1].continues() && found[2].continues() && !found[3].continues());
    CHECK_EQ(found[2].n_tokens(), 4);
}

TEST(long_input_that_is_not_split_runs_alone) {
    const PlanLimits limits{8, 8, false};
    const Plan found = plan({3, 20, 2, 9, 24}, limits);
    check_plan({3, 20, 2, 9, 24}, limits, found);
    CHECK(inputs_of(found) == (Inputs{{4}, {1}, {3}, {0, 2}}));
}

TEST(limits_without_room_are_refused) {
    CHECK_THROWS(GGE_E_INTERNAL, plan({1}, {0, 1, false}));
    CHECK_THROWS(GGE_E_INTERNAL, plan({1}, {1, 0, false}));
}

TEST(texts_of_usual_lengths_leave_hardly_any_room) {
    std::mt19937_64 random(3);
    std::vector<int64_t> counts(2000);
    for (int64_t &n : counts) { // few long ones, most of them short
        const double x = static_cast<double>(random() % 1000 + 1) / 1000.0;
        n = 4 + static_cast<int64_t>(508 * x * x * x);
    }
    const PlanLimits limits{512, 256, false};
    const Plan found = plan(counts, limits);
    check_plan(counts, limits, found);
    const int64_t n_tokens = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    CHECK(n_tokens > 99 * 512 * static_cast<int64_t>(found.size()) / 100);
}

TEST(random_inputs_keep_every_limit_and_plan_the_same_twice) {
    std::mt19937_64 random(7);
    for (int round = 0; round < 300; ++round) {
        const auto n_ubatch = static_cast<int64_t>(1 + random() % 64);
        const PlanLimits limits{n_ubatch, static_cast<int64_t>(1 + random() % 9), random() % 2 == 0};
        std::vector<int64_t> counts(random() % 50);
        for (int64_t &n : counts) {
            n = static_cast<int64_t>(random() % 200);
        }
        const Plan found = plan(counts, limits);
        check_plan(counts, limits, found);
        CHECK(inputs_of(found) == inputs_of(plan(counts, limits)));
        const auto is_longer = [&](const Piece &a, const Piece &b) {
            return counts[static_cast<size_t>(a.i_input)] > counts[static_cast<size_t>(b.i_input)];
        };
        for (size_t b = 0; b < found.size(); ++b) {
            CHECK(std::is_sorted(found[b].begin(), found[b].end(), is_longer));
            CHECK(b == 0 || !is_longer(found[b][0], found[b - 1][0]));
        }
    }
}

TEST(a_shelf_gives_the_longest_that_fits_and_counts_what_is_left) {
    gge::Shelf shelf({5, 0, 3, 9, 5});
    CHECK_EQ(shelf.n_inputs(), 4);
    CHECK_EQ(shelf.n_tokens(), 22);
    CHECK_EQ(shelf.longest(), 9);
    CHECK_EQ(shelf.longest(100), 9);
    CHECK_EQ(shelf.longest(8), 5);
    CHECK_EQ(shelf.longest(2), 0);
    CHECK_EQ(shelf.take(5), 0);
    CHECK_EQ(shelf.take(5), 4);
    CHECK_EQ(shelf.longest(8), 3);
    CHECK_EQ(shelf.n_tokens(), 12);
    CHECK_EQ(shelf.take(9), 3);
    CHECK_EQ(shelf.longest(), 3);
    CHECK_EQ(shelf.take(3), 2);
    CHECK_EQ(shelf.longest(), 0);
    CHECK_EQ(shelf.n_inputs(), 0);
    CHECK_EQ(shelf.n_tokens(), 0);
    CHECK_EQ(gge::Shelf().longest(7), 0);
}
