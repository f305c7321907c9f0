// GGUF files as such: what is looked at before upstream gets to see a file, and the memory that a model needs.
#include "backend_llama.h"

#include "backend_llama_matmul.h"
#include "backend_llama_towers.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <src/llama-ext.h>
#include <src/llama-model.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace gge {
namespace {

// ---------------------------------------------------------------- checks

// Upstream multiplies with whatever type a weight has, and some types have no such function. Some of its tokenizers
// recurse once per byte of a token.
GgufPtr check_contents(const std::string &path) {
    GgufPtr file = open_gguf(path);
    for (int64_t i = 0; i < gguf_get_n_tensors(file.get()); ++i) {
        const ggml_type type = gguf_get_tensor_type(file.get(), i);
        const bool is_float = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
        // Q8_1 and Q8_K hold activations: nothing reads them back.
        const bool is_packed = ggml_is_quantized(type) && ggml_get_type_traits(type)->to_float != nullptr &&
                               ggml_get_type_traits_cpu(type)->vec_dot != nullptr;
        if (!is_float && !is_packed) {
            throw Error(GGE_E_FORMAT, path + ": tensor " + gguf_get_tensor_name(file.get(), i) + " has type " +
                                          ggml_type_name(type) + ", which is not one of weights");
        }
    }
    constexpr size_t max_token_bytes = 16384;
    const int64_t key = gguf_find_key(file.get(), "tokenizer.ggml.tokens");
    const bool has_tokens = key >= 0 && gguf_get_kv_type(file.get(), key) == GGUF_TYPE_ARRAY &&
                            gguf_get_arr_type(file.get(), key) == GGUF_TYPE_STRING;
    for (size_t i = 0; has_tokens && i < gguf_get_arr_n(file.get(), key); ++i) {
        const size_t n_bytes = std::strlen(gguf_get_arr_str(file.get(), key, i));
        if (n_bytes > max_token_bytes) {
            throw Error(GGE_E_FORMAT, path + ": token " + std::to_string(i) + " has " + std::to_string(n_bytes) +
                                          " bytes, at most " + std::to_string(max_token_bytes) + " are possible");
        }
    }
    return file;
}

// Buffers of the CPU that hold weights packed for its kernels are no host buffers to upstream.
bool is_on_host(ggml_backend_buffer_type_t type) {
    const ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    return device == nullptr || ggml_backend_buft_is_host(type) ||
           ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

// Notes where the rows of tokens lie, if it is in this file.
void find_token_table(const gguf_context *file, const std::string &path, const Shapes &tensors, TablePlace &place) {
    const std::string name = "token_embd.weight";
    const int64_t i = gguf_find_tensor(file, name.c_str());
    if (i >= 0) {
        place.path = path;
        place.offset = static_cast<int64_t>(gguf_get_data_offset(file) + gguf_get_tensor_offset(file, i));
        place.type = gguf_get_tensor_type(file, i);
        place.width = tensors.at(name)[0];
    }
}

std::string read_meta(const llama_model *model, const std::string &key) {
    std::array<char, 256> value{};
    llama_model_meta_val_str(model, key.c_str(), value.data(), value.size());
    return value.data();
}

} // namespace

void fail_io(const std::string &what, const std::string &path, int code) {
    throw Error(GGE_E_IO, "cannot " + what + " " + path + ": " + std::generic_category().message(code));
}

std::string show(float value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%g", static_cast<double>(value));
    return text.data();
}

std::vector<std::string> files_of(const std::string &path) {
    const size_t of = path.rfind("-of-");
    const auto has_number = [&](size_t at) { return path.find_first_not_of("0123456789", at) >= at + 5; };
    const bool split = of != std::string::npos && of >= 6 && path.size() == of + 4 + 5 + 5 && path[of - 6] == '-' &&
                       has_number(of - 5) && has_number(of + 4);
    const int n_files = split ? std::atoi(path.substr(of + 4, 5).c_str()) : 1;
    if (n_files <= 1) {
        return {path};
    }
    std::vector<std::string> files;
    for (int i = 1; i <= n_files; ++i) {
        const std::string number = std::to_string(i);
        files.push_back(path);
        files.back().replace(of - 5, 5, std::string(5 - number.size(), '0') + number);
    }
    return files;
}

GgufPtr open_gguf(const std::string &path, ggml_context **tensors) {
    const ErrorLines lines;
    gguf_init_params params{};
    params.no_alloc = true;
    params.ctx = tensors;
    GgufPtr file(gguf_init_from_file(path.c_str(), params));
    if (!file) {
        throw upstream_error(GGE_E_FORMAT, path, lines);
    }
    return file;
}

GgufPtr check_file(const std::string &path) {
    std::error_code ec;
    if (std::filesystem::is_directory(path, ec)) {
        fail_io("read", path, EISDIR);
    }
    if (std::filesystem::is_fifo(path, ec)) { // opening one waits for a writer
        fail_io("read", path, ESPIPE);
    }
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        fail_io("read", path, errno != 0 ? errno : ENOENT);
    }
    std::array<char, 4> magic{};
    file.read(magic.data(), magic.size());
    if (file.gcount() != 4 || std::string_view(magic.data(), 4) != "GGUF") {
        throw Error(GGE_E_FORMAT, path + " is not a GGUF file");
    }
    return check_contents(path);
}

size_t tile_of(const gguf_context *file) {
    const std::set<ggml_type> pairs = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0};
    for (int64_t i = 0; i < gguf_get_n_tensors(file); ++i) {
        if (pairs.count(gguf_get_tensor_type(file, i)) == 0) {
            return 8;
        }
    }
    return 2;
}

ModelFiles check_files(const std::string &path) {
    ModelFiles found;
    for (const std::string &name : files_of(path)) {
        const auto file = check_file(name);
        if (read_text(file.get(), "general.type") == "adapter") {
            throw Error(GGE_E_FORMAT, name + " is an adapter, which is loaded together with its model");
        }
        if (found.architecture.empty()) { // only the first of several files has it
            found.architecture = read_text(file.get(), "general.architecture");
        }
        if (found.architecture == "clip") {
            throw Error(GGE_E_FORMAT,
                        name + " is a projector for media, which is loaded together with its model (mmproj)");
        }
        Shapes tensors = read_shapes(file.get());
        find_token_table(file.get(), name, tensors, found.token_table);
        found.tensors.merge(tensors);
        found.tile = std::max(found.tile, tile_of(file.get()));
        std::error_code ec;
        const auto size = std::filesystem::file_size(name, ec);
        found.bytes += ec ? 0 : static_cast<int64_t>(size);
    }
    return found;
}

std::vector<Adapter> check_adapters(const std::vector<std::string> &paths, const ModelFiles &model) {
    std::vector<Adapter> adapters;
    for (const std::string &path : paths) {
        const auto file = check_file(path);
        try {
            adapters.push_back({path, check_adapter(file.get(), model.architecture, model.tensors)});
        } catch (const Error &e) {
            throw Error(e.status(), path + ": " + e.what());
        }
    }
    return adapters;
}

void check_shape(const llama_model *model) {
    const std::string architecture = read_meta(model, "general.architecture");
    // zeros that upstream divides by, or counts up to from below
    for (const char *key : {".attention.head_count_kv", ".rope.dimension_count"}) {
        if (read_meta(model, architecture + key) == "0" &&
            read_meta(model, architecture + ".attention.head_count") != "0") {
            throw Error(GGE_E_FORMAT, "the file says " + architecture + key + " 0, it must be positive");
        }
    }
    const int32_t n_embd = llama_model_n_embd_out(model);
    const int32_t n_ctx_train = llama_model_n_ctx_train(model);
    if (n_embd < 1 || n_ctx_train < 1) {
        throw Error(GGE_E_FORMAT, "the file says n_embd " + std::to_string(n_embd) + " and context length " +
                                      std::to_string(n_ctx_train) + ", both must be positive");
    }
}

// ---------------------------------------------------------------- rows

RowTable::RowTable(TablePlace place) : place_(std::move(place)) {
    errno = 0;
    file_.open(place_.path, std::ios::binary);
    if (!file_) {
        fail_io("read", place_.path, errno != 0 ? errno : ENOENT);
    }
}

void RowTable::read(const int32_t *indices, size_t n, float *rows) {
    const auto to_float = ggml_get_type_traits(place_.type)->to_float; // none for floats
    const size_t n_bytes = ggml_row_size(place_.type, place_.width);
    std::vector<char> packed(n_bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < n; ++i) {
        float *row = rows + i * static_cast<size_t>(place_.width);
        char *bytes = to_float == nullptr ? reinterpret_cast<char *>(row) : packed.data();
        errno = 0;
        file_.clear();
        file_.seekg(place_.offset + indices[i] * static_cast<int64_t>(n_bytes));
        if (!file_.read(bytes, static_cast<std::streamsize>(n_bytes))) {
            fail_io("read", place_.path, errno != 0 ? errno : EIO);
        }
        if (to_float != nullptr) {
            to_float(bytes, row, place_.width);
        }
    }
}

// ---------------------------------------------------------------- memory

void read_weights(const llama_model *model, ModelFacts &facts) {
    std::map<std::pair<ggml_type, std::string>, std::pair<size_t, size_t>> sizes; // in the file, in memory
    std::set<std::string> kernels;
    for (const auto &[name, tensor] : llama_internal_get_tensor_map(model)) {
        const std::string kernel = packed_for(tensor);
        auto &[in_file, in_memory] = sizes[{tensor->type, kernel}];
        in_file += ggml_nbytes(tensor);
        in_memory += ggml_backend_buffer_get_alloc_size(tensor->buffer, tensor);
        kernels.insert(kernel);
    }
    for (const auto &[what, bytes] : sizes) {
        gge_weights &weights = facts.weights.emplace_back();
        copy_string(weights.type, ggml_type_name(what.first));
        copy_string(weights.kernel, what.second);
        weights.file_bytes = static_cast<int64_t>(bytes.first);
        weights.memory_bytes = static_cast<int64_t>(bytes.second);
    }
    std::stable_sort(facts.weights.begin(), facts.weights.end(),
                     [](const gge_weights &a, const gge_weights &b) { return a.file_bytes > b.file_bytes; });
    kernels.erase("");
    for (const std::string &name : kernels) {
        facts.cpu_kernels += (facts.cpu_kernels.empty() ? "" : ", ") + name;
    }
}

gge_memory memory_of(llama_context *context, int64_t n_outputs) {
    gge_memory memory{};
    for (const auto &[type, bytes] : llama_get_memory_breakdown(context)) {
        const bool host = is_on_host(type);
        (host ? memory.weights_host : memory.weights_device) += static_cast<int64_t>(bytes.model);
        (host ? memory.cache_host : memory.cache_device) += static_cast<int64_t>(bytes.context);
        (host ? memory.compute_host : memory.compute_device) += static_cast<int64_t>(bytes.compute);
    }
    // Not part of the breakdown: a row for each output, and logits where the context keeps them.
    const llama_model *model = llama_get_model(context);
    int64_t n_floats = llama_model_n_embd_out(model);
    if (llama_get_logits(context) != nullptr) {
        n_floats += llama_vocab_n_tokens(llama_model_get_vocab(model));
    }
    memory.output_host = std::max<int64_t>(n_outputs, llama_n_seq_max(context)) * n_floats * int64_t{sizeof(float)};
    return memory;
}

namespace {

ContextPtr make_context(llama_model *model, const SessionOptions &options, bool on_cpu, bool packs) {
    const ErrorLines lines;
    ContextPtr context(llama_init_from_model(model, context_params(options, on_cpu, packs)));
    if (!context) {
        throw upstream_error(GGE_E_FORMAT, "the compute state cannot be made", lines);
    }
    return context;
}

ModelFacts facts_for_size(llama_model *model, const ModelFiles &files, bool on_cpu) {
    ModelFacts facts;
    facts.architecture = files.architecture;
    const std::string pooling = read_meta(model, files.architecture + ".pooling_type");
    facts.pooling = pooling.empty() ? GGE_POOLING_DEFAULT : read_pooling(pooling);
    read_head(model, files.tensors, facts);
    facts.n_ctx_train = llama_model_n_ctx_train(model);
    facts.has_state = llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
    read_cache(model, on_cpu, facts);
    read_weights(model, facts);
    return facts;
}

// Upstream puts the matrices of an adapter where the weights are that they change.
void add_adapter(gge_memory &memory, const std::string &path, int32_t first_layer_on_device, int32_t n_gpu_layers) {
    const GgufPtr file = open_gguf(path);
    for (int64_t i = 0; i < gguf_get_n_tensors(file.get()); ++i) {
        const std::string name = gguf_get_tensor_name(file.get(), i);
        // what follows the layers goes with the last one, the token embeddings stay on the host
        const bool in_layer = name.compare(0, 4, "blk.") == 0;
        const int32_t layer = in_layer                                  ? std::atoi(name.c_str() + 4)
                              : name.compare(0, 11, "token_embd.") == 0 ? -1
                                                                        : INT32_MAX;
        const bool on_device = layer >= first_layer_on_device && n_gpu_layers > 0;
        (on_device ? memory.weights_device : memory.weights_host) +=
            static_cast<int64_t>(gguf_get_tensor_size(file.get(), i));
    }
}

void add_towers(gge_memory &memory, const gge_memory &towers) {
    memory.weights_device += towers.weights_device;
    memory.weights_host += towers.weights_host;
    memory.compute_device += towers.compute_device;
    memory.compute_host += towers.compute_host;
    memory.output_host += towers.output_host;
}

} // namespace

void survey_llama_model(const std::string &path, const std::vector<Device> &devices, const LoadOptions &options,
                        int64_t n_tower_batch, const std::function<void(const ModelFacts &, const Measure &)> &use) {
    LoadOptions silent = options;
    silent.callbacks = {};
    const OpenedModel opened = open_model(path, devices, silent, true);
    llama_model *const model = opened.model.get();
    const bool on_cpu = devices.front().kind == GGE_DEVICE_CPU;
    gge_memory beside{}; // what is the same for all sessions, and not the model's own
    for (const Adapter &adapter : opened.adapters) {
        add_adapter(beside, adapter.path, llama_model_n_layer(model) + 1 - opened.n_gpu_layers, opened.n_gpu_layers);
    }
    add_towers(beside, estimate_towers(devices.front(), options, llama_model_n_embd_out(model), n_tower_batch));
    const Shield shield;
    try {
        check_shape(model);
        const ModelFacts facts = facts_for_size(model, opened.files, on_cpu);
        use(facts, [&](const SessionOptions &session) {
            if (session.n_ctx > most_measured) { // upstream has some bytes for each token even then
                throw Error(GGE_E_INVALID, "n_ctx is " + std::to_string(session.n_ctx) + ", estimates go up to " +
                                               std::to_string(most_measured) + "; give a smaller one");
            }
            const ContextPtr context = make_context(model, session, on_cpu, facts.packs);
            gge_memory memory =
                memory_of(context.get(), round_up(session.n_ubatch, static_cast<int64_t>(opened.files.tile)));
            add_towers(memory, beside);
            return memory;
        });
    } catch (const Error &e) {
        throw Error(e.status(), path + ": " + e.what());
    } catch (const std::runtime_error &e) {
        throw Error(GGE_E_FORMAT, path + ": " + e.what());
    }
}

} // namespace gge
