// What Linux says of itself, in files of the test.
#pragma once

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

namespace fake {

// A folder that stands for "/".
class Root {
public:
    Root() : folder_(std::filesystem::temp_directory_path() / unique_name()) {}
    ~Root() { std::filesystem::remove_all(folder_); }
    Root(const Root &) = delete;
    Root &operator=(const Root &) = delete;

    Root &add(const std::string &path, const std::string &text) {
        const std::filesystem::path file = folder_ / path;
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file) << text << '\n';
        return *this;
    }

    // The process's cgroup of version 2, and the place where it is to be seen.
    Root &v2(const std::string &path, const std::string &mount_root = "/") {
        add("proc/self/cgroup", "0::" + path);
        return add("proc/self/mountinfo",
                   "30 23 0:26 " + mount_root + " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate");
    }

    Root &v1(const std::string &path, const std::string &memory = "/elsewhere") {
        add("proc/self/cgroup", "4:memory:" + memory + "\n3:cpuset:/no\n2:cpu,cpuacct:" + path + "\n1:name=systemd:/x");
        return add("proc/self/mountinfo", "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                                          "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
                                          "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu");
    }

    Root &cpu(int i, const std::string &siblings, const std::string &file = "core_cpus_list") {
        return add("sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/" + file, siblings);
    }

    std::string path() const { return folder_.string(); }

private:
    static std::string unique_name() {
        std::random_device draw;
        return "ggembed_test_root_" + std::to_string(draw()) + "_" + std::to_string(draw());
    }

    std::filesystem::path folder_;
};

} // namespace fake
