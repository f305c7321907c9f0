#include "options.h"

#include "version.h"

#include <cmath>

namespace gge {
namespace {

// A caller built against an older header has a shorter struct: the missing fields are zero, which means default.
// A newer caller has a longer one: fields that this library does not know must be at their default.
template <typename T> T widen(const T *opts, const char *name) {
    T full{};
    if (opts == nullptr) {
        return full;
    }
    const size_t size = opts->struct_size;
    if (size < sizeof(size_t)) {
        throw Error(GGE_E_INVALID, std::string(name) + ".struct_size is " + std::to_string(size) +
                                       ", it must be sizeof(" + name + ")");
    }
    std::memcpy(static_cast<void *>(&full), opts, std::min(size, sizeof(T)));
    const auto *bytes = reinterpret_cast<const unsigned char *>(opts);
    for (size_t i = sizeof(T); i < size; ++i) {
        if (bytes[i] != 0) {
            throw Error(GGE_E_UNSUPPORTED,
                        std::string(name) + " sets a field that version " + version + " of the library does not know");
        }
    }
    return full;
}

void check_range(const char *name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
        throw Error(GGE_E_INVALID, std::string(name) + " is " + std::to_string(value) + ", allowed are " +
                                       std::to_string(low) + " to " + std::to_string(high));
    }
}

bool read_switch(const char *name, gge_switch value, bool fallback) {
    check_range(name, value, GGE_SWITCH_DEFAULT, GGE_OFF);
    return value == GGE_SWITCH_DEFAULT ? fallback : value == GGE_ON;
}

std::vector<std::string> read_strings(const char *name, const char *const *strings, int32_t n) {
    std::vector<std::string> read;
    for (int32_t i = 0; i < n; ++i) {
        if (strings == nullptr || strings[i] == nullptr) {
            throw Error(GGE_E_INVALID,
                        std::string(name) + " is NULL at " + std::to_string(i) + " of " + std::to_string(n));
        }
        read.emplace_back(strings[i]);
    }
    return read;
}

} // namespace

LoadOptions read_options(const gge_model_options *opts) {
    const gge_model_options o = widen(opts, "gge_model_options");
    check_range("n_gpu_layers", o.n_gpu_layers, -1, INT32_MAX);
    LoadOptions r;
    r.device = o.device == nullptr || o.device[0] == '\0' ? "auto" : o.device;
    r.n_gpu_layers = o.n_gpu_layers;
    check_range("split", o.split, GGE_SPLIT_DEFAULT, GGE_SPLIT_COPIES);
    r.split = o.split == GGE_SPLIT_NONE     ? Split::none
              : o.split == GGE_SPLIT_LAYER  ? Split::layer
              : o.split == GGE_SPLIT_COPIES ? Split::copies
                                            : Split::automatic;
    r.mmap = read_switch("mmap", o.mmap, true);
    r.cpu_kernels = read_switch("cpu_kernels", o.cpu_kernels, true);
    check_range("n_adapters", o.n_adapters, 0, 1024);
    r.adapters = read_strings("adapters", o.adapters, o.n_adapters);
    check_range("n_mmproj", o.n_mmproj, 0, 2);
    r.mmproj = read_strings("mmproj", o.mmproj, o.n_mmproj);
    r.callbacks = {o.progress, o.abort, o.user_data};
    return r;
}

MediaOptions read_options(const gge_media_options *opts) {
    const gge_media_options o = widen(opts, "gge_media_options");
    check_range("min_pixels", o.min_pixels, 0, INT64_MAX);
    check_range("max_pixels", o.max_pixels, 0, INT64_MAX);
    if (o.max_pixels > 0 && o.min_pixels > o.max_pixels) {
        throw Error(GGE_E_INVALID, "min_pixels is " + std::to_string(o.min_pixels) + ", max_pixels only " +
                                       std::to_string(o.max_pixels));
    }
    return {o.min_pixels, o.max_pixels};
}

TokenizeOptions read_options(const gge_tokenize_options *opts) {
    const gge_tokenize_options o = widen(opts, "gge_tokenize_options");
    check_range("prompt_bytes", o.prompt_bytes, 0, INT32_MAX);
    if (o.prompt == nullptr && o.prompt_bytes > 0) {
        throw Error(GGE_E_INVALID, "prompt is NULL, but prompt_bytes is " + std::to_string(o.prompt_bytes));
    }
    TokenizeOptions r;
    if (o.prompt_bytes > 0) {
        r.prompt.assign(reinterpret_cast<const char *>(o.prompt), static_cast<size_t>(o.prompt_bytes));
    }
    r.add_special = read_switch("add_special", o.add_special, true);
    r.parse_special = read_switch("parse_special", o.parse_special, false);
    check_range("max_tokens", o.max_tokens, 0, INT64_MAX);
    check_range("overflow", o.overflow, GGE_OVERFLOW_DEFAULT, GGE_OVERFLOW_TRUNCATE_START);
    r.max_tokens = o.max_tokens;
    r.overflow = o.overflow == GGE_OVERFLOW_TRUNCATE         ? Overflow::truncate
                 : o.overflow == GGE_OVERFLOW_TRUNCATE_START ? Overflow::truncate_start
                                                             : Overflow::error;
    check_range("end_token", o.end_token, 0, INT32_MAX);
    r.end_token = o.end_token - 1;
    r.truncated = o.truncated;
    r.n_tokens_original = o.n_tokens_original;
    check_range("n_threads", o.n_threads, 0, 512);
    r.n_threads = o.n_threads;
    r.report = {o.input_status, o.on_input_error};
    r.callbacks = {nullptr, o.abort, o.user_data};
    return r;
}

EngineOptions read_options(const gge_engine_options *opts) {
    const gge_engine_options o = widen(opts, "gge_engine_options");
    check_range("n_ctx", o.n_ctx, 0, INT32_MAX);
    check_range("n_ubatch", o.n_ubatch, 0, 1 << 20);
    check_range("n_seq_max", o.n_seq_max, 0, 256);
    check_range("n_threads", o.n_threads, 0, 512);
    check_range("n_tower_batch", o.n_tower_batch, 0, 1 << 20);
    check_range("max_queued_tokens", o.max_queued_tokens, 0, int64_t{1} << 48);
    check_range("memory_limit", o.memory_limit, 0, INT64_MAX);
    check_range("attention", o.attention, GGE_ATTENTION_DEFAULT, GGE_ATTENTION_BIDIRECTIONAL);
    EngineOptions r;
    r.n_ctx = o.n_ctx;
    r.n_ubatch = o.n_ubatch;
    r.n_seq_max = o.n_seq_max;
    r.n_threads = o.n_threads;
    r.n_tower_batch = o.n_tower_batch;
    r.memory_limit = o.memory_limit;
    if (o.max_queued_tokens > 0) {
        r.max_queued_tokens = o.max_queued_tokens;
    }
    r.attention = o.attention == GGE_ATTENTION_CAUSAL          ? AttentionChoice::causal
                  : o.attention == GGE_ATTENTION_BIDIRECTIONAL ? AttentionChoice::bidirectional
                                                               : AttentionChoice::from_file;
    if (o.flash_attention != GGE_SWITCH_DEFAULT) {
        r.flash_attention =
            read_switch("flash_attention", o.flash_attention, true) ? FlashAttention::on : FlashAttention::off;
    }
    if (o.cuda_graphs != GGE_SWITCH_DEFAULT) {
        r.cuda_graphs = read_switch("cuda_graphs", o.cuda_graphs, true) ? CudaGraphs::on : CudaGraphs::off;
    }
    return r;
}

EncodeOptions read_options(const gge_encode_options *opts) {
    const gge_encode_options o = widen(opts, "gge_encode_options");
    check_range("pooling", o.pooling, GGE_POOLING_DEFAULT, GGE_POOLING_RANK);
    check_range("truncate_dim", o.truncate_dim, 0, INT32_MAX);
    EncodeOptions r;
    r.pooling = o.pooling;
    r.truncate_dim = o.truncate_dim;
    check_range("normalize", o.normalize, GGE_SWITCH_DEFAULT, GGE_OFF);
    r.normalize = o.normalize;
    r.output_type = read_output_type(o.output_type);
    r.ranges = o.ranges;
    check_range("n_projection", o.n_projection, 0, 1 << 20);
    if ((o.projection != nullptr) != (o.n_projection > 0)) {
        throw Error(GGE_E_INVALID, std::string("projection is ") + (o.projection == nullptr ? "NULL" : "given") +
                                       ", but n_projection is " + std::to_string(o.n_projection));
    }
    if (o.projection_bias != nullptr && o.projection == nullptr) {
        throw Error(GGE_E_INVALID, "projection_bias is given without a projection");
    }
    r.projection = o.projection;
    r.projection_bias = o.projection_bias;
    r.n_projection = o.n_projection;
    check_range("adapter", o.adapter, 0, 1024);
    r.adapter = o.adapter;
    if (!std::isfinite(o.adapter_scale)) {
        throw Error(GGE_E_INVALID, "adapter_scale is not finite");
    }
    r.adapter_scale = o.adapter_scale == 0.0F ? 1.0F : o.adapter_scale;
    r.report = {o.input_status, o.on_input_error};
    r.callbacks = {o.progress, o.abort, o.user_data};
    return r;
}

gge_output_type read_output_type(gge_output_type type) {
    check_range("output_type", type, GGE_OUTPUT_DEFAULT, GGE_OUTPUT_UBINARY);
    return type == GGE_OUTPUT_DEFAULT ? GGE_OUTPUT_FLOAT32 : type;
}

QuantizeOptions read_options(const gge_quantize_options *opts) {
    const gge_quantize_options o = widen(opts, "gge_quantize_options");
    check_range("n_threads", o.n_threads, 0, 512);
    QuantizeOptions r;
    const auto text = [](const char *s) { return std::string(s == nullptr ? "" : s); };
    r.level = text(o.level);
    r.imatrix = text(o.imatrix);
    r.token_embedding_type = text(o.token_embedding_type);
    r.n_threads = o.n_threads;
    r.requantize = read_switch("requantize", o.requantize, false);
    r.pure = read_switch("pure", o.pure, false);
    r.callbacks = {o.progress, o.abort, o.user_data};
    return r;
}

} // namespace gge
