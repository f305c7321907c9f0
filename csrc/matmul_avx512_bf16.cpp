// Products in bfloat16 with float sums (AVX-512 BF16). Weights lie in panels of 32 rows, in which the pairs of values
// that vdpbf16ps takes stand row beside row; one panel meets up to 14 tokens, whose sums fill the registers. Halves
// become bfloat16 when they are packed: 8 bits of their 11, as the activations have.
#include "matmul.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace gge {
namespace {

constexpr size_t width = 16;             // floats of a vector
constexpr size_t n_panel = 2 * width;    // rows of the weights
constexpr size_t n_block = 14;           // tokens, two sums each; two registers for weights, one for activations
constexpr size_t pair = sizeof(int32_t); // bytes of two values
constexpr size_t line = 64;

size_t n_pairs(size_t n_in) {
    return (n_in + 1) / 2;
}

size_t packed_size(size_t n_out, size_t n_in) {
    return (n_out + n_panel - 1) / n_panel * n_panel * n_pairs(n_in) * pair;
}

// An odd number of lines, so that the tokens of a block do not all fall into the same places of the cache.
size_t input_size(size_t n_in) {
    const size_t n_lines = (n_pairs(n_in) * pair + line - 1) / line;
    return (n_lines | 1U) * line;
}

__mmask16 first(size_t n) {
    return static_cast<__mmask16>((1U << std::min(n, width)) - 1U);
}

void store_halves(uint16_t *out, __m512 values, __mmask16 mask) {
    const auto bits = (__m256i)_mm512_cvtneps_pbh(values);
    _mm256_mask_storeu_epi16(out, mask, bits);
}

void convert(const float *row, size_t n_in, void *input) {
    auto *out = static_cast<uint16_t *>(input);
    for (size_t i = 0; i < n_in; i += width) {
        const __mmask16 mask = first(n_in - i);
        store_halves(out + i, _mm512_maskz_loadu_ps(mask, row + i), mask);
    }
    if (n_in % 2 != 0) {
        out[n_in] = 0;
    }
}

struct FromHalf {
    static void read(const uint16_t *row, size_t n, uint16_t *out) {
        for (size_t i = 0; i < n; i += width) {
            const __mmask16 mask = first(n - i);
            store_halves(out + i, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + i)), mask);
        }
    }
};

struct FromBfloat {
    static void read(const uint16_t *row, size_t n, uint16_t *out) { std::copy_n(row, n, out); }
};

// A panel is [n_pairs][n_panel] pairs.
template <typename From> void pack(const void *weights, size_t n_out, size_t n_in, void *packed) {
    constexpr size_t n_chunk = line / sizeof(uint16_t); // values of a row that are brought over at a time
    const auto *rows = static_cast<const uint16_t *>(weights);
    auto *out = static_cast<char *>(packed);
    for (size_t panel = 0; panel < n_out; panel += n_panel) {
        for (size_t k = 0; k < n_in; k += n_chunk) {
            const size_t n = std::min(n_chunk, n_in - k);
            alignas(line) uint16_t values[n_panel][n_chunk] = {};
            for (size_t r = 0; r < std::min(n_panel, n_out - panel); ++r) {
                From::read(rows + (panel + r) * n_in + k, n, values[r]);
            }
            for (size_t p = 0; p < n_pairs(n); ++p) {
                for (const auto &row : values) {
                    std::memcpy(out, row + 2 * p, pair);
                    out += pair;
                }
            }
        }
    }
}

struct Block {
    const char *weights; // a panel
    const char *inputs;  // of its first token
    size_t input_size;
    size_t n_pairs;
    float *out;
    size_t out_stride;
    size_t n_out; // of the panel
};

template <size_t n_tokens> void multiply_block(const Block &b) {
    __m512 sums[n_tokens][2];
    for (auto &sum : sums) {
        sum[0] = _mm512_setzero_ps();
        sum[1] = _mm512_setzero_ps();
    }
    for (size_t k = 0; k < b.n_pairs; ++k) {
        const char *weights = b.weights + k * n_panel * pair;
        const auto w0 = (__m512bh)_mm512_loadu_si512(weights);
        const auto w1 = (__m512bh)_mm512_loadu_si512(weights + line);
#pragma GCC unroll 14
        for (size_t t = 0; t < n_tokens; ++t) {
            int32_t values = 0;
            std::memcpy(&values, b.inputs + t * b.input_size + k * pair, pair);
            const auto x = (__m512bh)_mm512_set1_epi32(values);
            sums[t][0] = _mm512_dpbf16_ps(sums[t][0], w0, x);
            sums[t][1] = _mm512_dpbf16_ps(sums[t][1], w1, x);
        }
    }
    const __mmask16 mask0 = first(b.n_out);
    const __mmask16 mask1 = b.n_out > width ? first(b.n_out - width) : __mmask16{0};
    for (size_t t = 0; t < n_tokens; ++t) {
        _mm512_mask_storeu_ps(b.out + t * b.out_stride, mask0, sums[t][0]);
        _mm512_mask_storeu_ps(b.out + t * b.out_stride + width, mask1, sums[t][1]);
    }
}

template <size_t n> void multiply_rest(const Block &block, size_t n_tokens) {
    if constexpr (n > 0) {
        if (n_tokens == n) {
            multiply_block<n>(block);
        } else {
            multiply_rest<n - 1>(block, n_tokens);
        }
    }
}

void multiply(const MatmulTask &task, size_t panel_begin, size_t panel_end, size_t token_begin, size_t token_end) {
    const size_t panel_size = n_panel * n_pairs(task.n_in) * pair;
    Block b{};
    b.input_size = input_size(task.n_in);
    b.n_pairs = n_pairs(task.n_in);
    b.out_stride = task.out_stride;
    for (size_t t = token_begin; t < token_end; t += n_block) {
        b.inputs = static_cast<const char *>(task.inputs) + t * b.input_size;
        for (size_t p = panel_begin; p < panel_end; ++p) {
            b.weights = static_cast<const char *>(task.weights) + p * panel_size;
            b.out = task.out + t * task.out_stride + p * n_panel;
            b.n_out = std::min(n_panel, task.n_out - p * n_panel);
            multiply_rest<n_block>(b, std::min(n_block, token_end - t));
        }
    }
}

} // namespace

const MatmulKernel avx512_bf16_of_f16 = {"avx512-bf16", n_panel, packed_size, pack<FromHalf>,
                                         input_size,    convert, multiply};
const MatmulKernel avx512_bf16_of_bf16 = {"avx512-bf16", n_panel, packed_size, pack<FromBfloat>,
                                          input_size,    convert, multiply};

} // namespace gge
