// How many CPU threads are worth having.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gge {

// Physical cores among the logical CPUs that the calling thread may run on, performance cores alone where there are two
// kinds, cut to the CPU quota of its cgroups; at least 1.
int32_t default_n_threads();

// The numbers of a list of CPUs as Linux writes it, "0-3,8"; empty if it is something else.
std::vector<int32_t> parse_cpu_list(const std::string &text);

// What Linux says in the files below root, which is "" but for tests.

// The fewest CPUs that a cgroup of the process grants it, or one above, of either version; 0 = no limit. A fraction of a
// CPU counts as one: a thread more than the quota has pauses, one less leaves what was granted unused.
int32_t cgroup_cpus(const std::string &root);

// The physical cores that CPUs belong to, performance cores alone if there are any among them.
int32_t count_cores(const std::string &root, const std::vector<int32_t> &cpus);

} // namespace gge
