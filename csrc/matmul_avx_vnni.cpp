// Products of quantised weights: AVX-VNNI.
#include "matmul_avx2.h"
#include "matmul_int8.h"

namespace gge {
namespace {

struct VnniVectors : Avx2Vectors {
    template <typename F> static constexpr size_t n_tokens = 6;
    static Ints add_four_products(Ints sum, Ints q, Ints x) { return _mm256_dpbusd_avx_epi32(sum, q, x); }
    static Ints add_two_products(Ints sum, Ints a, Ints b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
};

struct AvxVnni : VnniVectors {
    static constexpr const char *name = "avx-vnni";
    static constexpr size_t n_vectors = 2;
    template <typename F> using Dots = FourProducts<VnniVectors, F>;
};

} // namespace

const MatmulKernel *const avx_vnni_int8 = int8_kernels<AvxVnni>;

} // namespace gge
