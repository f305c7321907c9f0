// Choosing devices by name, and what is known of their memory.
#pragma once

#include "backend.h"

namespace gge {

struct DeviceChoice {
    std::vector<Device> devices; // one, or several GPUs that share out the layers or have a copy each
    std::string reason;
    bool copies = false;
};

// devices: what there is, the CPU last. names: "auto", "cpu", "cuda", "cuda:1", "metal", ..., or several of GPUs with
// commas between them. With Split::copies "auto" stands for all GPUs of the first one's kind, and so does "cuda" for all
// of its own. Throws Error.
DeviceChoice choose_devices(const std::vector<Device> &devices, const std::string &names, Split split);

// "cuda:0,cuda:1"
std::string names_of(const std::vector<Device> &devices, const char *separator = ",");

// "512.0 MiB", "3.25 GiB"
std::string show_bytes(int64_t bytes);

// "1.50 GiB on cuda:0, 2.00 GiB on cuda:1"
std::string show_free(const std::vector<Device> &devices);

// Memory of the host that the kernel says is available to the process, within its cgroups; 0 where it does not. root: of
// the files that say so, "" but for tests.
int64_t host_memory_available(const std::string &root = "");

// glibc's malloc keeps what threads have freed, each of its arenas for itself, and a model has been in many. Gives it back
// to the system: some milliseconds, of no use but where much was freed.
void return_free_memory() noexcept;

} // namespace gge
