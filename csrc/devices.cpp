#include "devices.h"

namespace gge {

DeviceChoice choose_device(const std::vector<Device> &devices, const std::string &name) {
    if (devices.empty()) {
        throw Error(GGE_E_DEVICE, "no device is available");
    }
    if (name == "auto") {
        const Device &first = devices.front();
        return {first, first.kind == GGE_DEVICE_CPU ? "auto: no GPU is usable by this build" : "auto: the first GPU"};
    }
    std::string known;
    for (const Device &device : devices) {
        // "cuda" stands for "cuda:0"; the CPU has no number
        if (name == device.name || name + ":0" == device.name) {
            return {device, "asked for"};
        }
        known += known.empty() ? device.name : ", " + device.name;
    }
    throw Error(GGE_E_DEVICE, "device \"" + name + "\" is not available, there is " + known);
}

} // namespace gge
