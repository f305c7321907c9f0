#include "cuda_graphs.h"

#include <algorithm>
#include <cstdlib>

namespace gge {
namespace {

constexpr int32_t hopper = 9;

std::string show_capability(const Device &device) {
    return device.name + " has compute capability " + std::to_string(device.capability.major) + "." +
           std::to_string(device.capability.minor);
}

} // namespace

GraphsChoice choose_cuda_graphs(CudaGraphs wanted, const std::vector<Device> &devices, bool disabled) {
    std::vector<Device> gpus;
    std::copy_if(devices.begin(), devices.end(), std::back_inserter(gpus),
                 [](const Device &device) { return device.kind == GGE_DEVICE_CUDA; });
    if (gpus.empty()) {
        return {false, "no CUDA device is used"};
    }
    if (disabled) {
        return {false, "GGML_CUDA_DISABLE_GRAPHS is set"};
    }
    if (wanted != CudaGraphs::automatic) {
        return {wanted == CudaGraphs::on, "asked for"};
    }
    for (const Device &gpu : gpus) {
        if (gpu.capability.major == 0) {
            return {false, "auto: the compute capability of " + gpu.name + " is unknown"};
        }
        if (gpu.capability.major == hopper) {
            return {false, "auto: " + show_capability(gpu)};
        }
    }
    return {true, "auto: " + show_capability(gpus.front())};
}

bool environment_disables_graphs() noexcept {
    return std::getenv("GGML_CUDA_DISABLE_GRAPHS") != nullptr; // NOLINT(concurrency-mt-unsafe): we set no variables
}

} // namespace gge
