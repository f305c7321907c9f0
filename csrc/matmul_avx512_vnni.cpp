// Products of quantised weights: AVX-512 VNNI.
#include "matmul_int8.h"

namespace gge {
namespace {

struct Avx512 {
    using Ints = __m512i;
    using Floats = __m512;
    static constexpr size_t width = 16; // sums of a vector
    static constexpr size_t n_vectors = 2;
    template <typename F> static constexpr size_t n_tokens = 6;

    static Ints all(int32_t value) { return _mm512_set1_epi32(value); }
    static Ints load_ints(const char *values) { return _mm512_loadu_si512(values); }
    static Ints words_of_bytes(const char *bytes) {
        return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(bytes)));
    }
    static Ints low_nibbles(Ints bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
    static Ints high_nibbles(Ints bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
    static Ints look_up(Ints at) {
        return _mm512_shuffle_epi8(
            _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(nonlinear_values.data()))), at);
    }
    static Ints add_four_products(Ints sum, Ints q, Ints x) { return _mm512_dpbusd_epi32(sum, q, x); }
    static Ints add_two_products(Ints sum, Ints a, Ints b) { return _mm512_dpwssd_epi32(sum, a, b); }

    static Floats zeros() { return _mm512_setzero_ps(); }
    static Floats all(float value) { return _mm512_set1_ps(value); }
    static Floats load(const char *values) { return _mm512_loadu_ps(values); }
    static Floats of_halves(const char *halves) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(halves)));
    }
    static Floats of_ints(Ints values) { return _mm512_cvtepi32_ps(values); }
    static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
    static Floats multiply_subtract(Floats a, Floats b, Floats sum) { return _mm512_fnmadd_ps(a, b, sum); }
    static void store(float *out, Floats values, size_t n) {
        const auto mask = static_cast<__mmask16>(n < width ? (1U << n) - 1U : 0xFFFFU);
        _mm512_mask_storeu_ps(out, mask, values);
    }
};

struct Avx512Vnni : Avx512 {
    static constexpr const char *name = "avx512-vnni";
    template <typename F> using Dots = FourProducts<Avx512, F>;
};

} // namespace

const MatmulKernel *const avx512_vnni_int8 = int8_kernels<Avx512Vnni>;

} // namespace gge
