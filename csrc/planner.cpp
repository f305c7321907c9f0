#include "planner.h"

#include "error.h"

#include <algorithm>
#include <numeric>

namespace gge {
namespace {

// Inputs by length.
class Shelf {
public:
    explicit Shelf(const std::vector<int64_t> &n_tokens) : next_(n_tokens.size()) {
        const auto longest = std::max_element(n_tokens.begin(), n_tokens.end());
        const size_t n = longest == n_tokens.end() ? 1 : static_cast<size_t>(*longest) + 1;
        first_.resize(n, none);
        shorter_.resize(n, 0);
        std::iota(shorter_.begin() + 1, shorter_.end(), size_t{0});
        for (size_t i = n_tokens.size(); i-- > 0;) {
            size_t &first = first_[static_cast<size_t>(n_tokens[i])];
            next_[i] = first;
            first = i;
        }
    }

    // Tokens of the longest input that is there, 0 if there is none.
    int64_t longest() noexcept { return longest(static_cast<int64_t>(first_.size()) - 1); }

    // And of those that have no more than n.
    int64_t longest(int64_t n) noexcept {
        auto at = static_cast<size_t>(n);
        while (at > 0 && first_[at] == none) {
            const size_t shorter = shorter_[at];
            if (first_[shorter] == none) { // a shorter way for the next one
                shorter_[at] = shorter_[shorter];
            }
            at = shorter;
        }
        return static_cast<int64_t>(at);
    }

    // Takes the first input of n tokens.
    int64_t take(int64_t n) noexcept {
        size_t &first = first_[static_cast<size_t>(n)];
        const size_t i = first;
        first = next_[i];
        return static_cast<int64_t>(i);
    }

private:
    static constexpr size_t none = SIZE_MAX;

    std::vector<size_t> next_;    // by input: the next of its length
    std::vector<size_t> first_;   // by length
    std::vector<size_t> shorter_; // by length: a shorter one; in between there are no inputs
};

void check(const PlanLimits &limits) {
    if (limits.n_ubatch < 1 || limits.n_seq_max < 1) {
        throw Error(GGE_E_INTERNAL, "a plan needs room for at least one token and one sequence");
    }
}

void add_alone(Plan &plan, int64_t i, int64_t n, const PlanLimits &limits) {
    const int64_t most = limits.may_split ? limits.n_ubatch : std::max(limits.n_ubatch, limits.n_tokens_max);
    if (n > most && !limits.may_split) {
        throw Error(
            GGE_E_INTERNAL,
            "an input of " + std::to_string(n) + " tokens does not fit a micro-batch of " + std::to_string(most), i);
    }
    for (int64_t begin = 0; begin < n; begin += most) {
        plan.add({i, begin, std::min(n, begin + most)});
        plan.close();
    }
}

} // namespace

int64_t Microbatch::n_tokens() const noexcept {
    return std::accumulate(begin(), end(), int64_t{0},
                           [](int64_t n, const Piece &piece) { return n + piece.end - piece.begin; });
}

Plan plan(const std::vector<int64_t> &n_tokens, const PlanLimits &limits) {
    check(limits);
    Plan plan;
    plan.reserve(n_tokens.size());
    Shelf shelf(n_tokens);
    for (int64_t n = shelf.longest(); n > 0; n = shelf.longest()) {
        if (n > limits.n_ubatch) {
            add_alone(plan, shelf.take(n), n, limits);
            continue;
        }
        int64_t room = limits.n_ubatch;
        for (int64_t n_seq = 0; n > 0 && n_seq < limits.n_seq_max; ++n_seq) {
            plan.add({shelf.take(n), 0, n});
            room -= n;
            n = shelf.longest(std::min(n, room));
        }
        plan.close();
    }
    return plan;
}

Plan plan_alone(int64_t i_input, int64_t n_tokens, const PlanLimits &limits) {
    check(limits);
    Plan plan;
    add_alone(plan, i_input, n_tokens, limits);
    return plan;
}

} // namespace gge
