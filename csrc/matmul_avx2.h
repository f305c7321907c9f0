// Vectors of 256 bits.
#pragma once

#include "ggml_blocks.h"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace gge {
namespace { // each file that includes this is compiled for a CPU of its own

struct Avx2Vectors {
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr size_t width = 8; // sums of a vector

    static Ints all(int32_t value) { return _mm256_set1_epi32(value); }
    static Ints load_ints(const char *values) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(values)); }
    static Ints words_of_bytes(const char *bytes) { return _mm256_cvtepu8_epi16(load_16(bytes)); }
    static Ints low_nibbles(Ints bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
    static Ints high_nibbles(Ints bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
    static Ints look_up(Ints at) {
        return _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(nonlinear_values.data()))),
            at);
    }
    static Ints add_two_products(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }

    static __m128i load_16(const void *bytes) { return _mm_loadu_si128(static_cast<const __m128i *>(bytes)); }
    static Floats zeros() { return _mm256_setzero_ps(); }
    static Floats all(float value) { return _mm256_set1_ps(value); }
    static Floats load(const char *values) { return _mm256_loadu_ps(reinterpret_cast<const float *>(values)); }
    static Floats of_halves(const char *halves) { return _mm256_cvtph_ps(load_16(halves)); }
    static Floats of_ints(Ints values) { return _mm256_cvtepi32_ps(values); }
    static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
    static Floats multiply_subtract(Floats a, Floats b, Floats sum) { return _mm256_fnmadd_ps(a, b, sum); }
    static void store(float *out, Floats values, size_t n) {
        if (n >= width) {
            _mm256_storeu_ps(out, values);
        } else {
            const __m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskstore_ps(out, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), at), values);
        }
    }
};

} // namespace
} // namespace gge
