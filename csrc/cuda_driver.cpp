#include "cuda_driver.h"

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace gge {
namespace {

#if defined(_WIN32)
#define GGE_CUDA_API __stdcall
void *load_driver() noexcept {
    return reinterpret_cast<void *>(LoadLibraryA("nvcuda.dll"));
}

void *find(void *driver, const char *name) noexcept {
    return reinterpret_cast<void *>(GetProcAddress(reinterpret_cast<HMODULE>(driver), name));
}
#else
#define GGE_CUDA_API
void *load_driver() noexcept {
    return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
}

void *find(void *driver, const char *name) noexcept {
    return dlsym(driver, name);
}
#endif

// Of cuda.h, which promises that they stay: 0 is success.
using Init = int(GGE_CUDA_API *)(unsigned);
using GetCount = int(GGE_CUDA_API *)(int *);
using GetDevice = int(GGE_CUDA_API *)(int *, int);
using GetAttribute = int(GGE_CUDA_API *)(int *, int, int);
constexpr int attribute_major = 75; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int attribute_minor = 76;

std::vector<ComputeCapability> ask() {
    void *driver = load_driver(); // never unloaded: it has threads of its own
    if (driver == nullptr) {
        return {};
    }
    const auto init = reinterpret_cast<Init>(find(driver, "cuInit"));
    const auto get_count = reinterpret_cast<GetCount>(find(driver, "cuDeviceGetCount"));
    const auto get_device = reinterpret_cast<GetDevice>(find(driver, "cuDeviceGet"));
    const auto get_attribute = reinterpret_cast<GetAttribute>(find(driver, "cuDeviceGetAttribute"));
    int count = 0;
    if (init == nullptr || get_count == nullptr || get_device == nullptr || get_attribute == nullptr || init(0) != 0 ||
        get_count(&count) != 0 || count < 0) {
        return {};
    }
    std::vector<ComputeCapability> found(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
        int device = 0;
        int major = 0;
        int minor = 0;
        if (get_device(&device, i) == 0 && get_attribute(&major, attribute_major, device) == 0 &&
            get_attribute(&minor, attribute_minor, device) == 0) {
            found[static_cast<size_t>(i)] = {major, minor};
        }
    }
    return found;
}

} // namespace

const std::vector<ComputeCapability> &compute_capabilities() {
    static const std::vector<ComputeCapability> found = ask();
    return found;
}

} // namespace gge
