// GPUs in llama.cpp's registry that are none: memory of the host, with a limit, and the CPU's kernels. They belong to a
// back end that calls itself CUDA, which remembers what is asked of it.
#pragma once

#include "ggml/src/ggml-backend-impl.h"

#include <ggml-cpu.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace fake_gpu {

struct Gpu {
    std::string name;
    size_t memory = 0;
    std::atomic<size_t> used{0};
    std::atomic<int> n_asked{0};    // for its memory
    std::atomic<int> n_backends{0}; // made
    std::atomic<int> n_graphs{0};   // computed
    std::atomic<int> n_captures{0}; // of these, on back ends that may capture graphs
    ggml_backend_device device{};
    ggml_backend_buffer_type type{};
};

inline std::array<Gpu, 4> gpus;
inline size_t n_gpus = 0;

inline Gpu &gpu_of(ggml_backend_dev_t device) {
    return *static_cast<Gpu *>(device->context);
}

// ---------------------------------------------------------------- memory

struct Memory {
    Gpu &gpu;
    void *data;
    size_t size;
};

inline char *at(const ggml_tensor *tensor, size_t offset) {
    return static_cast<char *>(tensor->data) + offset;
}

inline ggml_backend_buffer_i buffer_interface() {
    ggml_backend_buffer_i i{};
    i.free_buffer = [](ggml_backend_buffer_t buffer) {
        auto *memory = static_cast<Memory *>(buffer->context);
        memory->gpu.used -= memory->size;
        std::free(memory->data);
        delete memory;
    };
    i.get_base = [](ggml_backend_buffer_t buffer) { return static_cast<Memory *>(buffer->context)->data; };
    i.memset_tensor = [](ggml_backend_buffer_t, ggml_tensor *tensor, uint8_t value, size_t offset, size_t size) {
        std::memset(at(tensor, offset), value, size);
    };
    i.set_tensor = [](ggml_backend_buffer_t, ggml_tensor *tensor, const void *data, size_t offset, size_t size) {
        std::memcpy(at(tensor, offset), data, size);
    };
    i.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor *tensor, void *data, size_t offset, size_t size) {
        std::memcpy(data, at(tensor, offset), size);
    };
    i.clear = [](ggml_backend_buffer_t buffer, uint8_t value) {
        auto *memory = static_cast<Memory *>(buffer->context);
        std::memset(memory->data, value, memory->size);
    };
    return i;
}

inline ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    constexpr size_t alignment = 64;
    Gpu &gpu = gpu_of(type->device);
    if (gpu.used + size > gpu.memory) {
        return nullptr;
    }
    void *data = std::aligned_alloc(alignment, (size / alignment + 1) * alignment);
    gpu.used += size;
    return ggml_backend_buffer_init(type, buffer_interface(), new Memory{gpu, data, size}, size);
}

inline ggml_backend_buffer_type_i type_interface() {
    ggml_backend_buffer_type_i i{};
    i.get_name = [](ggml_backend_buffer_type_t type) { return gpu_of(type->device).name.c_str(); };
    i.alloc_buffer = allocate;
    i.get_alignment = [](ggml_backend_buffer_type_t) { return size_t{64}; };
    return i;
}

// ---------------------------------------------------------------- computing

// The CPU's back end, which counts. Its context is the CPU's own.
struct Backend {
    ggml_backend_t cpu;
    Gpu &gpu;
    bool captures;
};

inline Backend &state(ggml_backend_t backend) {
    return *static_cast<Backend *>(backend->context);
}

inline ggml_backend_t make_backend(ggml_backend_dev_t device, const char *) {
    static ggml_guid guid = {'f', 'a', 'k', 'e'};
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(cpu, 1);
    ggml_backend_i i{};
    i.get_name = [](ggml_backend_t backend) { return state(backend).gpu.name.c_str(); };
    i.free = [](ggml_backend_t backend) {
        ggml_backend_free(state(backend).cpu);
        delete &state(backend);
        delete backend;
    };
    i.graph_compute = [](ggml_backend_t backend, ggml_cgraph *graph) {
        Backend &b = state(backend);
        ++b.gpu.n_graphs;
        b.gpu.n_captures += b.captures ? 1 : 0;
        return b.cpu->iface.graph_compute(b.cpu, graph);
    };
    ++gpu_of(device).n_backends;
    return new ggml_backend{&guid, i, device, new Backend{cpu, gpu_of(device), true}};
}

// ---------------------------------------------------------------- devices

inline ggml_backend_device_i device_interface() {
    ggml_backend_device_i i{};
    i.get_name = [](ggml_backend_dev_t device) { return gpu_of(device).name.c_str(); };
    i.get_description = [](ggml_backend_dev_t) { return "a GPU that is none"; };
    i.get_memory = [](ggml_backend_dev_t device, size_t *free, size_t *total) {
        Gpu &gpu = gpu_of(device);
        ++gpu.n_asked;
        *total = gpu.memory;
        *free = gpu.memory - gpu.used;
    };
    i.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    i.get_props = [](ggml_backend_dev_t device, ggml_backend_dev_props *props) {
        *props = {};
        props->name = gpu_of(device).name.c_str();
        props->description = "a GPU that is none";
        props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    };
    i.init_backend = make_backend;
    i.get_buffer_type = [](ggml_backend_dev_t device) { return &gpu_of(device).type; };
    i.supports_op = [](ggml_backend_dev_t, const ggml_tensor *op) { return op->op != GGML_OP_CUSTOM; };
    i.supports_buft = [](ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
        return type == &gpu_of(device).type;
    };
    return i;
}

inline ggml_backend_reg &registry() {
    static ggml_backend_reg reg{};
    reg.api_version = GGML_BACKEND_API_VERSION;
    reg.iface.get_name = [](ggml_backend_reg_t) { return "CUDA"; };
    reg.iface.get_device_count = [](ggml_backend_reg_t) { return n_gpus; };
    reg.iface.get_device = [](ggml_backend_reg_t, size_t i) { return &gpus.at(i).device; };
    reg.iface.get_proc_address = [](ggml_backend_reg_t, const char *name) -> void * {
        void (*set_graphs)(ggml_backend_t, bool) = [](ggml_backend_t backend, bool on) {
            state(backend).captures = on;
        };
        return std::strcmp(name, "ggml_backend_cuda_set_graphs") == 0 ? reinterpret_cast<void *>(set_graphs) : nullptr;
    };
    return reg;
}

// Once in a process. memory: of each, in bytes.
inline void add(const std::vector<size_t> &memory) {
    for (const size_t bytes : memory) {
        Gpu &gpu = gpus.at(n_gpus);
        gpu.name = "CUDA" + std::to_string(n_gpus++);
        gpu.memory = bytes;
        gpu.device = {device_interface(), &registry(), &gpu};
        gpu.type = {type_interface(), &gpu.device, nullptr};
    }
    ggml_backend_register(&registry());
}

} // namespace fake_gpu
