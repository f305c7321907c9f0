// How large the sessions of an engine are, and what memory says to that.
#pragma once

#include "backend.h"

namespace gge {

struct Budget {
    SessionOptions first;     // n_ubatch: the budget of micro-batches
    int64_t n_ctx = 0;        // longest input that is accepted
    int64_t n_room = 0;       // longest one that a memory limit leaves room for
    int64_t n_reserved = 0;   // what every session has room for; 0 = a micro-batch
    int64_t memory_limit = 0; // 0 = none
    bool may_split = false;   // a long input may span micro-batches, unless it is ranked

    // Room for an input of that many tokens: in the cache if it is split, else in a micro-batch.
    SessionOptions session_for(int64_t longest, bool rank) const;
};

// Tokens that sessions grow by.
constexpr int64_t growth_step = 256;

bool is_causal(const ModelFacts &facts, AttentionChoice attention);

// Rows that a media encoder makes together.
int64_t tower_batch(const EngineOptions &options);

// What the options ask for, as if memory had no end. device: the first that the model is on. Throws Error.
Budget choose_budget(const ModelFacts &facts, const EngineOptions &options, gge_device_kind device, bool cuda_graphs);

// Makes micro-batches that were not asked for smaller, until what is held on the device stays within
// options.memory_limit, and then reserves the longest input that it leaves room for. Throws GGE_E_MEMORY.
void fit_limit(Budget &budget, const EngineOptions &options, gge_device_kind device, const Measure &measure);

// Opens the first session. Where memory lacks for its micro-batches, for ones of half the tokens; so too where nobody
// asked for their size and buffers take more than a quarter of what is free on the device, 0 = unknown. Throws Error.
std::unique_ptr<BackendSession> open_first(const BackendModel &model, Budget &budget, const EngineOptions &options,
                                           const Device &device);

} // namespace gge
