#include "cgroups.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace gge {

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

namespace {

bool contains(const std::vector<std::string> &list, const std::string &item) {
    return std::find(list.begin(), list.end(), item) != list.end();
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

// Those that may say something of a controller. A line of mountinfo:
//     36 35 0:31 /root /folder rw,relatime shared:1 - cgroup source rw,cpu,cpuacct
std::vector<CgroupMount> cgroup_mounts(const std::string &root, const std::string &controller) {
    std::vector<CgroupMount> mounts;
    std::ifstream file(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        const std::vector<std::string> fields = split(line, ' ');
        const auto dash = std::find(fields.begin(), fields.end(), "-");
        if (dash - fields.begin() < 5 || fields.end() - dash < 4) {
            continue;
        }
        const bool v2 = dash[1] == "cgroup2";
        if (v2 || (dash[1] == "cgroup" && contains(split(dash[3], ','), controller))) {
            mounts.push_back({v2, unescaped(fields[3]), unescaped(fields[4])});
        }
    }
    return mounts;
}

// The process's cgroup, from the root of all; empty if it has none of that version.
std::string cgroup_path(const std::string &root, const std::string &controller, bool v2) {
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t begin = line.find(':');
        const size_t end = begin == std::string::npos ? begin : line.find(':', begin + 1);
        if (end == std::string::npos) {
            continue;
        }
        const std::string controllers = line.substr(begin + 1, end - begin - 1);
        if (v2 ? controllers.empty() : contains(split(controllers, ','), controller)) {
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

// A number of bytes; -1 if it is none.
int64_t read_bytes(const std::string &text) {
    std::istringstream in(text);
    int64_t n = 0;
    return in >> n && n >= 0 ? n : -1;
}

// A number of a file of lines "name number"; 0 if it is missing.
int64_t read_stat(const std::string &path, const std::string &wanted) {
    std::ifstream file(path);
    std::string name;
    for (int64_t n = 0; file >> name >> n;) {
        if (name == wanted) {
            return n;
        }
    }
    return 0;
}

} // namespace

std::vector<Cgroup> own_cgroups(const std::string &root, const std::string &controller) {
    std::vector<Cgroup> groups;
    for (const CgroupMount &mount : cgroup_mounts(root, controller)) {
        for (std::string path = below(mount, cgroup_path(root, controller, mount.v2));;) {
            groups.push_back({root + mount.folder + path, mount.v2});
            if (path.empty()) {
                break;
            }
            path.resize(path.rfind('/')); // the group above
        }
    }
    return groups;
}

int64_t cgroup_memory_available(const std::string &root) {
    int64_t least = -1;
    for (const auto &[folder, v2] : own_cgroups(root, "memory")) {
        const int64_t limit = read_bytes(first_line(folder + (v2 ? "/memory.max" : "/memory.limit_in_bytes")));
        const int64_t used = read_bytes(first_line(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes")));
        if (limit < 0 || used < 0) {
            continue;
        }
        const int64_t dropped = read_stat(folder + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file");
        const int64_t left = std::max<int64_t>(limit - std::max<int64_t>(used - dropped, 0), 0);
        least = least < 0 ? left : std::min(least, left);
    }
    return least;
}

} // namespace gge
