// Products of activations and weights on the CPU: weights in the order in which a kernel reads them, kernels chosen by
// the CPU that runs. Pure: floats in, floats out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gge {

// whole_f16: F16 in a kernel that keeps all its bits.
enum class WeightType { q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, f16, bf16, f32, whole_f16 };

// The rows of activations as a kernel reads them, and where its products go.
struct MatmulTask {
    const void *weights = nullptr; // packed, [n_out, n_in]
    size_t n_out = 0;
    size_t n_in = 0;
    const void *inputs = nullptr; // converted: [n_tokens], input_size(n_in) bytes each
    size_t n_tokens = 0;
    float *out = nullptr; // [n_tokens, n_out]
    size_t out_stride = 0;
};

// What a CPU does with one type of weights. A product is the same to the last bit whatever stands in the other rows of
// inputs and weights, and however the work is shared out.
struct MatmulKernel {
    const char *name; // as gge_model_info shows it
    size_t n_panel;   // rows of the weights that stand interleaved; the last panel is filled up with zeros

    size_t (*packed_size)(size_t n_out, size_t n_in);
    // weights: [n_out, n_in] as a GGUF file holds them.
    void (*pack)(const void *weights, size_t n_out, size_t n_in, void *packed);

    size_t (*input_size)(size_t n_in);
    void (*convert)(const float *row, size_t n_in, void *input);

    // Computes the panels begin .. end - 1 of some tokens.
    void (*multiply)(const MatmulTask &task, size_t panel_begin, size_t panel_end, size_t token_begin,
                     size_t token_end);
};

// The kernels for a type that this CPU can run, the best first; NULL after the last, and for the first where upstream's
// own kernel serves as well or better. None for ARM, where upstream has kernels for dotprod and i8mm.
const MatmulKernel *matmul_kernel(WeightType type, size_t i = 0) noexcept;

inline size_t n_panels(const MatmulKernel &kernel, size_t n_out) {
    return (n_out + kernel.n_panel - 1) / kernel.n_panel;
}

// By kind of CPU, in the order of WeightType: ten for quantised weights, or those from F16 on.
extern const MatmulKernel *const avx512_vnni_int8;
extern const MatmulKernel *const avx_vnni_int8;
extern const MatmulKernel *const avx2_int8;
extern const MatmulKernel *const avx512_bf16; // F16 and BF16
extern const MatmulKernel *const avx512_floats;
extern const MatmulKernel *const avx2_floats;

} // namespace gge
