// Products in float: AVX-512.
#include "matmul_floats.h"

namespace gge {
namespace {

struct Avx512 {
    using Floats = __m512;
    static constexpr const char *name = "avx512";
    static constexpr size_t width = 16; // sums of a vector
    static constexpr size_t n_vectors = 2;
    static constexpr size_t n_float_tokens = 14; // two registers for weights, one for activations

    static __m256i load_16(const void *values) { return _mm256_loadu_si256(static_cast<const __m256i *>(values)); }
    static Floats read(const float *values) { return _mm512_loadu_ps(values); }
    static Floats read(const Half *values) { return _mm512_cvtph_ps(load_16(values)); }
    static Floats read(const Bfloat *values) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16(values)), 16));
    }
    static Floats zeros() { return _mm512_setzero_ps(); }
    static Floats all(float value) { return _mm512_set1_ps(value); }
    static Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
    static void store(float *out, Floats values, size_t n) {
        _mm512_mask_storeu_ps(out, static_cast<__mmask16>(n < width ? (1U << n) - 1U : 0xFFFFU), values);
    }
};

} // namespace

const MatmulKernel *const avx512_floats = float_kernels<Avx512>;

} // namespace gge
