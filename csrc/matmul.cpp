#include "matmul.h"

#include <array>

#if defined(GGE_HAVE_X86_64)
#include <cpuid.h>
#endif

namespace gge {

#if defined(GGE_HAVE_X86_64)
namespace {

// What compilers do not all know by name. Whether the system keeps the registers is asked of those that they know.
bool has_bit(unsigned leaf, unsigned subleaf, size_t word, unsigned bit) {
    std::array<unsigned, 4> words{}; // eax, ebx, ecx, edx
    return __get_cpuid_count(leaf, subleaf, &words[0], &words[1], &words[2], &words[3]) != 0 &&
           (words[word] >> bit & 1U) != 0;
}

struct Cpu {
    bool f16c = has_bit(1, 0, 2, 29);
    bool avx2 = f16c && __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    bool avx_vnni = avx2 && has_bit(7, 1, 0, 4);
    bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    bool avx512_vnni = avx512 && __builtin_cpu_supports("avx512vnni") != 0;
    bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16") != 0;
};

// The best first. NULL: not on this CPU.
std::array<const MatmulKernel *, 3> kernels_of(WeightType type) {
    static const Cpu cpu;
    const bool is_float = type >= WeightType::f16;
    const auto i = static_cast<size_t>(type) - (is_float ? static_cast<size_t>(WeightType::f16) : 0);
    const auto pick = [&](bool runs, const MatmulKernel *kernels) { return runs ? kernels + i : nullptr; };
    if (is_float) {
        return {pick(cpu.avx512_bf16 && type <= WeightType::bf16, avx512_bf16), pick(cpu.avx512, avx512_floats),
                pick(cpu.avx2, avx2_floats)};
    }
    return {pick(cpu.avx512_vnni, avx512_vnni_int8), pick(cpu.avx_vnni, avx_vnni_int8), pick(cpu.avx2, avx2_int8)};
}

} // namespace
#endif

const MatmulKernel *matmul_kernel(WeightType type, size_t i) noexcept {
#if defined(GGE_HAVE_X86_64)
    for (const MatmulKernel *kernel : kernels_of(type)) {
        if (kernel != nullptr && i-- == 0) {
            return kernel;
        }
    }
#else
    static_cast<void>(type);
    static_cast<void>(i);
#endif
    return nullptr;
}

} // namespace gge
