// Attention over packed sequences on the CPU: no mask, no cache, and no work between tokens that do not see each other.
// Pure: floats in, floats out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gge {

// A matrix of tokens x heads x values; the values of a head stand side by side.
struct HeadsView {
    const float *data = nullptr;
    size_t token_stride = 0; // floats
    size_t head_stride = 0;
};

struct AttentionInput {
    HeadsView q; // [n_tokens, n_heads, n_dims]
    HeadsView k; // [n_tokens, n_heads_kv, n_dims]; n_heads is a multiple of n_heads_kv
    HeadsView v; // [n_tokens, n_heads_kv, n_dims_v]
    int32_t n_tokens = 0;
    int32_t n_heads = 0;
    int32_t n_heads_kv = 0;
    int32_t n_dims = 0;
    int32_t n_dims_v = 0;

    // Token i sees the tokens begin .. end - 1 of the batch: [n_tokens, 2]. The tokens of a sequence stand together,
    // and neither begin nor end decreases within it. An empty range gives a row of zeros.
    const int32_t *ranges = nullptr;
    // Where the sequence of a token begins: [n_tokens].
    const int32_t *starts = nullptr;

    float scale = 1.0F;
    float softcap = 0.0F;         // > 0: scores become softcap * tanh(score / softcap)
    float max_bias = 0.0F;        // > 0: ALiBi, minus slope(head) * |i - j|
    const float *sinks = nullptr; // [n_heads], a score without a value, or NULL

    float *out = nullptr; // [n_tokens, n_heads, n_dims_v], contiguous
};

// The share of one of n_threads threads; together they fill out. A row depends on its own sequence alone, bit for bit:
// neither on the sequences packed beside it nor on the number of threads. Needs 100 KiB of stack and allocates nothing.
void attend(const AttentionInput &input, int32_t i_thread, int32_t n_threads);

} // namespace gge
