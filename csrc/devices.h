// Choosing a device by name.
#pragma once

#include "backend.h"

namespace gge {

struct DeviceChoice {
    Device device;
    std::string reason;
};

// devices: what there is, the CPU last. name: "auto", "cpu", "cuda", "cuda:1", "metal", ...
DeviceChoice choose_device(const std::vector<Device> &devices, const std::string &name);

} // namespace gge
