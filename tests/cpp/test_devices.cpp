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

std::string chosen(const std::vector<Device> &devices, const std::string &names, Split split = Split::automatic) {
    return names_of(choose_devices(devices, names, split).devices);
}

} // namespace

TEST(auto_takes_the_first_gpu_or_the_cpu_and_says_why) {
    CHECK_EQ(chosen(two_gpus, "auto"), "cuda:0");
    CHECK(check::contains(choose_devices(two_gpus, "auto", Split::automatic).reason, "first GPU of 2"));
    CHECK_EQ(chosen(cpu_only, "auto"), "cpu");
    CHECK(check::contains(choose_devices(cpu_only, "auto", Split::automatic).reason, "no GPU"));
}

TEST(a_name_takes_that_device) {
    CHECK_EQ(chosen(two_gpus, "cpu"), "cpu");
    CHECK_EQ(chosen(two_gpus, "cuda"), "cuda:0");
    CHECK_EQ(chosen(two_gpus, "cuda:1"), "cuda:1");
}

TEST(a_missing_device_is_an_error_that_lists_what_there_is) {
    const std::string message = CHECK_THROWS(GGE_E_DEVICE, chosen(two_gpus, "cuda:2"));
    CHECK(check::contains(message, "cuda:2") && check::contains(message, "cuda:0, cuda:1, cpu"));
    CHECK_THROWS(GGE_E_DEVICE, chosen(cpu_only, "metal"));
    CHECK_THROWS(GGE_E_DEVICE, chosen(cpu_only, "CPU"));
    CHECK_THROWS(GGE_E_DEVICE, chosen({}, "auto"));
}

TEST(several_gpus_share_a_model_in_the_order_in_which_they_are_named) {
    CHECK_EQ(chosen(two_gpus, "cuda:0,cuda:1"), "cuda:0,cuda:1");
    CHECK_EQ(chosen(two_gpus, " cuda:1 , cuda"), "cuda:1,cuda:0");
    CHECK_EQ(chosen(two_gpus, "cuda:0,cuda:1", Split::layer), "cuda:0,cuda:1");
    CHECK_EQ(chosen(two_gpus, "cuda:1", Split::layer), "cuda:1");
    CHECK_EQ(chosen(two_gpus, "cuda:1", Split::none), "cuda:1");
    CHECK(check::contains(choose_devices(two_gpus, "cuda:0,cuda:1", Split::automatic).reason, "layers shared out"));
}

TEST(lists_that_no_model_can_be_shared_among_are_errors) {
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, chosen(two_gpus, "cuda:0,cpu")), "\"cpu\" stands alone"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, chosen(two_gpus, "cuda,cuda:0")), "named twice"));
    for (const char *list : {"cuda:0,", ",cuda:0", "cuda:0,,cuda:1", "cuda:0,auto", "cuda:0,cuda:7"}) {
        CHECK_THROWS(GGE_E_DEVICE, chosen(two_gpus, list));
    }
    const std::string message = CHECK_THROWS(GGE_E_UNSUPPORTED, chosen(two_gpus, "cuda:0,cuda:1", Split::none));
    CHECK(check::contains(message, "split \"layer\"") && check::contains(message, "an engine for each device"));
    std::vector<Device> many;
    std::string names;
    for (int i = 0; i < 9; ++i) {
        many.push_back(device(GGE_DEVICE_CUDA, ("cuda:" + std::to_string(i)).c_str()));
        names += (i > 0 ? ",cuda:" : "cuda:") + std::to_string(i);
    }
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, chosen(many, names)), "9 devices are named, at most 8"));
}

TEST(bytes_are_shown_in_the_unit_that_fits) {
    CHECK_EQ(show_bytes(0), "0.0 MiB");
    CHECK_EQ(show_bytes(int64_t{3} << 19), "1.5 MiB");
    CHECK_EQ(show_bytes(int64_t{5} << 29), "2.50 GiB");
    std::vector<Device> gpus(two_gpus.begin(), two_gpus.end() - 1);
    gpus[0].memory_free = int64_t{1} << 30;
    CHECK_EQ(show_free(gpus), "1.00 GiB on cuda:0, 0.0 MiB on cuda:1");
}

#ifdef __linux__
TEST(the_host_has_memory_available) {
    CHECK(host_memory_available() > 0);
}
#endif
