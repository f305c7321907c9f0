#include "matmul.h"

namespace gge {

const MatmulKernel *matmul_kernel(WeightType type) noexcept {
#if defined(GGE_HAVE_X86_64)
    static const bool has_avx512 = __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    static const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16") != 0;
    static const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni") != 0;
    switch (type) {
    case WeightType::f16: return has_bf16 ? &avx512_bf16_of_f16 : nullptr;
    case WeightType::bf16: return has_bf16 ? &avx512_bf16_of_bf16 : nullptr;
    default: return has_vnni ? &avx512_vnni_kernels[static_cast<int>(type)] : nullptr;
    }
#else
    static_cast<void>(type);
    return nullptr;
#endif
}

} // namespace gge
