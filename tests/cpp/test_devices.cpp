#include "check.h"
#include "devices.h"

using namespace gge;

namespace {

Device device(gge_device_kind kind, const char *name) {
    Device d;
    d.kind = kind;
    d.name = name;
    return d;
}

const std::vector<Device> cpu_only = {device(GGE_DEVICE_CPU, "cpu")};
const std::vector<Device> two_gpus = {device(GGE_DEVICE_CUDA, "cuda:0"), device(GGE_DEVICE_CUDA, "cuda:1"),
                                      device(GGE_DEVICE_CPU, "cpu")};

} // namespace

TEST(auto_takes_the_first_gpu_or_the_cpu_and_says_why) {
    CHECK_EQ(choose_device(two_gpus, "auto").device.name, "cuda:0");
    CHECK(check::contains(choose_device(two_gpus, "auto").reason, "first GPU"));
    CHECK_EQ(choose_device(cpu_only, "auto").device.name, "cpu");
    CHECK(check::contains(choose_device(cpu_only, "auto").reason, "no GPU"));
}

TEST(a_name_takes_that_device) {
    CHECK_EQ(choose_device(two_gpus, "cpu").device.name, "cpu");
    CHECK_EQ(choose_device(two_gpus, "cuda").device.name, "cuda:0");
    CHECK_EQ(choose_device(two_gpus, "cuda:1").device.name, "cuda:1");
}

TEST(a_missing_device_is_an_error_that_lists_what_there_is) {
    const std::string message = CHECK_THROWS(GGE_E_DEVICE, choose_device(two_gpus, "cuda:2"));
    CHECK(check::contains(message, "cuda:2") && check::contains(message, "cuda:0, cuda:1, cpu"));
    CHECK_THROWS(GGE_E_DEVICE, choose_device(cpu_only, "metal"));
    CHECK_THROWS(GGE_E_DEVICE, choose_device(cpu_only, "CPU"));
    CHECK_THROWS(GGE_E_DEVICE, choose_device({}, "auto"));
}
