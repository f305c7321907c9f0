// Versioned option structs of the C ABI -> plain structs with every default filled in.
#pragma once

#include "error.h"

#include <chrono>
#include <string>
#include <vector>

namespace gge {

enum class Attention { causal, bidirectional };

// Attention of an engine: the file's, or forced.
enum class AttentionChoice { from_file, causal, bidirectional };

enum class FlashAttention { automatic, on, off };

enum class CudaGraphs { automatic, on, off };

// How often a long call asks its abort callback.
constexpr auto abort_interval = std::chrono::milliseconds(50);

constexpr int64_t default_max_queued_tokens = 1 << 20;

struct Callbacks {
    gge_progress_fn progress = nullptr;
    gge_abort_fn abort = nullptr;
    void *user_data = nullptr;
};

enum class Overflow { error, truncate, truncate_start };

// Where a call says what became of each of its inputs. With neither, a bad input fails the call.
struct InputReport {
    int32_t *status = nullptr; // [n_texts]
    gge_input_error_fn on_error = nullptr;

    bool collects() const noexcept { return status != nullptr || on_error != nullptr; }
};

// What several devices are for.
enum class Split { automatic, none, layer, copies };

struct LoadOptions {
    std::string device; // never empty
    int32_t n_gpu_layers = 0;
    Split split = Split::automatic;
    bool mmap = true;
    bool cpu_kernels = true; // our own on the CPU
    std::vector<std::string> adapters;
    std::vector<std::string> mmproj;
    Callbacks callbacks;
};

struct MediaOptions {
    int64_t min_pixels = 0; // 0 = the tower's
    int64_t max_pixels = 0;
};

struct TokenizeOptions {
    std::string prompt;
    bool add_special = true;
    bool parse_special = false;
    int64_t max_tokens = 0; // 0 = no limit
    Overflow overflow = Overflow::error;
    int32_t end_token = -1;               // in place of what the model appends; -1 = that
    int32_t *truncated = nullptr;         // [n_texts]
    int64_t *n_tokens_original = nullptr; // [n_texts]
    int32_t n_threads = 0;                // at most; 0 = chosen by how much there is to do
    InputReport report;
    Callbacks callbacks; // no progress
};

struct EngineOptions {
    int32_t n_ctx = 0;     // 0 = the model's
    int32_t n_ubatch = 0;  // 0 = chosen by the engine
    int32_t n_seq_max = 0; // 0 = chosen by the engine
    int32_t n_threads = 0; // 0 = chosen by the engine
    AttentionChoice attention = AttentionChoice::from_file;
    FlashAttention flash_attention = FlashAttention::automatic;
    int32_t n_tower_batch = 0; // 0 = chosen by the engine
    int64_t max_queued_tokens = default_max_queued_tokens;
    CudaGraphs cuda_graphs = CudaGraphs::automatic;
    int64_t memory_limit = 0; // 0 = none
};

struct EncodeOptions {
    gge_pooling pooling = GGE_POOLING_DEFAULT;
    int32_t truncate_dim = 0; // 0 = all
    gge_switch normalize = GGE_SWITCH_DEFAULT;
    gge_output_type output_type = GGE_OUTPUT_FLOAT32;
    const float *ranges = nullptr;
    const float *projection = nullptr;
    const float *projection_bias = nullptr;
    int32_t n_projection = 0;
    int32_t adapter = 0; // 0 = none, else from 1
    float adapter_scale = 1.0F;
    InputReport report;
    Callbacks callbacks;
};

struct QuantizeOptions {
    std::string level;
    std::string imatrix;              // empty = none
    std::string token_embedding_type; // empty = what the level says
    int32_t n_threads = 0;            // 0 = chosen
    bool requantize = false;
    bool pure = false;
    Callbacks callbacks;
};

LoadOptions read_options(const gge_model_options *opts);
MediaOptions read_options(const gge_media_options *opts);
TokenizeOptions read_options(const gge_tokenize_options *opts);
EngineOptions read_options(const gge_engine_options *opts);
EncodeOptions read_options(const gge_encode_options *opts);
QuantizeOptions read_options(const gge_quantize_options *opts);

// A type that gge_encode can write. Throws Error.
gge_output_type read_output_type(gge_output_type type);

// Copies as much of a filled struct as the caller's struct_size has room for.
template <typename T> void write_struct(T *out, T filled) {
    if (out == nullptr) {
        throw Error(GGE_E_INVALID, "out is NULL");
    }
    if (out->struct_size < sizeof(size_t)) {
        throw Error(GGE_E_INVALID,
                    "struct_size is " + std::to_string(out->struct_size) + ", it must be set by the caller");
    }
    filled.struct_size = out->struct_size;
    std::memcpy(static_cast<void *>(out), &filled, std::min(out->struct_size, sizeof(T)));
}

// Copies as much as fits with its terminating NUL. to must be zeroed.
template <size_t N> void copy_string(char (&to)[N], const std::string &from) {
    std::copy_n(from.begin(), std::min(from.size(), N - 1), to);
}

// Into a zeroed struct; there are more places than pairs of types and kernels.
template <typename T> void write_weights(T &to, const std::vector<gge_weights> &from) {
    to.n_weights = static_cast<int32_t>(std::min(from.size(), std::size(to.weights)));
    std::copy_n(from.begin(), to.n_weights, std::begin(to.weights));
}

} // namespace gge
