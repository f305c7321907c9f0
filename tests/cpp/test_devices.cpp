#include "check.h"
#include "devices.h"
#include "fake_root.h"

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

TEST(copies_go_on_all_gpus_of_a_kind_or_on_those_that_are_named) {
    const auto choose = [](const std::vector<Device> &devices, const std::string &names) {
        return choose_devices(devices, names, Split::copies);
    };
    for (const char *names : {"auto", "cuda", "cuda:0,cuda:1", " cuda , cuda:1"}) {
        const DeviceChoice choice = choose(two_gpus, names);
        CHECK(choice.copies && names_of(choice.devices) == "cuda:0,cuda:1");
        CHECK(check::contains(choice.reason, "a copy on each"));
    }
    CHECK_EQ(names_of(choose(two_gpus, "cuda:1,cuda:0").devices), "cuda:1,cuda:0");
    std::vector<Device> mixed = two_gpus;
    mixed.insert(mixed.begin(), device(GGE_DEVICE_METAL, "metal:0"));
    CHECK_EQ(names_of(choose(mixed, "auto").devices), "metal:0"); // of the first one's kind
    CHECK_EQ(names_of(choose(mixed, "cuda").devices), "cuda:0,cuda:1");
}

TEST(where_there_is_one_device_there_is_one_copy) {
    CHECK(!choose_devices(cpu_only, "auto", Split::copies).copies);
    for (const char *name : {"cuda:1", "cpu"}) {
        const DeviceChoice choice = choose_devices(two_gpus, name, Split::copies);
        CHECK(!choice.copies && names_of(choice.devices) == name && choice.reason == "asked for");
    }
    CHECK(!choose_devices(two_gpus, "cuda:0,cuda:1", Split::layer).copies);
}

TEST(lists_that_no_device_can_have_a_copy_of_are_errors) {
    for (const char *names : {"cuda:0,cpu", "cuda,cuda:0"}) {
        CHECK_THROWS(GGE_E_INVALID, chosen(two_gpus, names, Split::copies));
    }
    CHECK_THROWS(GGE_E_DEVICE, chosen(two_gpus, "metal", Split::copies));
    CHECK_THROWS(GGE_E_DEVICE, chosen({}, "auto", Split::copies));
}

TEST(lists_that_no_model_can_be_shared_among_are_errors) {
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, chosen(two_gpus, "cuda:0,cpu")), "\"cpu\" stands alone"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, chosen(two_gpus, "cuda,cuda:0")), "named twice"));
    for (const char *list : {"cuda:0,", ",cuda:0", "cuda:0,,cuda:1", "cuda:0,auto", "cuda:0,cuda:7"}) {
        CHECK_THROWS(GGE_E_DEVICE, chosen(two_gpus, list));
    }
    const std::string message = CHECK_THROWS(GGE_E_UNSUPPORTED, chosen(two_gpus, "cuda:0,cuda:1", Split::none));
    CHECK(check::contains(message, "split \"layer\"") && check::contains(message, "\"copies\""));
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

namespace {

constexpr int64_t gib = int64_t{1} << 30;

// A host that has 8 GiB available.
int64_t available(fake::Root &root) {
    root.add("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB");
    return host_memory_available(root.path());
}

std::string show(int64_t bytes) {
    return std::to_string(bytes);
}

} // namespace

TEST(a_host_without_limits_has_what_the_kernel_says) {
    fake::Root none;
    CHECK_EQ(available(none), 8 * gib);
    fake::Root unlimited;
    unlimited.v2("/a").add("sys/fs/cgroup/a/memory.max", "max").add("sys/fs/cgroup/a/memory.current", "123");
    CHECK_EQ(available(unlimited), 8 * gib);
    CHECK_EQ(host_memory_available(fake::Root().path()), 0);
}

TEST(the_least_that_a_cgroup_or_one_above_leaves_counts) {
    fake::Root root;
    root.v2("/a/b").add("sys/fs/cgroup/a/b/memory.max", show(6 * gib));
    CHECK_EQ(available(root), 8 * gib); // what is used is unknown
    root.add("sys/fs/cgroup/a/b/memory.current", show(gib));
    CHECK_EQ(available(root), 5 * gib);
    root.add("sys/fs/cgroup/a/memory.max", show(4 * gib)).add("sys/fs/cgroup/a/memory.current", show(2 * gib));
    CHECK_EQ(available(root), 2 * gib);
    root.add("sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file " + show(gib) + "\nactive_file 9");
    CHECK_EQ(available(root), 3 * gib); // pages of files give way
    root.add("sys/fs/cgroup/a/memory.current", show(9 * gib));
    CHECK_EQ(available(root), 1); // nothing, which is not unknown
}

TEST(a_cgroup_of_version_1_counts_too) {
    fake::Root root;
    root.v1("/elsewhere", "/a").add("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
    root.add("sys/fs/cgroup/memory/memory.usage_in_bytes", show(9 * gib));
    CHECK_EQ(available(root), 8 * gib);
    root.add("sys/fs/cgroup/memory/a/memory.limit_in_bytes", show(3 * gib));
    root.add("sys/fs/cgroup/memory/a/memory.usage_in_bytes", show(2 * gib));
    root.add("sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file " + show(gib));
    CHECK_EQ(available(root), 2 * gib);
}
