#include "threads.h"

#include <algorithm>
#include <fstream>
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

std::string first_line(const std::string &path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::vector<std::string> split(const std::string &text, char separator) {
    std::vector<std::string> parts;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, separator);) {
        parts.push_back(part);
    }
    return parts;
}

bool contains(const std::vector<std::string> &list, const char *item) {
    return std::find(list.begin(), list.end(), item) != list.end();
}

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

// A place where cgroups are to be seen: those below root, below folder.
struct CgroupMount {
    bool v2 = false;
    std::string root;
    std::string folder;
};

// Blanks and the like stand in mountinfo as octal numbers.
std::string unescaped(const std::string &text) {
    std::string plain;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && text.size() - i > 3) {
            plain += static_cast<char>((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0'));
            i += 3;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

// Those that may say something of CPUs. A line of mountinfo:
//     36 35 0:31 /root /folder rw,relatime shared:1 - cgroup source rw,cpu,cpuacct
std::vector<CgroupMount> cgroup_mounts(const std::string &root) {
    std::vector<CgroupMount> mounts;
    std::ifstream file(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        const std::vector<std::string> fields = split(line, ' ');
        const auto dash = std::find(fields.begin(), fields.end(), "-");
        if (dash - fields.begin() < 5 || fields.end() - dash < 4) {
            continue;
        }
        const bool v2 = dash[1] == "cgroup2";
        if (v2 || (dash[1] == "cgroup" && contains(split(dash[3], ','), "cpu"))) {
            mounts.push_back({v2, unescaped(fields[3]), unescaped(fields[4])});
        }
    }
    return mounts;
}

// The process's cgroup, from the root of all; empty if it has none of that version.
std::string cgroup_path(const std::string &root, bool v2) {
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t begin = line.find(':');
        const size_t end = begin == std::string::npos ? begin : line.find(':', begin + 1);
        if (end == std::string::npos) {
            continue;
        }
        const std::string controllers = line.substr(begin + 1, end - begin - 1);
        if (v2 ? controllers.empty() : contains(split(controllers, ','), "cpu")) {
            return line.substr(end + 1);
        }
    }
    return "";
}

// The cgroup below what is mounted; what a container does not see of it is left out.
std::string below(const CgroupMount &mount, const std::string &path) {
    const std::string top = mount.root == "/" ? "" : mount.root;
    const bool seen = path.compare(0, top.size(), top) == 0 && (path.size() == top.size() || path[top.size()] == '/');
    if (!seen || contains(split(path, '/'), "..")) {
        return "";
    }
    return path.substr(top.size());
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
    for (const CgroupMount &mount : cgroup_mounts(root)) {
        for (std::string path = below(mount, cgroup_path(root, mount.v2));;) {
            const int32_t n = cpus_of_group(root + mount.folder + path, mount.v2);
            fewest = n > 0 && (fewest == 0 || n < fewest) ? n : fewest;
            if (path.empty()) {
                break;
            }
            path.resize(path.rfind('/')); // the group above
        }
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
