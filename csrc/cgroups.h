// What Linux says of the process's cgroups, in the files below root, which is "" but for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gge {

struct Cgroup {
    std::string folder;
    bool v2 = false;
};

// The groups of the process that a controller ("cpu", "memory") may limit, of either version, and those above.
std::vector<Cgroup> own_cgroups(const std::string &root, const std::string &controller);

// Bytes that these leave the process, pages of files that can be dropped included; -1 = no limit.
int64_t cgroup_memory_available(const std::string &root);

std::string first_line(const std::string &path);
std::vector<std::string> split(const std::string &text, char separator);

} // namespace gge
