#include "threads.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace gge {

int32_t parse_cpu_max(const std::string &line) {
    std::istringstream in(line);
    std::string quota;
    int64_t period = 0;
    if (!(in >> quota >> period) || quota == "max" || period <= 0) {
        return 0;
    }
    int64_t value = 0;
    std::istringstream number(quota);
    if (!(number >> value) || value <= 0) {
        return 0;
    }
    return static_cast<int32_t>(std::min<int64_t>((value + period - 1) / period, INT32_MAX));
}

namespace {

#if defined(__linux__)

int64_t read_number(const std::string &path, int64_t fallback) {
    std::ifstream file(path);
    int64_t value = 0;
    return file >> value ? value : fallback;
}

int32_t physical_cores() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return 0;
    }
    std::set<std::pair<int64_t, int64_t>> cores;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &allowed)) {
            const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
            cores.emplace(read_number(topology + "physical_package_id", 0),
                          read_number(topology + "core_id", static_cast<int64_t>(cpu)));
        }
    }
    return static_cast<int32_t>(cores.size());
}

int32_t quota() {
    std::ifstream file("/sys/fs/cgroup/cpu.max");
    std::string line;
    return std::getline(file, line) ? parse_cpu_max(line) : 0;
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

int32_t quota() {
    return 0;
}

#else

int32_t physical_cores() {
    return 0;
}

int32_t quota() {
    return 0;
}

#endif

} // namespace

int32_t default_n_threads() {
    int32_t n = physical_cores();
    if (n < 1) {
        n = static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency() / 2));
    }
    const int32_t limit = quota();
    return limit > 0 ? std::min(n, limit) : n;
}

} // namespace gge
