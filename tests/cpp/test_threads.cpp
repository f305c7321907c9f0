#include "check.h"
#include "fake_root.h"
#include "threads.h"

#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

using namespace gge;
using fake::Root;

namespace {

int32_t cpus(const Root &root) {
    return cgroup_cpus(root.path());
}

using Cpus = std::vector<int32_t>;

} // namespace

TEST(default_is_between_one_and_the_logical_cpus) {
    const int32_t n = default_n_threads();
    CHECK(n >= 1);
    CHECK(n <= static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency())));
}

#if defined(__linux__)
TEST(a_thread_that_is_bound_to_one_cpu_has_one) {
    std::thread([] {
        cpu_set_t set;
        CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
        size_t cpu = 0;
        while (cpu + 1 < CPU_SETSIZE && !CPU_ISSET(cpu, &set)) {
            ++cpu;
        }
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
        CHECK_EQ(default_n_threads(), 1);
    }).join();
}
#endif

TEST(lists_of_cpus) {
    CHECK(parse_cpu_list("0-3,8") == Cpus({0, 1, 2, 3, 8}));
    CHECK(parse_cpu_list("5\n") == Cpus({5}));
    CHECK(parse_cpu_list("2-2") == Cpus({2}));
    for (const char *bad : {"", "x", "3-1", "-1", "0-", "1,x", "0-9999999999", "0-2000000000", "0/3"}) {
        CHECK(parse_cpu_list(bad).empty());
    }
}

TEST(a_quota_is_rounded_up) {
    const auto cpus = [](const std::string &line) {
        return cgroup_cpus(Root().v2("/").add("sys/fs/cgroup/cpu.max", line).path());
    };
    CHECK_EQ(cpus("200000 100000"), 2);
    CHECK_EQ(cpus("150000 100000"), 2);
    CHECK_EQ(cpus("50000 100000"), 1);
    CHECK_EQ(cpus("1 100000"), 1);
    CHECK_EQ(cpus("9223372036854775807 1"), INT32_MAX);
}

TEST(no_quota_and_unreadable_lines_mean_no_limit) {
    for (const char *line :
         {"max 100000", "", "200000", "200000 0", "-5 100000", "abc 100000", "99999999999999999999 1"}) {
        CHECK_EQ(cpus(Root().v2("/").add("sys/fs/cgroup/cpu.max", line)), 0);
    }
    CHECK_EQ(cpus(Root()), 0);
    CHECK_EQ(cpus(Root().v2("/")), 0);
    CHECK_EQ(cpus(Root().add("proc/self/cgroup", "nonsense\n0:").add("proc/self/mountinfo", "x - cgroup2\n\n")), 0);
}

TEST(the_quota_of_the_own_cgroup_and_of_those_above_counts) {
    Root own;
    own.v2("/a/b/c").add("sys/fs/cgroup/a/b/c/cpu.max", "300000 100000");
    CHECK_EQ(cpus(own), 3);
    own.add("sys/fs/cgroup/a/cpu.max", "200000 100000");
    CHECK_EQ(cpus(own), 2);
    own.add("sys/fs/cgroup/cpu.max", "100000 100000");
    CHECK_EQ(cpus(own), 1);
    own.add("sys/fs/cgroup/a/b/other/cpu.max", "10 100000");
    CHECK_EQ(cpus(own), 1);
}

TEST(a_container_sees_its_own_cgroup_at_the_top) {
    const std::string quota = "400000 100000";
    // with a namespace of its own, without one, and in one whose root is elsewhere
    CHECK_EQ(cpus(Root().v2("/").add("sys/fs/cgroup/cpu.max", quota)), 4);
    CHECK_EQ(cpus(Root().v2("/docker/ab", "/docker/ab").add("sys/fs/cgroup/cpu.max", quota)), 4);
    CHECK_EQ(cpus(Root().v2("/docker/ab/c", "/docker/ab").add("sys/fs/cgroup/c/cpu.max", quota)), 4);
    CHECK_EQ(cpus(Root().v2("/docker/abc", "/docker/ab").add("sys/fs/cgroup/cpu.max", quota)), 4);
    CHECK_EQ(cpus(Root().v2("/../x").add("sys/fs/cgroup/cpu.max", quota).add("sys/fs/x/cpu.max", "1 1")), 4);
}

TEST(version_1_has_its_quota_in_two_files) {
    Root root;
    root.v1("/a/b").add("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
    root.add("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1");
    CHECK_EQ(cpus(root), 0);
    root.add("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "50000");
    root.add("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "125000");
    CHECK_EQ(cpus(root), 3);
    root.add("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000");
    root.add("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "100000");
    CHECK_EQ(cpus(root), 1);
}

TEST(folders_with_blanks_are_found) {
    Root root;
    root.add("proc/self/cgroup", "0::/my group");
    root.add("proc/self/mountinfo", "30 23 0:26 / /sys/c\\040g rw - cgroup2 cgroup rw");
    root.add("sys/c g/my group/cpu.max", "200000 100000");
    CHECK_EQ(cpus(root), 2);
}

TEST(cpus_of_one_core_count_once) {
    Root root;
    for (int i = 0; i < 4; ++i) {
        root.cpu(i, std::to_string(i) + "," + std::to_string(i + 4));
        root.cpu(i + 4, std::to_string(i) + "," + std::to_string(i + 4));
    }
    CHECK_EQ(count_cores(root.path(), {0, 1, 2, 3, 4, 5, 6, 7}), 4);
    CHECK_EQ(count_cores(root.path(), {0, 4}), 1);
    CHECK_EQ(count_cores(root.path(), {3, 4, 7}), 2);
    CHECK_EQ(count_cores(root.path(), {}), 0);
    Root old;
    old.cpu(0, "0-1", "thread_siblings_list").cpu(1, "0-1", "thread_siblings_list");
    CHECK_EQ(count_cores(old.path(), {0, 1}), 1);
    CHECK_EQ(count_cores(Root().path(), {0, 1, 2}), 3);
}

TEST(slow_cores_count_only_where_there_are_no_fast_ones) {
    Root root;
    root.cpu(0, "0-1").cpu(1, "0-1").cpu(2, "2-3").cpu(3, "2-3").cpu(4, "4").cpu(5, "5").cpu(6, "6");
    root.add("sys/devices/cpu_core/cpus", "0-3").add("sys/devices/cpu_atom/cpus", "4-6");
    CHECK_EQ(count_cores(root.path(), {0, 1, 2, 3, 4, 5, 6}), 2);
    CHECK_EQ(count_cores(root.path(), {1, 5, 6}), 1);
    CHECK_EQ(count_cores(root.path(), {4, 5, 6}), 3);
}
