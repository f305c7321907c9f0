#include "planner.h"

#include "error.h"

#include <algorithm>

namespace gge {

std::vector<Microbatch> plan(const std::vector<int64_t> &n_tokens, const PlanLimits &limits) {
    if (limits.n_ubatch < 1 || limits.n_seq_max < 1) {
        throw Error(GGE_E_INTERNAL, "a plan needs room for at least one token and one sequence");
    }
    std::vector<int64_t> order;
    order.reserve(n_tokens.size());
    for (size_t i = 0; i < n_tokens.size(); ++i) {
        if (n_tokens[i] > 0) {
            order.push_back(static_cast<int64_t>(i));
        }
    }
    const auto length = [&](int64_t i) { return n_tokens[static_cast<size_t>(i)]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });

    std::vector<Microbatch> batches;
    for (const int64_t i : order) {
        const int64_t n = length(i);
        if (n > limits.n_ubatch) {
            const int64_t most = limits.may_split ? limits.n_ubatch : limits.n_tokens_max;
            if (n > most && !limits.may_split) {
                throw Error(GGE_E_INTERNAL,
                            "an input of " + std::to_string(n) + " tokens does not fit a micro-batch of " +
                                std::to_string(most),
                            i);
            }
            for (int64_t begin = 0; begin < n; begin += most) {
                const int64_t end = std::min(n, begin + most);
                batches.push_back({{{i, begin, end}}, end - begin, begin > 0});
            }
            continue;
        }
        // The micro-batches of a split input come first in the list, as the longest, and are full or closed by their
        // continues mark, so the last one is open to others only if it starts an input and has room.
        const bool fits = !batches.empty() && !batches.back().continues &&
                          batches.back().n_tokens + n <= limits.n_ubatch &&
                          static_cast<int64_t>(batches.back().pieces.size()) < limits.n_seq_max;
        if (!fits) {
            batches.emplace_back();
        }
        batches.back().pieces.push_back({i, 0, n});
        batches.back().n_tokens += n;
    }
    return batches;
}

} // namespace gge
