// Whether CUDA graphs are captured (docs/adr/0014).
#pragma once

#include "backend.h"

namespace gge {

struct GraphsChoice {
    bool on = false;
    std::string reason;
};

// devices: those in use. disabled: whether the environment has GGML_CUDA_DISABLE_GRAPHS.
GraphsChoice choose_cuda_graphs(CudaGraphs wanted, const std::vector<Device> &devices, bool disabled);

// Whether it has; upstream does not look at the value.
bool environment_disables_graphs() noexcept;

} // namespace gge
