// Products in bfloat16 with float sums (AVX-512 BF16). Weights lie in panels of 32 rows, in which the pairs of values
// that vdpbf16ps takes stand row beside row; one panel meets up to 14 tokens, whose sums fill the registers, or some
// panels meet one to five. Halves become bfloat16 when they are packed: 8 bits of their 11, as the activations have.
#include "matmul_tiles.h"

#include <immintrin.h>

#include <cstring>

namespace gge {
namespace {

constexpr size_t width = 16;             // floats of a vector
constexpr size_t n_panel = 2 * width;    // rows of the weights
constexpr size_t pair = sizeof(int32_t); // bytes of two values
constexpr size_t line = 64;

size_t n_pairs(size_t n_in) {
    return (n_in + 1) / 2;
}

__mmask16 first(size_t n) {
    return static_cast<__mmask16>((1U << smaller(n, width)) - 1U);
}

void store_halves(uint16_t *out, __m512 values, __mmask16 mask) {
    const auto bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
    _mm256_mask_storeu_epi16(out, mask, bits);
}

void convert(const float *row, size_t n_in, void *input) {
    auto *out = static_cast<uint16_t *>(input);
    size_t i = 0;
    for (; i + 2 * width <= n_in; i += 2 * width) {
        const __m512bh values = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + i + width), _mm512_loadu_ps(row + i));
        _mm512_storeu_si512(out + i, reinterpret_cast<__m512i>(values));
    }
    for (; i < n_in; i += width) {
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
    static void read(const uint16_t *row, size_t n, uint16_t *out) { std::memcpy(out, row, n * sizeof *row); }
};

// A panel is [n_pairs][n_panel] pairs.
template <typename From> void pack(const void *weights, size_t n_out, size_t n_in, void *packed) {
    constexpr size_t n_chunk = line / sizeof(uint16_t); // values of a row that are brought over at a time
    const auto *rows = static_cast<const uint16_t *>(weights);
    auto *out = static_cast<char *>(packed);
    for (size_t panel = 0; panel < n_out; panel += n_panel) {
        for (size_t k = 0; k < n_in; k += n_chunk) {
            const size_t n = smaller(n_chunk, n_in - k);
            alignas(line) uint16_t values[n_panel][n_chunk] = {};
            for (size_t r = 0; r < smaller(n_panel, n_out - panel); ++r) {
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

struct Products {
    static constexpr size_t n_panel = gge::n_panel;
    static constexpr size_t n_tokens = 14; // two sums each; two registers for weights, one for activations

    static size_t panel_size(size_t n_in) { return n_panel * n_pairs(n_in) * pair; }
    // An odd number of lines, so that the tokens of a tile do not all fall into the same places of the cache.
    static size_t input_size(size_t n_in) { return ((n_pairs(n_in) * pair + line - 1) / line | 1U) * line; }

    template <size_t n, size_t n_panels = 1> static void multiply(const Tile &tile) {
        constexpr size_t n_sums = 2 * n_panels; // of a token
        __m512 sums[n][n_sums];
        for (auto &sum : sums) {
            for (auto &vector : sum) {
                vector = _mm512_setzero_ps();
            }
        }
        const size_t panel_bytes = panel_size(tile.n_in);
        for (size_t k = 0; k < n_pairs(tile.n_in); ++k) {
            __m512bh w[n_sums];
#pragma GCC unroll 8
            for (size_t j = 0; j < n_sums; ++j) {
                const char *weights = tile.panel + j / 2 * panel_bytes + (2 * k + j % 2) * line;
                w[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weights));
            }
#pragma GCC unroll 14
            for (size_t t = 0; t < n; ++t) {
                int32_t values = 0;
                std::memcpy(&values, tile.inputs + t * tile.input_size + k * pair, pair);
                const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(values));
#pragma GCC unroll 8
                for (size_t j = 0; j < n_sums; ++j) {
                    sums[t][j] = _mm512_dpbf16_ps(sums[t][j], w[j], x);
                }
            }
        }
        for (size_t j = 0; j < n_sums && j * width < tile.n_out; ++j) {
            const __mmask16 mask = first(tile.n_out - j * width);
            for (size_t t = 0; t < n; ++t) {
                _mm512_mask_storeu_ps(tile.out + t * tile.out_stride + j * width, mask, sums[t][j]);
            }
        }
    }
};

template <size_t n> constexpr size_t panels_at_once<Products, n> = n == 1 ? 4 : (n < 6 ? 2 : 1);

template <typename From> constexpr MatmulKernel bf16_kernel() {
    return {"avx512-bf16",        n_panel, packed_size<Products>,   pack<From>,
            Products::input_size, convert, multiply_tiles<Products>};
}

constexpr MatmulKernel kernels[] = {bf16_kernel<FromHalf>(), bf16_kernel<FromBfloat>()};

} // namespace

const MatmulKernel *const avx512_bf16 = kernels;

} // namespace gge
