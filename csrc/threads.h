// How many CPU threads are worth having.
#pragma once

#include <cstdint>
#include <string>

namespace gge {

// Physical cores among the logical CPUs that this process may run on, cut to the cgroup's CPU quota; at least 1.
int32_t default_n_threads();

// The CPU quota that a cgroup v2 "cpu.max" line grants, rounded up to whole CPUs; 0 = no limit or not readable.
int32_t parse_cpu_max(const std::string &line);

} // namespace gge
