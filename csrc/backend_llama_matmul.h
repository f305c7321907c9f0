// Our matrix kernels as buffer types of ggml's CPU, which weights are packed in.
#pragma once

#include <ggml-backend.h>

#include <string>

namespace gge {

// Has upstream put weights where our kernels multiply them, where there is one for the CPU. Before the first model.
void add_cpu_kernels();

// While it lives, it says whether the weights of models that this thread loads may be put there.
class CpuKernels {
public:
    explicit CpuKernels(bool allowed) noexcept;
    ~CpuKernels();
    CpuKernels(const CpuKernels &) = delete;
    CpuKernels &operator=(const CpuKernels &) = delete;
};

// Name of our kernel that weights are packed for, or empty.
std::string packed_for(const ggml_tensor *weights);

// Where our kernel for such weights of a tower reads them, which loses no bits of halves: towers with gated layers miss
// them, 2e-4 in the cosine of a tiny one. NULL if there is none.
ggml_backend_buffer_type_t packed_buffer_type(const ggml_tensor *weights);

// Where the i-th kernel of those that the CPU has for a type reads weights: 0 to 2. For tests, but for the first.
ggml_backend_buffer_type_t kernel_buffer_type(size_t i_kernel);

} // namespace gge
