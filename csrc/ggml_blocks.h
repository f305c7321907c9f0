// How GGUF files hold quantised weights: readers that show 32 values of a row as scales and unsigned numbers. Source of
// the layouts: ggml's dequantize_row_* functions.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gge {
namespace { // each file that includes this is compiled for a CPU of its own

constexpr size_t block_values = 32;

// Values are scale * q - min_scale * min, with one scale, or one for each half. Readers with an offset have scale * offset
// in place of the mins.
struct WeightBlock {
    std::array<float, 2> scales{};
    float min_scale = 0.0F;
    uint8_t min = 1;
    std::array<uint8_t, block_values> values{};
};

// Of types IQ4_NL and IQ4_XS, plus 128.
constexpr std::array<uint8_t, 16> nonlinear_values = {1,   24,  45,  63,  79,  93,  106, 118,
                                                      129, 141, 153, 166, 181, 197, 217, 241};

inline float float_of_half(const uint8_t *bytes) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bytes[0] | bytes[1] << 8)));
}

// block_bytes: of a block of the file, which holds n_values.
template <size_t n_values_, size_t block_bytes_, int offset_> struct Reader {
    static constexpr size_t n_values = n_values_;
    static constexpr int offset = offset_;

    // The file's block with values 32 b .. 32 b + 31 of a row.
    static const uint8_t *find(const void *weights, size_t n_in, size_t row, size_t b) {
        return static_cast<const uint8_t *>(weights) +
               (row * (n_in / n_values) + b * block_values / n_values) * block_bytes_;
    }
};

// 16 bytes with the first half of the values in their low bits, the second in their high bits.
inline void read_nibbles(const uint8_t *bytes, WeightBlock &block) {
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i *>(bytes));
    const __m256i values = _mm256_set_m128i(_mm_srli_epi16(both, 4), both);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(block.values.data()),
                        _mm256_and_si256(values, _mm256_set1_epi8(15)));
}

// And one more bit for each from 4 bytes.
inline void read_fifth_bits(const uint8_t *bytes, WeightBlock &block) {
    const uint32_t bits =
        static_cast<uint32_t>(bytes[0] | bytes[1] << 8 | bytes[2] << 16) | static_cast<uint32_t>(bytes[3]) << 24;
    const __m256i of_place = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i byte_of_place = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i all = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of_place);
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(all, of_place), of_place);
    auto *values = reinterpret_cast<__m256i *>(block.values.data());
    _mm256_storeu_si256(values,
                        _mm256_or_si256(_mm256_loadu_si256(values), _mm256_and_si256(is_set, _mm256_set1_epi8(16))));
}

// A scale, perhaps a min, perhaps the fifth bits, and four bits of each value.
template <int offset_, bool has_min, bool has_fifth_bits>
struct ReadNibbles : Reader<32, size_t{18} + (has_min ? 2U : 0U) + (has_fifth_bits ? 4U : 0U), offset_> {
    static WeightBlock read(const void *weights, size_t n_in, size_t row, size_t b) {
        const uint8_t *p = ReadNibbles::find(weights, n_in, row, b);
        WeightBlock block;
        block.scales[0] = float_of_half(p);
        p += 2;
        if constexpr (has_min) {
            block.min_scale = -float_of_half(p);
            p += 2;
        }
        if constexpr (has_fifth_bits) {
            read_nibbles(p + 4, block);
            read_fifth_bits(p, block);
        } else {
            read_nibbles(p, block);
        }
        return block;
    }
};

using ReadQ4_0 = ReadNibbles<8, false, false>;
using ReadQ4_1 = ReadNibbles<0, true, false>;
using ReadQ5_0 = ReadNibbles<16, false, true>;
using ReadQ5_1 = ReadNibbles<0, true, true>;
using ReadIQ4_NL = ReadNibbles<128, false, false>;

struct ReadQ8_0 : Reader<32, 34, 128> {
    static WeightBlock read(const void *weights, size_t n_in, size_t row, size_t b) {
        const uint8_t *p = find(weights, n_in, row, b);
        WeightBlock block;
        block.scales[0] = float_of_half(p);
        for (size_t i = 0; i < block_values; ++i) {
            block.values[i] = p[2 + i] ^ 128U; // signed to unsigned, plus 128
        }
        return block;
    }
};

// Scales and mins of Q4_K and Q5_K: eight of each with 6 bits in 12 bytes.
inline void read_k_scales(const uint8_t *p, size_t i, WeightBlock &block) {
    const uint8_t *packed = p + 4;
    const uint32_t scale = i < 4 ? packed[i] & 63U : (packed[i + 4] & 15U) | packed[i - 4] >> 6U << 4U;
    block.scales[0] = float_of_half(p) * static_cast<float>(scale);
    block.min_scale = float_of_half(p + 2);
    block.min = static_cast<uint8_t>(i < 4 ? packed[i + 4] & 63U : packed[i + 4] >> 4U | packed[i] >> 6U << 4U);
}

struct ReadQ4_K : Reader<256, 144, 0> {
    static WeightBlock read(const void *weights, size_t n_in, size_t row, size_t b) {
        const uint8_t *p = find(weights, n_in, row, b);
        const size_t i = b % 8; // 32 bytes hold two blocks, the second in the high bits
        WeightBlock block;
        read_k_scales(p, i, block);
        for (size_t k = 0; k < block_values; ++k) {
            block.values[k] = p[16 + i / 2 * 32 + k] >> i % 2 * 4 & 15U;
        }
        return block;
    }
};

struct ReadQ5_K : Reader<256, 176, 0> {
    static WeightBlock read(const void *weights, size_t n_in, size_t row, size_t b) {
        const uint8_t *p = find(weights, n_in, row, b);
        const size_t i = b % 8; // the fifth bits of all blocks: a byte for each place, a bit for each block
        WeightBlock block;
        read_k_scales(p, i, block);
        for (size_t k = 0; k < block_values; ++k) {
            const uint32_t low = p[48 + i / 2 * 32 + k] >> i % 2 * 4 & 15U;
            block.values[k] = static_cast<uint8_t>(low | (p[16 + k] >> i & 1U) << 4U);
        }
        return block;
    }
};

struct ReadQ6_K : Reader<256, 210, 32> {
    static WeightBlock read(const void *weights, size_t n_in, size_t row, size_t b) {
        const uint8_t *p = find(weights, n_in, row, b);
        const size_t i = b % 4; // of the 4 blocks of 128 values: 64 bytes of low bits, 32 of high ones, 8 scales
        const uint8_t *low = p + b % 8 / 4 * 64 + i % 2 * 32;
        const uint8_t *high = p + 128 + b % 8 / 4 * 32;
        const auto *scales = reinterpret_cast<const int8_t *>(p) + 192 + b % 8 * 2;
        const float d = float_of_half(p + 208);
        WeightBlock block;
        block.scales = {d * static_cast<float>(scales[0]), d * static_cast<float>(scales[1])};
        for (size_t k = 0; k < block_values; ++k) {
            block.values[k] = static_cast<uint8_t>((low[k] >> i / 2 * 4 & 15U) | (high[k] >> i * 2 & 3U) << 4U);
        }
        return block;
    }
};

struct ReadIQ4_XS : Reader<256, 136, 128> {
    static WeightBlock read(const void *weights, size_t n_in, size_t row, size_t b) {
        const uint8_t *p = find(weights, n_in, row, b);
        const size_t i = b % 8;
        const uint32_t high = static_cast<uint32_t>(p[2] | p[3] << 8) >> i * 2 & 3U;
        const uint32_t low = p[4 + i / 2] >> i % 2 * 4 & 15U;
        WeightBlock block;
        block.scales[0] = float_of_half(p) * static_cast<float>(static_cast<int>(low | high << 4U) - 32);
        read_nibbles(p + 8 + i * 16, block);
        return block;
    }
};

} // namespace
} // namespace gge
