// What NVIDIA's driver tells without CUDA's headers and libraries.
#pragma once

#include <cstdint>
#include <vector>

namespace gge {

// 0 = unknown
struct ComputeCapability {
    int32_t major = 0;
    int32_t minor = 0;
};

// Of the driver's devices, in CUDA's order; empty without a driver. Loads and starts the driver once in a process.
const std::vector<ComputeCapability> &compute_capabilities();

} // namespace gge
