// Products without VNNI: AVX2, FMA and F16C.
#include "matmul_avx2.h"
#include "matmul_floats.h"
#include "matmul_int8.h"

#include <type_traits>

namespace gge {
namespace {

// A sum that compilers do not form later, in another order, which takes more registers than there are.
inline __m256i in_order(__m256i sum) {
    __asm__("" : "+x"(sum));
    return sum;
}

// Products of bytes of up to 6 bits are added by twos in 16 bits. The sums of a block fit because they begin with -n times
// the activations, each half with those that it adds up.
template <typename F> struct TwoProducts {
    using Ints = __m256i;
    static constexpr uint8_t flipped_bits = 0;
    static constexpr size_t n_tokens = 6;
    static constexpr bool is_centred = !F::has_offset && F::n_bits == 5; // as if n were 16; added again at the end
    static constexpr int largest = F::has_offset || is_centred ? 1 << (F::n_bits - 1) : (1 << F::n_bits) - 1;
    static_assert(static_cast<int>(block_values / 2 / F::n_scales) * 127 * largest <= INT16_MAX);

    template <int offset> static void set_begin(__m256i (&begin)[2], const Halves &sums) {
        constexpr int n = is_centred ? 16 : offset;
        const auto times = [](__m256i pair_sums) { return _mm256_mullo_epi16(pair_sums, _mm256_set1_epi16(-n)); };
        if constexpr (F::n_scales == 2) {
            begin[0] = times(sums.first);
            begin[1] = times(sums.second);
        } else {
            const __m256i both = _mm256_add_epi16(sums.first, sums.second);
            begin[0] = times(both);
            begin[1] = _mm256_mullo_epi32(total_of(both), _mm256_set1_epi32(n));
        }
    }
    static Ints begin(int32_t value) { return Avx2Vectors::all(F::has_offset || is_centred ? value : 0); }
    static Ints add(Ints sum, Ints q, Ints x) { return in_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(q, x))); }
    static Ints end(Ints sum, const int32_t *begin) {
        const Ints total = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
        return is_centred ? _mm256_add_epi32(total, Avx2Vectors::all(begin[1])) : total;
    }
};

// Larger products: bytes with a sign, which activations take over, since one side has to be without. Twos of these fit 16
// bits, their sums do not.
template <typename F> struct SignedProducts {
    using Ints = __m256i;
    static constexpr uint8_t flipped_bits = 128;
    static constexpr size_t n_tokens = 6;

    template <int offset> static void set_begin(__m256i (&begin)[2], const Halves & /*sums*/) {
        begin[0] = begin[1] = _mm256_setzero_si256();
    }
    static Ints begin(int32_t /*value*/) { return _mm256_setzero_si256(); }
    static Ints add(Ints sum, Ints q, Ints x) {
        const Ints twos = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
        return in_order(_mm256_add_epi32(sum, _mm256_madd_epi16(twos, _mm256_set1_epi16(1))));
    }
    static Ints end(Ints sum, const int32_t * /*begin*/) { return sum; }
};

struct Avx2 : Avx2Vectors {
    static constexpr const char *name = "avx2";
    static constexpr size_t n_vectors = 2;
    static constexpr size_t n_float_tokens = 6; // two registers for weights, one for activations
    template <typename F>
    using Dots = std::conditional_t<F::n_bits == 8 || F::has_table, SignedProducts<F>, TwoProducts<F>>;

    static Floats read(const float *values) { return _mm256_loadu_ps(values); }
    static Floats read(const Half *values) { return _mm256_cvtph_ps(load_16(values)); }
    static Floats read(const Bfloat *values) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(values)), 16));
    }

    static Ints look_up(Ints at) { return _mm256_xor_si256(Avx2Vectors::look_up(at), _mm256_set1_epi8(-128)); }
};

} // namespace

const MatmulKernel *const avx2_int8 = int8_kernels<Avx2>;
const MatmulKernel *const avx2_floats = float_kernels<Avx2>;

} // namespace gge
