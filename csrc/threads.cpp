#include "threads.h"

#include "cgroups.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#endif

namespace gge {
namespace {

constexpr int32_t max_cpu = 1 << 20;

// CPUs that a time per period is, rounded up; 0 if the two say nothing.
int32_t cpus_of(const std::string &quota, const std::string &period) {
    std::istringstream in(quota + " " + period);
    int64_t used = 0;
    int64_t whole = 0;
    if (!(in >> used >> whole) || used <= 0 || whole <= 0) {
        return 0;
    }
    return static_cast<int32_t>(std::min<int64_t>((used - 1) / whole + 1, INT32_MAX));
}

int32_t cpus_of_group(const std::string &folder, bool v2) {
    if (!v2) {
        return cpus_of(first_line(folder + "/cpu.cfs_quota_us"), first_line(folder + "/cpu.cfs_period_us"));
    }
    std::istringstream in(first_line(folder + "/cpu.max"));
    std::string quota;
    std::string period;
    in >> quota >> period;
    return cpus_of(quota, period);
}

} // namespace

std::vector<int32_t> parse_cpu_list(const std::string &text) {
    std::vector<int32_t> cpus;
    for (const std::string &range : split(text, ',')) {
        std::istringstream in(range);
        int32_t first = 0;
        if (!(in >> first)) {
            return {};
        }
        int32_t last = first;
        if (char dash = 0; in >> dash && (dash != '-' || !(in >> last))) {
            return {};
        }
        if (first < 0 || last < first || last > max_cpu) {
            return {};
        }
        for (int32_t cpu = first; cpu <= last; ++cpu) {
            cpus.push_back(cpu);
        }
    }
    return cpus;
}

int32_t cgroup_cpus(const std::string &root) {
    int32_t fewest = 0;
    for (const Cgroup &group : own_cgroups(root, "cpu")) {
        const int32_t n = cpus_of_group(group.folder, group.v2);
        fewest = n > 0 && (fewest == 0 || n < fewest) ? n : fewest;
    }
    return fewest;
}

int32_t count_cores(const std::string &root, const std::vector<int32_t> &cpus) {
    std::vector<int32_t> fast;
    const std::vector<int32_t> known = parse_cpu_list(first_line(root + "/sys/devices/cpu_core/cpus"));
    std::copy_if(cpus.begin(), cpus.end(), std::back_inserter(fast),
                 [&](int32_t cpu) { return std::find(known.begin(), known.end(), cpu) != known.end(); });
    std::set<std::string> cores; // each by the list of its CPUs
    for (const int32_t cpu : fast.empty() ? cpus : fast) {
        const std::string topology = root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        std::string core = first_line(topology + "core_cpus_list");
        if (core.empty()) { // its name before Linux 5.3
            core = first_line(topology + "thread_siblings_list");
        }
        cores.insert(core.empty() ? std::to_string(cpu) : core);
    }
    return static_cast<int32_t>(cores.size());
}

namespace {

#if defined(__linux__)

std::vector<int32_t> allowed_cpus() {
    std::vector<int32_t> cpus;
    // The kernel refuses a set that is smaller than its own, whose size it does not tell.
    for (size_t n = CPU_SETSIZE; cpus.empty() && n <= max_cpu; n *= 2) {
        std::vector<cpu_set_t> set(n / CPU_SETSIZE);
        const size_t n_bytes = CPU_ALLOC_SIZE(n);
        if (sched_getaffinity(0, n_bytes, set.data()) != 0) {
            continue;
        }
        for (size_t cpu = 0; cpu < n; ++cpu) {
            if (CPU_ISSET_S(cpu, n_bytes, set.data())) {
                cpus.push_back(static_cast<int32_t>(cpu));
            }
        }
    }
    return cpus;
}

int32_t physical_cores() {
    return count_cores("", allowed_cpus());
}

#elif defined(__APPLE__)

// The performance cores: upstream's thread pool waits for the slowest thread at every step.
int32_t physical_cores() {
    int32_t n = 0;
    size_t size = sizeof(n);
    if (sysctlbyname("hw.perflevel0.physicalcpu", &n, &size, nullptr, 0) == 0 && n > 0) {
        return n;
    }
    size = sizeof(n);
    return sysctlbyname("hw.physicalcpu", &n, &size, nullptr, 0) == 0 ? n : 0;
}

#elif defined(_WIN32)

// Those of the calling thread's processor group, the fastest kind. Compiled, but never run so far.
int32_t physical_cores() {
    GROUP_AFFINITY allowed{};
    DWORD size = 0;
    GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &size);
    std::vector<char> buffer(size);
    if (!GetThreadGroupAffinity(GetCurrentThread(), &allowed) || size == 0 ||
        !GetLogicalProcessorInformationEx(
            RelationProcessorCore, reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *>(buffer.data()), &size)) {
        return 0;
    }
    int32_t n = 0;
    BYTE fastest = 0;
    for (DWORD at = 0; at < size;) {
        const auto *core = reinterpret_cast<const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *>(buffer.data() + at);
        const GROUP_AFFINITY &group = core->Processor.GroupMask[0];
        if (group.Group == allowed.Group && (group.Mask & allowed.Mask) != 0) {
            const BYTE speed = core->Processor.EfficiencyClass;
            n = speed > fastest ? 1 : speed == fastest ? n + 1 : n;
            fastest = std::max(fastest, speed);
        }
        at += core->Size;
    }
    return n;
}

#else

int32_t physical_cores() {
    return 0;
}

#endif

} // namespace

int32_t default_n_threads() {
    int32_t n = physical_cores();
    if (n < 1) {
        n = static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency() / 2));
    }
    const int32_t limit = cgroup_cpus("");
    return limit > 0 ? std::min(n, limit) : n;
}

} // namespace gge
