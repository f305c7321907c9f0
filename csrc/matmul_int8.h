// Products of quantised weights in int8 with int32 sums, for any kind of vectors.
//
// Weights are unsigned numbers q of 8 or 4 bits in blocks of 32 values, which stand for d * q - m. Activations are
// signed bytes a in blocks of 32 with a scale of their own, s. So a block of a product is
//
//     s * (d * (q0 a0 + ... + q31 a31) - m * (a0 + ... + a31))
//
// where m = d * n for most types, so that the sum of products begins with -n times the sum of activations, and is
// exact. Scales lie as halves, beside a power of two for each row of the weights that brings them into range.
//
// Q4_K, Q5_K and Q6_K share s among four blocks, since products of floats take the same units as those of bytes. Their m
// is a number of 6 bits times a scale of the group, and so an integer product as well.
//
// A panel is n_vectors vectors of rows of the weights. Of each group it has the mins, of each block the scales, then the
// values of a row by fours, row beside row; with 4 bits two fours share their bytes.
//
// Isa has the vectors; its Dots<F> are the products of a format F. All results are the same to the last bit.
#pragma once

#include "ggml_blocks.h"
#include "matmul_tiles.h"

#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstring>

namespace gge {
namespace { // each file that includes this is compiled for a CPU of its own

// How a type of weights is kept. n_bits: of q; n_scales: of a block, one or one for each half; offset: n, or none: m
// stands beside the scale; a table translates q to 8 bits; n_group: blocks that share a scale of activations.
template <int n_bits_, size_t n_scales_, bool has_offset_, size_t n_group_ = 1, bool has_table_ = false> struct Format {
    static constexpr int n_bits = n_bits_;
    static constexpr int stored_bits = n_bits == 4 ? 4 : 8;
    static constexpr size_t n_scales = n_scales_;
    static constexpr bool has_offset = has_offset_;
    static constexpr size_t n_group = n_group_;
    static constexpr bool has_groups = n_group > 1;
    static constexpr bool has_table = has_table_;
    static_assert(n_group == 1 || n_group == 4);
};

// A block of activations.
struct Inputs {
    float scale;
    float sum;        // in groups the bits of two sums, of this block, which is even, and of the next: 16 bits each
    int32_t begin[2]; // of the sums of products: one number for each scale of the weights
    int8_t values[block_values];
};

template <typename Isa, typename F> struct Int8Products {
    using Dots = typename Isa::template Dots<F>;
    static constexpr size_t n_vectors = Isa::n_vectors;
    static constexpr size_t n_panel = n_vectors * Isa::width; // rows of the weights
    static constexpr size_t n_tokens = Dots::n_tokens;
    static constexpr size_t line_bytes = n_panel * sizeof(uint16_t); // a half of each row
    static constexpr size_t min_bytes = F::has_offset ? 0 : line_bytes + (F::has_groups ? F::n_group * n_panel : 0);
    static constexpr size_t scale_bytes = F::n_scales * line_bytes;
    static constexpr size_t value_bytes = n_panel * block_values * F::stored_bits / 8;
    static constexpr size_t block_bytes = scale_bytes + value_bytes;
    static constexpr size_t group_bytes = min_bytes + F::n_group * block_bytes;
    static constexpr size_t head_bytes = n_panel * sizeof(float); // the power of each row

    static size_t n_blocks(size_t n_in) { return n_in / block_values; }
    static size_t n_groups(size_t n_in) { return n_blocks(n_in) / F::n_group; }
    static size_t panel_size(size_t n_in) { return head_bytes + n_groups(n_in) * group_bytes; }
    static size_t input_size(size_t n_in) { return n_blocks(n_in) * sizeof(Inputs); }

    template <int offset> static void convert(const float *row, size_t n_in, void *input);
    template <typename Reader> static void pack(const void *weights, size_t n_out, size_t n_in, void *packed);
    template <size_t n> static void multiply(const Tile &tile);

private:
    using Ints = typename Isa::Ints;
    using Floats = typename Isa::Floats;
    template <size_t n> using Sums = Floats[n][n_vectors]; // of some tokens with the rows of a panel
    struct Rows;

    template <size_t n> static void add_block(const char *block, const Rows &rows, Sums<n> &sums);
    template <size_t n> static void subtract_mins(const char *mins, const Rows &rows, Sums<n> &sums);
};

// ---------------------------------------------------------------- activations

constexpr size_t n_together = 8; // blocks that are rounded at a time: what is found in one is a lane

// Eight blocks, a lane each: what was found in their first halves and in their second halves.
struct Halves {
    __m256i first;
    __m256i second;
};

// From eight vectors, which blocks have each for themselves, to one lane of each 128 bits.
template <typename Combine> Halves combine_lanes(const __m256i (&of_block)[n_together], Combine combine) {
    const auto four = [&](const __m256i *v) {
        const __m256i first = combine(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
        const __m256i second = combine(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
        return combine(_mm256_unpacklo_epi64(first, second), _mm256_unpackhi_epi64(first, second));
    };
    const __m256i first = four(of_block);
    const __m256i second = four(of_block + 4);
    return {_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31)};
}

// NaN where one of a block is: as integers, the bits of NaN are above all others.
inline __m256 largest_of(const float *values) {
    const auto size_at = [&](size_t i) {
        return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(values + i)), _mm256_set1_epi32(INT32_MAX));
    };
    const auto larger = [](__m256i a, __m256i b) { return _mm256_max_epi32(a, b); };
    __m256i of_block[n_together];
    for (auto &largest : of_block) {
        largest = larger(larger(size_at(0), size_at(8)), larger(size_at(16), size_at(24)));
        values += block_values;
    }
    const Halves halves = combine_lanes(of_block, larger);
    return _mm256_castsi256_ps(larger(halves.first, halves.second));
}

// 32 values as bytes; NaN becomes some byte.
inline __m256i round_block(const float *values, float inverse) {
    const __m256 factor = _mm256_set1_ps(inverse);
    __m256i rounded[4];
    for (size_t i = 0; i < 4; ++i) {
        rounded[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + i * 8), factor));
    }
    const __m256i words[2] = {_mm256_packs_epi32(rounded[0], rounded[1]), _mm256_packs_epi32(rounded[2], rounded[3])};
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words[0], words[1]),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Sums of bytes of half a block, each in 16 bits: of the values 0 and 1 of all fours, and above it of the values 2 and 3.
inline __m256i total_of(__m256i pair_sums) {
    return _mm256_madd_epi16(pair_sums, _mm256_set1_epi16(1));
}

// What stands before the values of eight blocks, a lane each.
inline void store_heads(__m256i scales, __m256i sums, const __m256i (&begin)[2], Inputs *blocks) {
    const __m256i pairs[4] = {_mm256_unpacklo_epi32(scales, sums), _mm256_unpacklo_epi32(begin[0], begin[1]),
                              _mm256_unpackhi_epi32(scales, sums), _mm256_unpackhi_epi32(begin[0], begin[1])};
    const auto store = [&](size_t i, __m256i heads) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(blocks + i), _mm256_castsi256_si128(heads));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(blocks + i + 4), _mm256_extracti128_si256(heads, 1));
    };
    store(0, _mm256_unpacklo_epi64(pairs[0], pairs[1]));
    store(1, _mm256_unpackhi_epi64(pairs[0], pairs[1]));
    store(2, _mm256_unpacklo_epi64(pairs[2], pairs[3]));
    store(3, _mm256_unpackhi_epi64(pairs[2], pairs[3]));
}

// Of four blocks that stand together, in each of their lanes.
inline __m256 largest_of_groups(__m256 of_block) {
    const auto larger = [](__m256i a, __m256i b) { return _mm256_max_epi32(a, b); };
    const __m256i all = _mm256_castps_si256(of_block);
    const __m256i of_two = larger(all, _mm256_shuffle_epi32(all, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm256_castsi256_ps(larger(of_two, _mm256_shuffle_epi32(of_two, _MM_SHUFFLE(1, 0, 3, 2))));
}

// The sums of two blocks in the lane of the first.
inline __m256i pairs_of(__m256i sums) {
    return _mm256_blend_epi16(sums, _mm256_srli_epi64(sums, 16), 2 | 2 << 4);
}

// What the values of eight blocks are rounded by.
struct Steps {
    __m256 scale;
    alignas(__m256) float inverse[n_together];
};

template <typename F> Steps find_steps(const float *values) {
    constexpr float smallest = 1e-35F; // of which 127 / x is finite
    const __m256 of_block = largest_of(values);
    const __m256 largest = F::has_groups ? largest_of_groups(of_block) : of_block;
    const __m256 n_steps = _mm256_set1_ps(127.0F);
    const __m256 has_steps = _mm256_cmp_ps(largest, _mm256_set1_ps(smallest), _CMP_GE_OQ); // the others are zeros
    const __m256 is_nan = _mm256_cmp_ps(largest, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ);    // as infinity makes it
    Steps steps;
    steps.scale = _mm256_or_ps(_mm256_and_ps(has_steps, _mm256_div_ps(largest, n_steps)), is_nan);
    _mm256_store_ps(steps.inverse, _mm256_and_ps(has_steps, _mm256_div_ps(n_steps, largest)));
    return steps;
}

// offset: n
template <typename Dots, typename F, int offset>
void round_together(const float *values, const Steps &steps, Inputs *blocks) {
    __m256i pair_sums[n_together];
    for (size_t b = 0; b < n_together; ++b) {
        const __m256i bytes = round_block(values + b * block_values, steps.inverse[b]);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(blocks[b].values), bytes);
        pair_sums[b] = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    }
    const Halves sums = combine_lanes(pair_sums, [](__m256i a, __m256i b) { return _mm256_add_epi16(a, b); });
    __m256i begin[2];
    Dots::template set_begin<offset>(begin, sums);
    const __m256i total = _mm256_add_epi32(total_of(sums.first), total_of(sums.second));
    store_heads(_mm256_castps_si256(steps.scale),
                F::has_groups ? pairs_of(total) : _mm256_castps_si256(_mm256_cvtepi32_ps(total)), begin, blocks);
}

template <typename Isa, typename F>
template <int offset>
void Int8Products<Isa, F>::convert(const float *row, size_t n_in, void *input) {
    auto *blocks = static_cast<Inputs *>(input);
    const size_t n = n_blocks(n_in);
    if (n < n_together) {
        float values[n_together * block_values] = {};
        Inputs all[n_together];
        std::memcpy(values, row, n_in * sizeof *row);
        round_together<Dots, F, offset>(values, find_steps<F>(values), all);
        std::memcpy(blocks, all, n * sizeof *all);
        return;
    }
    // Far ahead, so that rounding does not wait for what it rounds by: a quarter of the time.
    constexpr size_t n_ahead = 8;
    constexpr size_t n_blocks_ahead = n_ahead * n_together;
    const auto begin = [n](size_t b) { return smaller(b, n - n_together); }; // some twice, where n is no multiple
    for (size_t first = 0; first < n; first += n_blocks_ahead) {
        const size_t end = smaller(n, first + n_blocks_ahead);
        Steps steps[n_ahead];
        for (size_t b = first; b < end; b += n_together) {
            steps[(b - first) / n_together] = find_steps<F>(row + begin(b) * block_values);
        }
        for (size_t b = first; b < end; b += n_together) {
            round_together<Dots, F, offset>(row + begin(b) * block_values, steps[(b - first) / n_together],
                                            blocks + begin(b));
        }
    }
}

// ---------------------------------------------------------------- weights

// A power of two that brings the largest scale of a row to at most 1.
inline float power_of(float largest) {
    if (!(largest > 0.0F) || !(largest <= FLT_MAX)) {
        return 1.0F;
    }
    int exponent = 0;
    static_cast<void>(std::frexp(largest, &exponent));
    return std::ldexp(1.0F, exponent < -120 ? -120 : exponent > 120 ? 120 : exponent);
}

inline uint16_t half_of(float value) {
    return static_cast<uint16_t>(_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0));
}

// Reader: reads one block of a row of the file as a WeightBlock.
template <typename Isa, typename F, typename Reader> class Packer {
public:
    Packer(const void *weights, size_t n_out, size_t n_in) : weights_(weights), n_out_(n_out), n_in_(n_in) {}

    void pack(char *panel, size_t first_row) {
        for (size_t r = 0; r < P::n_panel; ++r) {
            powers_[r] = first_row + r < n_out_ ? power_of(largest_scale(first_row + r)) : 1.0F;
        }
        std::memcpy(panel, powers_, sizeof powers_);
        char *group = panel + P::head_bytes;
        for (size_t b = 0; b < P::n_blocks(n_in_); b += F::n_group) {
            if (first_row + P::n_panel > n_out_) {
                std::memset(group, 0, P::group_bytes);
            }
            for (size_t i = 0; i < F::n_group; ++i) {
                char *block = group + P::min_bytes + i * P::block_bytes;
                for (size_t r = 0; r < P::n_panel && first_row + r < n_out_; ++r) {
                    const WeightBlock from = Reader::read(weights_, n_in_, first_row + r, b + i);
                    put(block, r, from, powers_[r]);
                    if constexpr (!F::has_offset) {
                        put_min(group, i, r, from, powers_[r]);
                    }
                }
            }
            group += P::group_bytes;
        }
    }

private:
    using P = Int8Products<Isa, F>;

    float largest_scale(size_t row) const {
        float largest = 0.0F;
        for (size_t b = 0; b < P::n_blocks(n_in_); ++b) {
            const WeightBlock block = Reader::read(weights_, n_in_, row, b);
            for (const float scale : {block.scales[0], block.scales[1], F::has_offset ? 0.0F : block.min_scale}) {
                largest = largest < std::fabs(scale) ? std::fabs(scale) : largest;
            }
        }
        return largest;
    }

    static void put_half(char *to, float value) {
        const uint16_t half = half_of(value);
        std::memcpy(to, &half, sizeof half);
    }

    // i: block of the group
    static void put_min(char *mins, size_t i, size_t r, const WeightBlock &from, float power) {
        put_half(mins + r * sizeof(uint16_t), from.min_scale / power);
        if constexpr (F::has_groups) {
            mins[P::line_bytes + i / 2 * 2 * P::n_panel + 2 * r + i % 2] = static_cast<char>(from.min);
        }
    }

    static void put(char *block, size_t r, const WeightBlock &from, float power) {
        char *scale = block + r * sizeof(uint16_t);
        put_half(scale, from.scales[0] / power);
        if constexpr (F::n_scales == 2) {
            put_half(scale + P::line_bytes, from.scales[1] / power);
        }
        char *values = block + P::scale_bytes + r * sizeof(uint32_t);
        constexpr size_t line = P::n_panel * sizeof(uint32_t);
        for (size_t i = 0; i < block_values / 8; ++i) {
            const uint32_t first = four_at(from, 2 * i);
            const uint32_t second = four_at(from, 2 * i + 1);
            if constexpr (F::stored_bits == 8) {
                constexpr uint32_t flipped_bits = 0x01010101U * P::Dots::flipped_bits;
                put_four(values + 2 * i * line, first ^ flipped_bits);
                put_four(values + (2 * i + 1) * line, second ^ flipped_bits);
            } else {
                put_four(values + i * line, first | second << 4U);
            }
        }
    }

    static uint32_t four_at(const WeightBlock &from, size_t i) {
        uint32_t four = 0;
        std::memcpy(&four, from.values.data() + i * sizeof four, sizeof four);
        return four;
    }

    static void put_four(char *to, uint32_t four) { std::memcpy(to, &four, sizeof four); }

    const void *weights_;
    size_t n_out_;
    size_t n_in_;
    float powers_[P::n_panel];
};

template <typename Isa, typename F>
template <typename Reader>
void Int8Products<Isa, F>::pack(const void *weights, size_t n_out, size_t n_in, void *packed) {
    Packer<Isa, F, Reader> packer(weights, n_out, n_in);
    auto *panel = static_cast<char *>(packed);
    for (size_t row = 0; row < n_out; row += n_panel) {
        packer.pack(panel, row);
        panel += panel_size(n_in);
    }
}

// ---------------------------------------------------------------- products

// Two fours of all rows of a panel.
template <typename Isa, typename F> struct Fours {
    typename Isa::Ints q[2][Isa::n_vectors];

    static Fours read(const char *values, size_t i) {
        constexpr size_t line = Isa::width * 4;
        Fours f;
        for (size_t j = 0; j < Isa::n_vectors; ++j) {
            if constexpr (F::stored_bits == 8) {
                for (size_t k = 0; k < 2; ++k) {
                    f.q[k][j] = Isa::load_ints(values + ((2 * i + k) * Isa::n_vectors + j) * line);
                }
            } else {
                const auto both = Isa::load_ints(values + (i * Isa::n_vectors + j) * line);
                f.q[0][j] = Isa::low_nibbles(both);
                f.q[1][j] = Isa::high_nibbles(both);
                if constexpr (F::has_table) {
                    f.q[0][j] = Isa::look_up(f.q[0][j]);
                    f.q[1][j] = Isa::look_up(f.q[1][j]);
                }
            }
        }
        return f;
    }
};

inline int32_t four_of(const Inputs &block, size_t i) {
    int32_t values = 0;
    std::memcpy(&values, block.values + 4 * i, sizeof values);
    return values;
}

inline int32_t bits_of(float value) {
    int32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <typename Isa, size_t n> void clear(typename Isa::Floats (&sums)[n][Isa::n_vectors]) {
    for (auto &of_token : sums) {
        for (auto &sum : of_token) {
            sum = Isa::zeros();
        }
    }
}

// So that registers are left for what changes more often. Compilers choose others: 15 % of the time of Q6_K.
template <typename T> void keep_in_memory(T &values) {
    __asm__ volatile("" : : "r"(&values) : "memory");
}

// A block of the activations of some tokens.
template <typename Isa, typename F> struct Int8Products<Isa, F>::Rows {
    const char *inputs;
    size_t input_size;

    const Inputs &operator[](size_t t) const { return *reinterpret_cast<const Inputs *>(inputs + t * input_size); }
};

// Adds d * (q0 a0 + ... + q31 a31).
template <typename Isa, typename F>
template <size_t n>
[[gnu::always_inline]] inline void Int8Products<Isa, F>::add_block(const char *block, const Rows &rows, Sums<n> &sums) {
    constexpr size_t pairs_each = block_values / 8 / F::n_scales;
#pragma GCC unroll 2
    for (size_t s = 0; s < F::n_scales; ++s) {
        Ints dots[n][n_vectors];
#pragma GCC unroll 8
        for (size_t t = 0; t < n; ++t) {
#pragma GCC unroll 4
            for (size_t j = 0; j < n_vectors; ++j) {
                dots[t][j] = Dots::begin(rows[t].begin[s]);
            }
        }
#pragma GCC unroll 8
        for (size_t i = s * pairs_each; i < (s + 1) * pairs_each; ++i) {
            const auto fours = Fours<Isa, F>::read(block + scale_bytes, i);
#pragma GCC unroll 2
            for (size_t f = 0; f < 2; ++f) {
#pragma GCC unroll 8
                for (size_t t = 0; t < n; ++t) {
                    const Ints x = Isa::all(four_of(rows[t], 2 * i + f));
#pragma GCC unroll 4
                    for (size_t j = 0; j < n_vectors; ++j) {
                        dots[t][j] = Dots::add(dots[t][j], fours.q[f][j], x);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < n_vectors; ++j) {
            const Floats d = Isa::of_halves(block + s * line_bytes + j * Isa::width * sizeof(uint16_t));
#pragma GCC unroll 8
            for (size_t t = 0; t < n; ++t) {
                const Floats dot = Isa::of_ints(Dots::end(dots[t][j], rows[t].begin));
                sums[t][j] = Isa::multiply_add(d, dot, sums[t][j]);
            }
        }
    }
}

// Subtracts m * (a0 + ... + a31) of all blocks of a group.
template <typename Isa, typename F>
template <size_t n>
[[gnu::always_inline]] inline void Int8Products<Isa, F>::subtract_mins(const char *mins, const Rows &rows,
                                                                       Sums<n> &sums) {
#pragma GCC unroll 4
    for (size_t j = 0; j < n_vectors; ++j) {
        const Floats scale = Isa::of_halves(mins + j * Isa::width * sizeof(uint16_t));
#pragma GCC unroll 8
        for (size_t t = 0; t < n; ++t) {
            Floats total = Isa::all(rows[t].sum);
            if constexpr (F::has_groups) {
                Ints dot = Isa::all(0);
#pragma GCC unroll 4
                for (size_t i = 0; i < F::n_group; i += 2) {
                    const Ints m = Isa::words_of_bytes(mins + line_bytes + i * n_panel + j * 2 * Isa::width);
                    dot = Isa::add_two_products(dot, m, Isa::all(bits_of((&rows[t])[i].sum)));
                }
                total = Isa::of_ints(dot);
            }
            sums[t][j] = Isa::multiply_subtract(scale, total, sums[t][j]);
        }
    }
}

template <typename Isa, typename F> template <size_t n> void Int8Products<Isa, F>::multiply(const Tile &tile) {
    Sums<n> sums;
    clear<Isa>(sums);
    const char *group = tile.panel + head_bytes;
    Rows rows{tile.inputs, tile.input_size};
    for (size_t k = 0; k < n_groups(tile.n_in); ++k, group += group_bytes) {
        const Rows first = rows;
        Sums<n> scaled;
        clear<Isa>(scaled);
        for (size_t i = 0; i < F::n_group; ++i, rows.inputs += sizeof(Inputs)) {
            add_block<n>(group + min_bytes + i * block_bytes, rows, scaled);
        }
        if constexpr (!F::has_offset) {
            subtract_mins<n>(group, first, scaled);
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < n_vectors; ++j) {
#pragma GCC unroll 8
            for (size_t t = 0; t < n; ++t) {
                sums[t][j] = Isa::multiply_add(Isa::all(first[t].scale), scaled[t][j], sums[t][j]);
            }
        }
        if constexpr (F::has_groups) {
            keep_in_memory(sums);
        }
    }
    for (size_t j = 0; j < n_vectors && j * Isa::width < tile.n_out; ++j) {
        const Floats power = Isa::load(tile.panel + j * Isa::width * sizeof(float));
        for (size_t t = 0; t < n; ++t) {
            Isa::store(tile.out + t * tile.out_stride + j * Isa::width, Isa::multiply(sums[t][j], power),
                       tile.n_out - j * Isa::width);
        }
    }
}

// ---------------------------------------------------------------- vectors and kernels

// Products of CPUs that add four of them to a sum of 32 bits. V: vectors.
template <typename V, typename F> struct FourProducts {
    using Ints = typename V::Ints;
    static constexpr uint8_t flipped_bits = 0;
    static constexpr size_t n_tokens = V::template n_tokens<F>;

    template <int offset> static void set_begin(__m256i (&begin)[2], const Halves &sums) {
        const __m256i total =
            F::n_scales == 2 ? total_of(sums.first) : _mm256_add_epi32(total_of(sums.first), total_of(sums.second));
        begin[0] = _mm256_mullo_epi32(total, _mm256_set1_epi32(-offset));
        begin[1] = _mm256_mullo_epi32(total_of(sums.second), _mm256_set1_epi32(-offset));
    }
    static Ints begin(int32_t value) { return V::all(F::has_offset ? value : 0); }
    static Ints add(Ints sum, Ints q, Ints x) { return V::add_four_products(sum, q, x); }
    static Ints end(Ints sum, const int32_t * /*begin*/) { return sum; }
};

template <typename Isa, typename F, typename Reader> constexpr MatmulKernel int8_kernel() {
    using P = Int8Products<Isa, F>;
    return {Isa::name,        P::n_panel,
            packed_size<P>,   P::template pack<Reader>,
            P::input_size,    P::template convert<Reader::offset>,
            multiply_tiles<P>};
}

using Nibbles = Format<4, 1, true>;
using NibblesWithMin = Format<4, 1, false>;
using NibblesByTable = Format<4, 1, true, 1, true>;
using Fives = Format<5, 1, true>;
using FivesWithMin = Format<5, 1, false>;
using Bytes = Format<8, 1, true>;
using GroupedNibbles = Format<4, 1, false, 4>;
using GroupedFives = Format<5, 1, false, 4>;
using GroupedSixes = Format<6, 2, true, 4>;

// In the order of WeightType.
template <typename Isa>
constexpr MatmulKernel int8_kernels[] = {
    int8_kernel<Isa, Nibbles, ReadQ4_0>(),
    int8_kernel<Isa, NibblesWithMin, ReadQ4_1>(),
    int8_kernel<Isa, Fives, ReadQ5_0>(),
    int8_kernel<Isa, FivesWithMin, ReadQ5_1>(),
    int8_kernel<Isa, Bytes, ReadQ8_0>(),
    int8_kernel<Isa, GroupedNibbles, ReadQ4_K>(),
    int8_kernel<Isa, GroupedFives, ReadQ5_K>(),
    int8_kernel<Isa, GroupedSixes, ReadQ6_K>(),
    int8_kernel<Isa, NibblesByTable, ReadIQ4_NL>(),
    int8_kernel<Isa, NibblesByTable, ReadIQ4_XS>(),
};

} // namespace
} // namespace gge
