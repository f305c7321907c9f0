#include "planner.h"

#include "error.h"

#include <algorithm>
#include <numeric>

namespace gge {
namespace {

constexpr size_t none = SIZE_MAX;

void check(const PlanLimits &limits) {
    if (limits.n_ubatch < 1 || limits.n_seq_max < 1) {
        throw Error(GGE_E_INTERNAL, "a plan needs room for at least one token and one sequence");
    }
}

void add_alone(Plan &plan, int64_t i, int64_t n, const PlanLimits &limits) {
    const int64_t most = limits.may_split ? limits.n_ubatch : n;
    for (int64_t begin = 0; begin < n; begin += most) {
        plan.add({i, begin, std::min(n, begin + most)});
        plan.close();
    }
}

} // namespace

Shelf::Shelf(const std::vector<int64_t> &n_tokens) : next_(n_tokens.size()) {
    for (const int64_t n : n_tokens) {
        longest_ = std::max(longest_, n);
        shortest_ = n > 0 && (n < shortest_ || n_tokens_ == 0) ? n : shortest_;
        n_inputs_ += n > 0 ? 1 : 0;
        n_tokens_ += n;
    }
    const size_t n_lengths = static_cast<size_t>(longest_) + 1;
    first_.resize(n_lengths, none);
    shorter_.resize(n_lengths, 0);
    std::iota(shorter_.begin() + 1, shorter_.end(), size_t{0});
    for (size_t i = n_tokens.size(); i-- > 0;) {
        size_t &first = first_[static_cast<size_t>(n_tokens[i])];
        next_[i] = first;
        first = i;
    }
}

int64_t Shelf::longest(int64_t n) noexcept {
    if (n_inputs_ == 0 || n < shortest_) {
        return 0;
    }
    auto at = static_cast<size_t>(std::min(n, longest_));
    while (at > 0 && first_[at] == none) {
        const size_t shorter = shorter_[at];
        if (first_[shorter] == none) { // a shorter way for the next one
            shorter_[at] = shorter_[shorter];
        }
        at = shorter;
    }
    if (n >= longest_) {
        longest_ = static_cast<int64_t>(at);
    }
    return static_cast<int64_t>(at);
}

int64_t Shelf::take(int64_t n) noexcept {
    size_t &first = first_[static_cast<size_t>(n)];
    const size_t i = first;
    first = next_[i];
    --n_inputs_;
    n_tokens_ -= n;
    return static_cast<int64_t>(i);
}

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

} // namespace gge
