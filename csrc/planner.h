// Token counts and limits in, micro-batches out. Pure: no model, no I/O, no clock.
#pragma once

#include <cstdint>
#include <vector>

namespace gge {

struct PlanLimits {
    int64_t n_ubatch = 0;     // tokens that inputs are packed up to
    int64_t n_tokens_max = 0; // of the micro-batch of an input that is longer than n_ubatch and must not be split
    int64_t n_seq_max = 0;    // sequences per micro-batch
    bool may_split = false;   // such an input runs in several micro-batches (causal, with a cache)
};

// Tokens [begin, end) of one input.
struct Piece {
    int64_t i_input;
    int64_t begin;
    int64_t end;
};

struct Microbatch {
    std::vector<Piece> pieces; // piece k is sequence k
    int64_t n_tokens = 0;
    bool continues = false; // the only piece goes on where the micro-batch before it stopped
};

// Packs inputs, longest first, so that the sequences of a micro-batch have similar lengths; equal lengths keep the
// order of the inputs. n_tokens[i] == 0 leaves input i out. An input that is longer than n_ubatch gets a micro-batch of
// its own, or with may_split several, one after the other. Every token of every input is in exactly one piece.
// Takes O(n log n).
std::vector<Microbatch> plan(const std::vector<int64_t> &n_tokens, const PlanLimits &limits);

} // namespace gge
