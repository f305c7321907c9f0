#include "check.h"
#include "planner.h"

#include <map>
#include <random>

using gge::Microbatch;
using gge::Piece;
using gge::plan;
using gge::PlanLimits;

namespace {

bool operator==(const Piece &a, const Piece &b) {
    return a.i_input == b.i_input && a.begin == b.begin && a.end == b.end;
}

bool same(const std::vector<Microbatch> &a, const std::vector<Microbatch> &b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Microbatch &x, const Microbatch &y) {
        return x.continues == y.continues && x.n_tokens == y.n_tokens &&
               std::equal(x.pieces.begin(), x.pieces.end(), y.pieces.begin(), y.pieces.end(),
                          [](const Piece &p, const Piece &q) { return p == q; });
    });
}

// Every token once, in order, inside the limits.
void check_plan(const std::vector<int64_t> &counts, const PlanLimits &limits, const std::vector<Microbatch> &batches) {
    std::map<int64_t, int64_t> next;
    for (size_t b = 0; b < batches.size(); ++b) {
        const Microbatch &batch = batches[b];
        int64_t sum = 0;
        for (const Piece &piece : batch.pieces) {
            CHECK_EQ(piece.begin, next[piece.i_input]);
            CHECK(piece.end > piece.begin);
            next[piece.i_input] = piece.end;
            sum += piece.end - piece.begin;
        }
        CHECK_EQ(batch.n_tokens, sum);
        CHECK(sum >= 1 && sum <= (batch.pieces.size() > 1 || limits.may_split ? limits.n_ubatch : limits.n_tokens_max));
        CHECK(static_cast<int64_t>(batch.pieces.size()) <= limits.n_seq_max);
        CHECK(!batch.pieces.empty());
        CHECK_EQ(batch.continues, batch.pieces[0].begin > 0);
        if (batch.continues) {
            CHECK_EQ(batch.pieces.size(), size_t{1});
            CHECK(b > 0 && batches[b - 1].pieces.back().i_input == batch.pieces[0].i_input);
        }
    }
    for (size_t i = 0; i < counts.size(); ++i) {
        CHECK_EQ(next[static_cast<int64_t>(i)], counts[i]);
    }
}

} // namespace

TEST(no_inputs_give_no_batches) {
    CHECK(plan({}, {8, 8, 2, false}).empty());
    CHECK(plan({0, 0}, {8, 8, 2, false}).empty());
}

TEST(longest_first_and_equal_lengths_in_input_order) {
    const auto batches = plan({2, 5, 2, 5}, {7, 7, 8, false});
    check_plan({2, 5, 2, 5}, {7, 7, 8, false}, batches);
    CHECK_EQ(batches.size(), size_t{3});
    CHECK_EQ(batches[0].pieces[0].i_input, 1);
    CHECK_EQ(batches[1].pieces[0].i_input, 3);
    CHECK_EQ(batches[1].pieces[1].i_input, 0);
    CHECK_EQ(batches[2].pieces[0].i_input, 2);
}

TEST(sequence_limit_closes_a_batch) {
    const auto batches = plan({1, 1, 1, 1, 1}, {100, 100, 2, false});
    CHECK_EQ(batches.size(), size_t{3});
    check_plan({1, 1, 1, 1, 1}, {100, 100, 2, false}, batches);
}

TEST(exact_fit_fills_a_batch) {
    CHECK_EQ(plan({4, 4}, {8, 8, 8, false}).size(), size_t{1});
    CHECK_EQ(plan({4, 5}, {8, 8, 8, false}).size(), size_t{2});
}

TEST(long_input_spans_batches_and_nobody_joins_it) {
    const auto batches = plan({3, 20, 2}, {8, 8, 8, true});
    check_plan({3, 20, 2}, {8, 8, 8, true}, batches);
    CHECK_EQ(batches.size(), size_t{4});
    CHECK(!batches[0].continues && batches[1].continues && batches[2].continues && !batches[3].continues);
    CHECK_EQ(batches[2].n_tokens, 4);
}

TEST(long_input_that_is_not_split_runs_alone) {
    const PlanLimits limits{8, 24, 8, false};
    const auto batches = plan({3, 20, 2, 9, 24}, limits);
    check_plan({3, 20, 2, 9, 24}, limits, batches);
    CHECK_EQ(batches.size(), size_t{4});
    CHECK_EQ(batches[0].n_tokens, 24);
    CHECK_EQ(batches[1].n_tokens, 20);
    CHECK_EQ(batches[2].n_tokens, 9);
    CHECK_EQ(batches[3].n_tokens, 5);
}

TEST(long_input_that_has_no_room_and_may_not_be_split_is_refused) {
    const std::string message = CHECK_THROWS(GGE_E_INTERNAL, plan({9, 10}, {8, 9, 8, false}));
    CHECK(check::contains(message, "10 tokens") && check::contains(message, "of 9"));
}

TEST(limits_without_room_are_refused) {
    CHECK_THROWS(GGE_E_INTERNAL, plan({1}, {0, 0, 1, false}));
    CHECK_THROWS(GGE_E_INTERNAL, plan({1}, {1, 1, 0, false}));
}

TEST(random_inputs_keep_every_limit_and_plan_the_same_twice) {
    std::mt19937_64 random(7);
    for (int round = 0; round < 300; ++round) {
        const auto n_ubatch = static_cast<int64_t>(1 + random() % 64);
        const PlanLimits limits{n_ubatch, n_ubatch + static_cast<int64_t>(random() % 100),
                                static_cast<int64_t>(1 + random() % 9), random() % 2 == 0};
        std::vector<int64_t> counts(random() % 50);
        for (int64_t &n : counts) {
            n = static_cast<int64_t>(random() %
                                     static_cast<uint64_t>(limits.may_split ? 200 : limits.n_tokens_max + 1));
        }
        const auto batches = plan(counts, limits);
        check_plan(counts, limits, batches);
        CHECK(same(batches, plan(counts, limits)));
    }
}
