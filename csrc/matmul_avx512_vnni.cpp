// Products of quantised weights in int8 with int32 sums (AVX-512 VNNI).
//
// Weights are unsigned numbers q of 8 or 4 bits in blocks of 32 values, which stand for d * q - m. Activations are
// signed bytes a in blocks of 32 with a scale of their own, s. So a block of a product is
//
//     s * (d * (q0 a0 + ... + q31 a31) - m * (a0 + ... + a31))
//
// where m = d * n for most types, so that the sum of products begins with -n times the sum of activations, and is
// exact. Scales lie as halves, beside a power of two for each row of the weights that brings them into range.
//
// A panel is 32 rows of the weights. Of each block it has the scales, then the values of a row by fours, row beside
// row; with 4 bits two fours share their bytes.
#include "ggml_blocks.h"
#include "matmul.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace gge {
namespace {

constexpr size_t width = 16;          // sums of a vector
constexpr size_t n_panel = 2 * width; // rows of the weights
constexpr size_t line = 64;           // bytes of a vector
constexpr size_t n_fours = block_values / 4;

// A block of activations.
struct Inputs {
    float scale;
    int32_t sums[2]; // what the products of each half, or of all, begin with; or the sum of all as a float
    int8_t values[block_values];
};

size_t n_blocks(size_t n_in) {
    return (n_in + block_values - 1) / block_values;
}

// How a type of weights is kept. n_bits: of q; n_scales: of a block, one or one for each half; offset: n, or none: m
// stands beside the scale; a table translates q.
template <int n_bits_, size_t n_scales_, bool has_offset_, bool has_table_ = false> struct Format {
    static constexpr int n_bits = n_bits_;
    static constexpr size_t n_scales = n_scales_;
    static constexpr bool has_offset = has_offset_;
    static constexpr bool has_table = has_table_;
    static constexpr size_t n_tokens = n_scales == 2 ? 4 : 6; // whose sums the registers hold
    static constexpr size_t scale_bytes = (n_scales + (has_offset ? 0 : 1)) * n_panel * sizeof(uint16_t);
    static constexpr size_t value_bytes = n_panel * block_values * n_bits / 8;
    static constexpr size_t block_bytes = scale_bytes + value_bytes;
    static constexpr size_t head_bytes = n_panel * sizeof(float); // the power of each row
};

template <typename F> size_t panel_size(size_t n_in) {
    return F::head_bytes + n_blocks(n_in) * F::block_bytes;
}

template <typename F> size_t packed_size(size_t n_out, size_t n_in) {
    return (n_out + n_panel - 1) / n_panel * panel_size<F>(n_in);
}

// ---------------------------------------------------------------- activations

size_t input_size(size_t n_in) {
    return n_blocks(n_in) * sizeof(Inputs);
}

__mmask16 first(size_t n) {
    return static_cast<__mmask16>((1U << std::min(n, width)) - 1U);
}

__m512 load_first(const float *values, size_t n) {
    return _mm512_maskz_loadu_ps(first(n), values);
}

// NaN if one of them is: as integers, the bits of NaN are above all others.
float largest_of(__m512 a, __m512 b) {
    const __m512i bits = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(a)), _mm512_castps_si512(_mm512_abs_ps(b)));
    const int32_t largest = _mm512_reduce_max_epi32(bits);
    float value = 0.0F;
    std::memcpy(&value, &largest, sizeof value);
    return value;
}

// Rounds to bytes.
int32_t store_bytes(int8_t *out, __m512 values, float inverse) {
    const __m512i bytes = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(out), _mm512_cvtepi32_epi8(bytes));
    return _mm512_reduce_add_epi32(bytes);
}

template <typename F> void set_sums(Inputs &block, int32_t low, int32_t high, int32_t offset) {
    if constexpr (F::n_scales == 2) {
        block.sums[0] = -offset * low;
        block.sums[1] = -offset * high;
    } else if constexpr (F::has_offset) {
        block.sums[0] = -offset * (low + high);
    } else {
        const auto sum = static_cast<float>(low + high);
        std::memcpy(&block.sums[0], &sum, sizeof sum);
    }
}

// offset: n
template <typename F, int offset> void convert(const float *row, size_t n_in, void *input) {
    constexpr float smallest = 1e-35F; // of which 127 / x is finite
    auto *blocks = static_cast<Inputs *>(input);
    for (size_t b = 0; b < n_blocks(n_in); ++b) {
        const size_t n = std::min(block_values, n_in - b * block_values);
        __m512 low = load_first(row + b * block_values, n);
        __m512 high = n > width ? load_first(row + b * block_values + width, n - width) : _mm512_setzero_ps();
        const float largest = largest_of(low, high);
        Inputs &block = blocks[b];
        block.scale = largest / 127.0F;
        if (!(largest >= smallest && std::isfinite(largest))) { // zeros, of which the scale may make NaN
            block.scale = std::isfinite(largest) ? 0.0F : NAN;
            low = high = _mm512_setzero_ps();
        }
        const float inverse = block.scale > 0.0F ? 127.0F / largest : 0.0F;
        const int32_t sum_low = store_bytes(block.values, low, inverse);
        const int32_t sum_high = store_bytes(block.values + width, high, inverse);
        set_sums<F>(block, sum_low, sum_high, offset);
    }
}

// ---------------------------------------------------------------- weights

// A power of two that brings the largest scale of a row to at most 1.
float power_of(float largest) {
    if (!(largest > 0.0F) || !std::isfinite(largest)) {
        return 1.0F;
    }
    int exponent = 0;
    static_cast<void>(std::frexp(largest, &exponent));
    return std::ldexp(1.0F, std::clamp(exponent, -120, 120));
}

uint16_t half_of(float value) {
    return static_cast<uint16_t>(_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0));
}

// Reader: reads one block of a row of the file as a WeightBlock.
template <typename F, typename Reader> class Packer {
public:
    Packer(const void *weights, size_t n_out, size_t n_in) : weights_(weights), n_out_(n_out), n_in_(n_in) {}

    void pack(char *panel, size_t first_row) {
        for (size_t r = 0; r < n_panel; ++r) {
            largest_[r] = first_row + r < n_out_ ? largest_scale(first_row + r) : 0.0F;
            const float power = power_of(largest_[r]);
            std::memcpy(panel + r * sizeof power, &power, sizeof power);
        }
        char *block = panel + F::head_bytes;
        for (size_t b = 0; b < n_blocks(n_in_); ++b) {
            std::memset(block, 0, F::block_bytes);
            for (size_t r = 0; r < n_panel && first_row + r < n_out_; ++r) {
                put(block, r, Reader::read(weights_, n_in_, first_row + r, b), power_of(largest_[r]));
            }
            block += F::block_bytes;
        }
    }

private:
    float largest_scale(size_t row) const {
        float largest = 0.0F;
        for (size_t b = 0; b < n_blocks(n_in_); ++b) {
            const WeightBlock block = Reader::read(weights_, n_in_, row, b);
            largest = std::max({largest, std::abs(block.scales[0]), std::abs(block.scales[1]),
                                F::has_offset ? 0.0F : std::abs(block.min)});
        }
        return largest;
    }

    static void put_half(char *to, float value) {
        const uint16_t half = half_of(value);
        std::memcpy(to, &half, sizeof half);
    }

    static void put(char *block, size_t r, const WeightBlock &from, float power) {
        constexpr size_t scale_row = n_panel * sizeof(uint16_t);
        char *scale = block + r * sizeof(uint16_t);
        put_half(scale, from.scales[0] / power);
        if constexpr (F::n_scales == 2) {
            put_half(scale + scale_row, from.scales[1] / power);
        } else if constexpr (!F::has_offset) {
            put_half(scale + scale_row, from.min / power);
        }
        char *values = block + F::scale_bytes;
        for (size_t i = 0; i < block_values; ++i) {
            const size_t four = i / 4;
            if constexpr (F::n_bits == 8) {
                values[(four * n_panel + r) * 4 + i % 4] = static_cast<char>(from.values[i]);
            } else {
                char &byte = values[(four / 2 * n_panel + r) * 4 + i % 4];
                byte = static_cast<char>(byte | from.values[i] << (four % 2 * 4));
            }
        }
    }

    const void *weights_;
    size_t n_out_;
    size_t n_in_;
    std::array<float, n_panel> largest_{};
};

template <typename F, typename Reader> void pack(const void *weights, size_t n_out, size_t n_in, void *packed) {
    Packer<F, Reader> packer(weights, n_out, n_in);
    auto *panel = static_cast<char *>(packed);
    for (size_t row = 0; row < n_out; row += n_panel) {
        packer.pack(panel, row);
        panel += panel_size<F>(n_in);
    }
}

// ---------------------------------------------------------------- products

struct Block {
    const char *panel;
    const char *inputs; // of the first token
    size_t input_size;
    size_t n_blocks;
    float *out;
    size_t out_stride;
    size_t n_out; // of the panel
};

__m512 load_halves(const char *halves) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(halves)));
}

// Two fours of 32 rows.
template <typename F> struct Fours {
    __m512i q[2][2]; // [four][half of the panel]

    static Fours read(const char *values, size_t i) {
        Fours f;
        if constexpr (F::n_bits == 8) {
            for (size_t k = 0; k < 2; ++k) {
                f.q[k][0] = _mm512_loadu_si512(values + (2 * i + k) * 2 * line);
                f.q[k][1] = _mm512_loadu_si512(values + (2 * i + k) * 2 * line + line);
            }
        } else {
            const __m512i mask = _mm512_set1_epi8(15);
            for (size_t j = 0; j < 2; ++j) {
                const __m512i both = _mm512_loadu_si512(values + (2 * i + j) * line);
                f.q[0][j] = _mm512_and_si512(both, mask);
                f.q[1][j] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
            }
            if constexpr (F::has_table) {
                const __m512i table =
                    _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(nonlinear_values.data())));
                for (auto &four : f.q) {
                    four[0] = _mm512_shuffle_epi8(table, four[0]);
                    four[1] = _mm512_shuffle_epi8(table, four[1]);
                }
            }
        }
        return f;
    }
};

__m512i four_inputs(const Inputs &block, size_t four) {
    int32_t values = 0;
    std::memcpy(&values, block.values + 4 * four, sizeof values);
    return _mm512_set1_epi32(values);
}

template <typename F, size_t n_tokens> void multiply_block(const Block &b) {
    constexpr size_t fours_each = n_fours / F::n_scales;
    __m512 sums[n_tokens][2];
    for (auto &sum : sums) {
        sum[0] = _mm512_setzero_ps();
        sum[1] = _mm512_setzero_ps();
    }
    const char *weights = b.panel + F::head_bytes;
    const char *inputs = b.inputs;
    for (size_t k = 0; k < b.n_blocks; ++k, weights += F::block_bytes, inputs += sizeof(Inputs)) {
        const auto input = [&](size_t t) -> const Inputs & {
            return *reinterpret_cast<const Inputs *>(inputs + t * b.input_size);
        };
        __m512 scaled[n_tokens][2];
#pragma GCC unroll 2
        for (size_t s = 0; s < F::n_scales; ++s) {
            __m512i dots[n_tokens][2];
#pragma GCC unroll 6
            for (size_t t = 0; t < n_tokens; ++t) {
                dots[t][0] = F::has_offset ? _mm512_set1_epi32(input(t).sums[s]) : _mm512_setzero_si512();
                dots[t][1] = dots[t][0];
            }
#pragma GCC unroll 4
            for (size_t i = s * fours_each / 2; i < (s + 1) * fours_each / 2; ++i) {
                const auto fours = Fours<F>::read(weights + F::scale_bytes, i);
#pragma GCC unroll 2
                for (size_t four = 0; four < 2; ++four) {
#pragma GCC unroll 6
                    for (size_t t = 0; t < n_tokens; ++t) {
                        const __m512i x = four_inputs(input(t), 2 * i + four);
                        dots[t][0] = _mm512_dpbusd_epi32(dots[t][0], fours.q[four][0], x);
                        dots[t][1] = _mm512_dpbusd_epi32(dots[t][1], fours.q[four][1], x);
                    }
                }
            }
#pragma GCC unroll 2
            for (size_t j = 0; j < 2; ++j) {
                const __m512 d = load_halves(weights + s * line + j * line / 2);
#pragma GCC unroll 6
                for (size_t t = 0; t < n_tokens; ++t) {
                    const __m512 dot = _mm512_cvtepi32_ps(dots[t][j]);
                    scaled[t][j] = s == 0 ? _mm512_mul_ps(d, dot) : _mm512_fmadd_ps(d, dot, scaled[t][j]);
                }
            }
        }
#pragma GCC unroll 2
        for (size_t j = 0; j < 2; ++j) {
            if constexpr (!F::has_offset) {
                const __m512 m = load_halves(weights + line + j * line / 2);
#pragma GCC unroll 6
                for (size_t t = 0; t < n_tokens; ++t) {
                    float sum = 0.0F;
                    std::memcpy(&sum, &input(t).sums[0], sizeof sum);
                    scaled[t][j] = _mm512_fnmadd_ps(m, _mm512_set1_ps(sum), scaled[t][j]);
                }
            }
#pragma GCC unroll 6
            for (size_t t = 0; t < n_tokens; ++t) {
                sums[t][j] = _mm512_fmadd_ps(_mm512_set1_ps(input(t).scale), scaled[t][j], sums[t][j]);
            }
        }
    }
    for (size_t j = 0; j < 2; ++j) {
        const __mmask16 mask = b.n_out > j * width ? first(b.n_out - j * width) : __mmask16{0};
        const __m512 power = _mm512_loadu_ps(b.panel + j * line);
        for (size_t t = 0; t < n_tokens; ++t) {
            _mm512_mask_storeu_ps(b.out + t * b.out_stride + j * width, mask, _mm512_mul_ps(sums[t][j], power));
        }
    }
}

template <typename F, size_t n> void multiply_rest(const Block &block, size_t n_tokens) {
    if constexpr (n > 0) {
        if (n_tokens == n) {
            multiply_block<F, n>(block);
        } else {
            multiply_rest<F, n - 1>(block, n_tokens);
        }
    }
}

template <typename F>
void multiply(const MatmulTask &task, size_t panel_begin, size_t panel_end, size_t token_begin, size_t token_end) {
    Block b{};
    b.input_size = input_size(task.n_in);
    b.n_blocks = n_blocks(task.n_in);
    b.out_stride = task.out_stride;
    for (size_t t = token_begin; t < token_end; t += F::n_tokens) {
        b.inputs = static_cast<const char *>(task.inputs) + t * b.input_size;
        for (size_t p = panel_begin; p < panel_end; ++p) {
            b.panel = static_cast<const char *>(task.weights) + p * panel_size<F>(task.n_in);
            b.out = task.out + t * task.out_stride + p * n_panel;
            b.n_out = std::min(n_panel, task.n_out - p * n_panel);
            multiply_rest<F, F::n_tokens>(b, std::min(F::n_tokens, token_end - t));
        }
    }
}

template <typename F, typename Reader> constexpr MatmulKernel kernel() {
    return {"avx512-vnni", n_panel, packed_size<F>, pack<F, Reader>, input_size, convert<F, Reader::offset>,
            multiply<F>};
}

using Bytes = Format<8, 1, true>;
using BytesWithMin = Format<8, 1, false>;
using ByteHalves = Format<8, 2, true>;
using Nibbles = Format<4, 1, true>;
using NibblesWithMin = Format<4, 1, false>;
using NibblesByTable = Format<4, 1, true, true>;

} // namespace

const MatmulKernel avx512_vnni_kernels[] = {
    kernel<Nibbles, ReadQ4_0>(),          kernel<NibblesWithMin, ReadQ4_1>(), kernel<Bytes, ReadQ5_0>(),
    kernel<BytesWithMin, ReadQ5_1>(),     kernel<Bytes, ReadQ8_0>(),          kernel<NibblesWithMin, ReadQ4_K>(),
    kernel<BytesWithMin, ReadQ5_K>(),     kernel<ByteHalves, ReadQ6_K>(),     kernel<NibblesByTable, ReadIQ4_NL>(),
    kernel<NibblesByTable, ReadIQ4_XS>(),
};

} // namespace gge
