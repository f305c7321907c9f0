// What the backend_llama*.cpp files share: upstream's process-wide state, its handles and its failures. Private to
// them, the only files that see llama.h (docs/adr/0007).
#pragma once

#include "adapter_file.h"
#include "backend.h"
#include "head.h"
#include "log.h"

#include <ggml-backend.h>
#include <gguf.h>
#include <llama.h>

#include <fstream>
#include <map>
#include <mutex>
#include <stdexcept>

namespace gge {

class UpstreamAbort : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// While it lives, a failed upstream assertion on this thread throws UpstreamAbort instead of ending the process.
class Shield {
public:
    Shield() noexcept;
    ~Shield();
    Shield(const Shield &) = delete;
    Shield &operator=(const Shield &) = delete;
};

// While it lives, so does one on any other thread. Only for upstream code whose threads catch exceptions: on other
// threads the exception ends the process, as the assertion would have done.
class ShieldForAll {
public:
    ShieldForAll() noexcept;
    ~ShieldForAll();
    ShieldForAll(const ShieldForAll &) = delete;
    ShieldForAll &operator=(const ShieldForAll &) = delete;
};

void init_upstream();

// Upstream's device; NULL for the CPU, which takes part anyway. Throws Error.
ggml_backend_dev_t device_handle(const Device &device);

// Whether a back end captures CUDA graphs, if it can. Before its first graph.
void switch_cuda_graphs(ggml_backend_t backend, bool on);

// Upstream reports failures as a null pointer and log lines; the lines tell what kind of failure it was.
Error upstream_error(gge_status fallback, const std::string &what, const ErrorLines &lines);

struct FreeModel {
    void operator()(llama_model *p) const noexcept { llama_model_free(p); }
};
struct FreeContext {
    void operator()(llama_context *p) const noexcept { llama_free(p); }
};
struct FreeGguf {
    void operator()(gguf_context *p) const noexcept { gguf_free(p); }
};
struct FreeThreadpool {
    void operator()(ggml_threadpool *p) const noexcept { ggml_threadpool_free(p); }
};
using ModelPtr = std::unique_ptr<llama_model, FreeModel>;
using ContextPtr = std::unique_ptr<llama_context, FreeContext>;
using GgufPtr = std::unique_ptr<gguf_context, FreeGguf>;
using ThreadpoolPtr = std::unique_ptr<ggml_threadpool, FreeThreadpool>; // outlives what it is attached to

// The threads of a CPU backend; none for one thread, which is the caller's. Throws Error.
ThreadpoolPtr make_threadpool(int32_t n_threads);

// ---------------------------------------------------------------- backend_llama.cpp

// Where the rows of a matrix lie.
struct TablePlace {
    std::string path;
    int64_t offset = 0;
    ggml_type type = GGML_TYPE_F32;
    int64_t width = 0;
};

// What is looked up in the files of a model before upstream reads them.
struct ModelFiles {
    std::string architecture;
    Shapes tensors;
    TablePlace token_table;
    size_t tile = 2; // rows that a product with any of the matrices takes at once: more or fewer give other last bits
    int64_t bytes = 0;
};

// A LoRA adapter, which belongs to its model.
struct Adapter {
    std::string path;
    std::set<std::string> changed; // tensors
    llama_adapter_lora *handle = nullptr;
};

struct OpenedModel {
    ModelFiles files;
    ModelPtr model;
    std::vector<Adapter> adapters; // freed with the model; not loaded without weights
    int32_t n_gpu_layers = 0;
};

// Checks the files and has upstream load them; without_weights: the tensors exist, but have no memory.
OpenedModel open_model(const std::string &path, const std::vector<Device> &devices, const LoadOptions &options,
                       bool without_weights);

template <typename T> T round_up(T n, T step) {
    return (n + step - 1) / step * step;
}

// packs: ModelFacts.packs
llama_context_params context_params(const SessionOptions &options, bool on_cpu, bool packs);

// Fills in whether the architecture has a cache, whether it can do without, and whether a token sees only those before
// it.
void read_cache(llama_model *model, bool on_cpu, ModelFacts &facts);

gge_pooling read_pooling(const std::string &value);

// Fills in what a classification head is good for; facts has the architecture.
void read_head(const llama_model *model, const Shapes &tensors, ModelFacts &facts);

// ---------------------------------------------------------------- backend_llama_attention.cpp

// The ggml op that computes packed attention on the CPU. userdata: llama_packed_attention.
void attend_packed(ggml_tensor *out, int i_thread, int n_threads, void *userdata);

// ---------------------------------------------------------------- backend_llama_files.cpp

[[noreturn]] void fail_io(const std::string &what, const std::string &path, int code);

// The file, or all files of a split model ("...-00001-of-00003.gguf").
std::vector<std::string> files_of(const std::string &path);

// A number in a message.
std::string show(float value);

// Look at files before upstream does, for errors that say what is wrong.
GgufPtr check_file(const std::string &path);
ModelFiles check_files(const std::string &path);

// ModelFiles::tile: kernels for floats and whole bytes take rows in pairs, those for the other types up to eight.
size_t tile_of(const gguf_context *file);

std::vector<Adapter> check_adapters(const std::vector<std::string> &paths, const ModelFiles &model);

// Checks what a model says of its shape before a context is made.
void check_shape(const llama_model *model);

// Opens the metadata of a GGUF file; tensors: receives their shapes, to be freed by the caller. Throws Error.
GgufPtr open_gguf(const std::string &path, ggml_context **tensors = nullptr);

// Fills in what the weights of each type take, loaded or not, and for which of our kernels they are packed.
void read_weights(const llama_model *model, ModelFacts &facts);

// What a context holds, its output buffer as it is for that many tokens.
gge_memory memory_of(llama_context *context, int64_t n_outputs);

// Reads rows of a matrix from its file as floats, the same as those of the graph's lookup. The weights in memory are of
// no use for that: they may be on a device. Any number of threads.
class RowTable {
public:
    // Opens the file. Throws Error.
    explicit RowTable(TablePlace place);

    // rows: [n, width]
    void read(const int32_t *indices, size_t n, float *rows);

private:
    const TablePlace place_;
    std::mutex mutex_;
    std::ifstream file_;
};

// ---------------------------------------------------------------- backend_llama_imatrix.cpp

// Mean squares of the activations that each column of a tensor has met; for stacked matrices one after the other.
using Imatrix = std::map<std::string, std::vector<float>>;

// Reads an importance matrix in either format. Its values are finite and positive. Throws Error.
Imatrix read_imatrix(const std::string &path);

} // namespace gge
