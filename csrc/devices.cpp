#include "devices.h"

#include "cgroups.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace gge {
namespace {

// So that the names of all fit gge_model_info.device.
constexpr size_t max_n_devices = 8;

std::string trimmed(const std::string &text) {
    const size_t begin = text.find_first_not_of(' ');
    return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

std::vector<std::string> split_names(const std::string &names) {
    std::vector<std::string> parts;
    std::istringstream in(names + ","); // so that an empty name at the end counts
    for (std::string part; std::getline(in, part, ',');) {
        parts.push_back(trimmed(part));
    }
    return parts;
}

const Device &find_device(const std::vector<Device> &devices, const std::string &name) {
    for (const Device &device : devices) {
        // "cuda" stands for "cuda:0"; the CPU has no number
        if (name == device.name || name + ":0" == device.name) {
            return device;
        }
    }
    throw Error(GGE_E_DEVICE, "device \"" + name + "\" is not available, there is " + names_of(devices, ", "));
}

// "cuda": all of that kind.
std::vector<Device> devices_of(const std::vector<Device> &devices, const std::string &kind) {
    std::vector<Device> found;
    std::copy_if(devices.begin(), devices.end(), std::back_inserter(found),
                 [&](const Device &device) { return device.name.compare(0, kind.size() + 1, kind + ":") == 0; });
    return found;
}

std::string kind_of(const Device &device) {
    return device.name.substr(0, device.name.find(':'));
}

void check_list(const std::vector<Device> &chosen, const std::string &names, Split split) {
    if (chosen.size() > max_n_devices) {
        throw Error(GGE_E_INVALID, std::to_string(chosen.size()) + " devices are named, at most " +
                                       std::to_string(max_n_devices) + " are possible");
    }
    for (size_t i = 0; i < chosen.size(); ++i) {
        if (chosen[i].kind == GGE_DEVICE_CPU) {
            throw Error(GGE_E_INVALID, R"(device "cpu" stands alone, got ")" + names +
                                           "\"; with n_gpu_layers some layers stay on the CPU");
        }
        for (size_t k = 0; k < i; ++k) {
            if (chosen[k].name == chosen[i].name) {
                throw Error(GGE_E_INVALID, "device \"" + chosen[i].name + "\" is named twice in \"" + names + "\"");
            }
        }
    }
    if (split == Split::none) {
        throw Error(GGE_E_UNSUPPORTED,
                    R"(split "none" puts a model on one device, ")" + names + "\" names " +
                        std::to_string(chosen.size()) +
                        R"(: split "layer" shares the layers out among them, "copies" puts a copy on each)");
    }
}

} // namespace

DeviceChoice choose_devices(const std::vector<Device> &devices, const std::string &names, Split split) {
    if (devices.empty()) {
        throw Error(GGE_E_DEVICE, "no device is available");
    }
    const bool is_auto = names == "auto";
    if (split == Split::copies) {
        const std::vector<Device> all = devices_of(devices, is_auto ? kind_of(devices.front()) : names);
        if (all.size() > 1) {
            check_list(all, names, split);
            return {all, std::string(is_auto ? "auto" : "asked for") + ": all GPUs of the kind, a copy on each", true};
        }
    }
    if (is_auto) {
        const Device &first = devices.front();
        const size_t n_gpus = devices.size() - 1;
        return {{first},
                first.kind == GGE_DEVICE_CPU ? "auto: no GPU is usable by this build"
                : n_gpus == 1                ? "auto: the first GPU"
                                             : "auto: the first GPU of " + std::to_string(n_gpus)};
    }
    std::vector<Device> chosen;
    for (const std::string &name : split_names(names)) {
        chosen.push_back(find_device(devices, name));
    }
    if (chosen.size() > 1) {
        check_list(chosen, names, split);
        const bool copies = split == Split::copies;
        return {std::move(chosen), copies ? "asked for, a copy on each" : "asked for, layers shared out by free memory",
                copies};
    }
    return {std::move(chosen), "asked for"};
}

std::string names_of(const std::vector<Device> &devices, const char *separator) {
    std::string names;
    for (const Device &device : devices) {
        names += (names.empty() ? "" : separator) + device.name;
    }
    return names;
}

std::string show_bytes(int64_t bytes) {
    constexpr double mib = 1 << 20;
    const double n = static_cast<double>(bytes) / mib;
    std::array<char, 32> text{};
    if (n < 1024) {
        static_cast<void>(std::snprintf(text.data(), text.size(), "%.1f MiB", n));
    } else {
        static_cast<void>(std::snprintf(text.data(), text.size(), "%.2f GiB", n / 1024));
    }
    return text.data();
}

std::string show_free(const std::vector<Device> &devices) {
    std::string text;
    for (const Device &device : devices) {
        text += (text.empty() ? "" : ", ") + show_bytes(device.memory_free) + " on " + device.name;
    }
    return text;
}

int64_t host_memory_available(const std::string &root) {
    int64_t available = 0;
    std::ifstream file(root + "/proc/meminfo");
    for (std::string line; std::getline(file, line);) {
        if (std::istringstream in(line); line.compare(0, 13, "MemAvailable:") == 0) {
            std::string name;
            int64_t kib = 0;
            available = in >> name >> kib ? kib * 1024 : 0;
        }
    }
    const int64_t left = cgroup_memory_available(root);
    return left < 0 ? available : std::max<int64_t>(available == 0 ? left : std::min(left, available), 1);
}

void return_free_memory() noexcept {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

} // namespace gge
