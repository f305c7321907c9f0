#include "budget.h"

#include "devices.h"
#include "log.h"
#include "threads.h"

#include <algorithm>

namespace gge {
namespace {

// On the CPU the curve is flat from 64 to 8192 tokens (benchmarks/results/2026-11-21-amd-epyc-2cpu-tune.md). On a GPU,
// where none has been measured, a launch costs as much for few tokens as for many, but attention between the texts of a
// micro-batch grows with its square. `ggembed bench --tune` measures it.
constexpr int64_t default_n_ubatch = 512;
constexpr int64_t default_n_ubatch_on_gpu = 2048;
// Rows that a media encoder makes together.
constexpr int64_t default_n_tower_batch = 2048;
// Upstream has 256 sequence ids, of which a backend may need one.
constexpr int64_t max_n_seq = 255;
// Each sequence of a recurrent model needs its own state.
constexpr int64_t default_n_seq_with_state = 16;
// Of micro-batches that lack of memory makes smaller.
constexpr int64_t least_n_ubatch = 64;
// Of free memory, what the buffers of a default may take.
constexpr int64_t share_of_free = 4;

int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

int64_t longest_input(const ModelFacts &facts, const EngineOptions &options) {
    if (options.n_ctx > facts.n_ctx_train) {
        throw Error(GGE_E_INVALID, "n_ctx is " + std::to_string(options.n_ctx) + ", the model's context holds " +
                                       std::to_string(facts.n_ctx_train));
    }
    return options.n_ctx > 0 ? options.n_ctx : facts.n_ctx_train;
}

// Without flash attention, attention takes memory that is quadratic in a micro-batch, on the CPU too.
bool may_split(const ModelFacts &facts, const EngineOptions &options) {
    const bool runs_whole = facts.cacheless && options.flash_attention != FlashAttention::off;
    return facts.has_cache && !runs_whole && is_causal(facts, options.attention);
}

int64_t weights_on(const gge_memory &memory, gge_device_kind device) {
    return device == GGE_DEVICE_CPU ? memory.weights_host : memory.weights_device;
}

// On the CPU no memory of a device is there to be held.
int64_t buffers_on(const gge_memory &memory, gge_device_kind device) {
    return device == GGE_DEVICE_CPU ? memory.cache_host + memory.compute_host + memory.output_host
                                    : memory.cache_device + memory.compute_device;
}

std::string what_of(const Budget &budget) {
    const std::string batches = "micro-batches of " + std::to_string(budget.first.n_ubatch) + " tokens";
    return budget.n_reserved > budget.first.n_ctx
               ? "inputs of " + std::to_string(budget.n_reserved) + " tokens and " + batches
               : batches;
}

// The next smaller budget. Returns whether there are some.
bool shrink(Budget &budget, const EngineOptions &options) {
    SessionOptions &first = budget.first;
    const bool reserves_what_fits = options.n_ctx == 0 && budget.n_reserved > 0;
    if (reserves_what_fits && budget.n_reserved > first.n_ctx) {
        budget.n_room = budget.n_reserved = std::max(budget.n_reserved / 2, first.n_ctx);
        return true;
    }
    if (first.n_ubatch / 2 < least_n_ubatch) {
        return false;
    }
    first.n_ubatch /= 2;
    first.n_ctx = first.n_ubatch;
    first.n_seq_max = std::min(first.n_seq_max, first.n_ubatch);
    if (reserves_what_fits) {
        budget.n_room = budget.n_reserved = std::min(budget.n_reserved, first.n_ctx);
    }
    return true;
}

} // namespace

SessionOptions Budget::session_for(int64_t longest, bool rank) const {
    SessionOptions session = first;
    session.rank = rank;
    longest = std::max(longest, n_reserved);
    if (longest > session.n_ctx) {
        session.n_ctx = round_up(longest, growth_step);
        if (!may_split || rank) {
            session.n_ctx = std::min(session.n_ctx, round_up(n_ctx, 8));
            session.n_ubatch = session.n_ctx;
        }
    }
    return session;
}

bool is_causal(const ModelFacts &facts, AttentionChoice attention) {
    return attention == AttentionChoice::from_file ? facts.attention == Attention::causal
                                                   : attention == AttentionChoice::causal;
}

int64_t tower_batch(const EngineOptions &options) {
    return options.n_tower_batch > 0 ? options.n_tower_batch : default_n_tower_batch;
}

Budget choose_budget(const ModelFacts &facts, const EngineOptions &options, gge_device_kind device, bool cuda_graphs) {
    if (!facts.has_cache && options.attention == AttentionChoice::causal) {
        throw Error(GGE_E_UNSUPPORTED, "models of architecture " + facts.architecture + " are bidirectional only");
    }
    Budget budget;
    budget.n_ctx = longest_input(facts, options);
    budget.n_room = budget.n_ctx;
    budget.n_reserved = options.n_ctx;
    budget.memory_limit = options.memory_limit;
    budget.may_split = may_split(facts, options);
    SessionOptions &s = budget.first;
    s.n_ubatch = options.n_ubatch > 0       ? options.n_ubatch
                 : device == GGE_DEVICE_CPU ? default_n_ubatch
                                            : default_n_ubatch_on_gpu;
    s.n_seq_max = options.n_seq_max > 0 ? options.n_seq_max : facts.has_state ? default_n_seq_with_state : max_n_seq;
    s.n_seq_max = std::min({s.n_seq_max, max_n_seq, s.n_ubatch});
    s.n_ctx = s.n_ubatch;
    s.n_positions = facts.cacheless ? budget.n_ctx : 0;
    s.n_threads = options.n_threads > 0 ? options.n_threads : default_n_threads();
    s.attention = options.attention;
    s.flash_attention = options.flash_attention;
    s.cuda_graphs = cuda_graphs;
    s.rank = facts.pooling == GGE_POOLING_RANK && facts.n_cls_out > 0;
    return budget;
}

void fit_limit(Budget &budget, const EngineOptions &options, gge_device_kind device, const Measure &measure) {
    gge_memory needs{};
    const auto fits = [&](int64_t longest) {
        needs = measure(budget.session_for(longest, budget.first.rank));
        return weights_on(needs, device) + buffers_on(needs, device) <= options.memory_limit;
    };
    while (!fits(0)) {
        const std::string buffers = what_of(budget);
        if (options.n_ubatch > 0 || !shrink(budget, options)) {
            throw Error(GGE_E_MEMORY, "memory_limit is " + show_bytes(options.memory_limit) + ", the weights take " +
                                          show_bytes(weights_on(needs, device)) + " and the buffers for " + buffers +
                                          " another " + show_bytes(buffers_on(needs, device)));
        }
    }
    if (options.n_ctx > 0) {
        return;
    }
    int64_t low = budget.first.n_ctx / growth_step; // steps that fit
    int64_t high = round_up(std::min(budget.n_ctx, most_measured), growth_step) / growth_step;
    if (high > low && fits(std::min(high * growth_step, budget.n_ctx))) {
        low = high;
    }
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (fits(middle * growth_step) ? low : high) = middle;
    }
    budget.n_room = std::min(std::max(low * growth_step, budget.first.n_ctx), budget.n_ctx);
    budget.n_reserved = budget.n_room;
}

std::unique_ptr<BackendSession> open_first(const BackendModel &model, Budget &budget, const EngineOptions &options,
                                           const Device &device) {
    const int64_t n_asked = budget.first.n_ubatch;
    const bool is_default = options.n_ubatch == 0 && options.memory_limit == 0 && options.n_ctx <= budget.first.n_ctx;
    while (true) {
        const std::string lack = "no memory for " + what_of(budget);
        std::unique_ptr<BackendSession> session;
        try {
            session = model.open(budget.session_for(0, budget.first.rank));
            const bool is_modest = buffers_on(session->memory(), device.kind) <= device.memory_free / share_of_free;
            if (!is_default || device.memory_free == 0 || is_modest || !shrink(budget, options)) {
                return session;
            }
        } catch (const Error &e) {
            if (e.status() != GGE_E_MEMORY) {
                throw;
            }
            const bool is_less = budget.first.n_ubatch < n_asked;
            if (!shrink(budget, options)) {
                const std::string asked = is_less ? ", the least after " + std::to_string(n_asked) : "";
                throw Error(GGE_E_MEMORY, lack + asked + ": " + e.what());
            }
            log_line(GGE_LOG_WARN, (lack + ", trying half: " + e.what()).c_str());
        }
    }
}

} // namespace gge
