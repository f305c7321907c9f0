// The narrow interface through which the engine reaches an inference library. backend_llama.cpp implements it; tests
// implement it with a fake.
#pragma once

#include "cuda_driver.h"
#include "cutting.h"
#include "options.h"

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gge {

struct Device {
    gge_device_kind kind = GGE_DEVICE_CPU;
    int32_t index = 0; // among its kind
    std::string name;  // "cpu", "cuda:0"
    std::string description;
    int64_t memory_total = 0;
    int64_t memory_free = 0;
    ComputeCapability capability; // of CUDA's
};

// What a model file says of itself.
struct ModelFacts {
    std::string path;
    std::string architecture;
    std::string name;
    std::string quantization;
    std::string tokenizer;
    std::vector<std::pair<std::string, std::string>> metadata;
    gge_pooling pooling = GGE_POOLING_DEFAULT; // DEFAULT = the file does not say
    Attention attention = Attention::causal;
    bool has_cache = true;
    bool packs = false;     // a micro-batch of whole inputs runs without a cache
    bool cacheless = false; // and in memory that is linear in its tokens, so that inputs of any length can run whole
    bool has_state = false; // recurrent or hybrid: memory grows with the number of sequences
    bool has_tokenizer = true;
    bool has_mrope = false;       // positions of media have three parts
    std::string cannot_take_rows; // why the model cannot compute with rows in place of ids, as a sentence
    int32_t n_embd = 0;
    int32_t n_layer = 0;
    int32_t n_ctx_train = 0;
    int32_t n_vocab = 0;
    int32_t token_bos = -1;
    int32_t token_eos = -1;
    int32_t token_sep = -1;
    int32_t token_pad = -1;
    int32_t n_cls_out = 0;     // outputs of the classification head, 0 = the model cannot rank
    std::string cannot_rank;   // and why not, as a sentence
    std::string pair_template; // what stands around {query} and {document}, empty = the file does not say
    bool pair_has_sep = false; // without a template: token_sep stands after the end token of the query
    int32_t n_adapters = 0;
    std::set<int32_t> token_adapters; // of these, those that change the rows of tokens; numbered from 1
    int32_t n_gpu_layers = 0;
    std::string cpu_kernels; // our own that weights are held for
    std::vector<gge_weights> weights;
    int64_t n_params = 0;
    int64_t tensor_bytes = 0;
    int64_t file_bytes = 0;
};

// What a projector file says of its encoder: a tower that turns images or sound into rows of the text model.
struct TowerFacts {
    gge_modality modality = GGE_MODALITY_VISION;
    std::string path;
    std::string projector; // clip.projector_type
    std::string name;
    int32_t n_embd = 0; // width of its rows, that of the text model
    int32_t n_layer = 0;
    // vision
    int32_t patch_size = 0;
    int32_t merge_size = 0; // a row stands for merge_size x merge_size patches
    std::array<float, 3> image_mean{};
    std::array<float, 3> image_std{};
    int64_t min_pixels = 0; // of an image
    int64_t max_pixels = 0;
    int64_t video_min_pixels = 0; // width x height x frames
    int64_t video_max_pixels = 0;
    // audio
    int32_t n_mel_bins = 0;
    int32_t n_window = 0;

    int64_t n_params = 0;
    int64_t tensor_bytes = 0;
    int64_t file_bytes = 0;
};

// One medium as a tower takes it: an image, a pair of frames, or a sound.
struct TowerInput {
    int64_t n_rows = 0;      // that the tower makes of it
    int32_t grid_width = 0;  // vision: patches
    int32_t grid_height = 0; // vision: patches
    int64_t n_frames = 0;    // audio: mel frames
    // vision: [grid_height * grid_width, 2 * 3 * patch_size * patch_size]; a patch is (frame, channel, y, x), the
    // patches of a row stand together: (row of cells, cell, patch row in the cell, patch column in the cell)
    // audio: [n_mel_bins, n_frames]
    const float *values = nullptr;
};

// Compute state of a tower. Used by one thread at a time.
class TowerSession {
public:
    virtual ~TowerSession() = default;

    // Returns the rows of all inputs, one input after the other: [sum of n_rows, n_embd], valid until the next call.
    // An input's rows do not depend on the others. Stops early with GGE_E_ABORTED when abort becomes true.
    virtual const float *compute(const std::vector<TowerInput> &inputs, const std::atomic<bool> &abort) = 0;

    virtual gge_memory memory() const = 0;
};

// Weights of a tower; immutable, for any number of threads.
class BackendTower {
public:
    virtual ~BackendTower() = default;
    virtual const TowerFacts &facts() const noexcept = 0;
    virtual std::unique_ptr<TowerSession> open(int32_t n_threads, bool cuda_graphs) const = 0;
};

struct SessionOptions {
    int64_t n_ctx = 0;       // positions that one sequence may have, and cells of the cache
    int64_t n_positions = 0; // without a cache: n_ctx of the largest session that may follow; some models scale by it
    int64_t n_ubatch = 0;    // tokens per compute()
    int64_t n_seq_max = 0;
    int32_t n_threads = 1;
    AttentionChoice attention = AttentionChoice::from_file;
    FlashAttention flash_attention = FlashAttention::automatic;
    bool cuda_graphs = false; // capture them
    bool rank = false;        // compute what the classification head says of each sequence, instead of token rows
    // For comparisons: all that upstream does, with head, cache and mask; and attention as on devices other than the CPU.
    bool plain = false;
    bool streams = false;
};

// The tokens of one micro-batch, sequence after sequence. All vectors have the same size.
struct TokenBatch {
    std::vector<int32_t> ids;
    std::vector<int32_t> positions; // not decreasing in each sequence; from 0, one for each token, but for M-RoPE
    std::vector<int32_t> sequences; // 0..k-1
    std::vector<uint8_t> wanted;    // 1: the row of this token is read; at least one is

    // Only for a batch with media in it: what the model computes with in place of the ids: [n_tokens, n_embd], and
    // with ModelFacts.has_mrope the place of each token in its image (for text, the position again).
    std::vector<float> rows;
    std::vector<int32_t> heights;
    std::vector<int32_t> widths;
};

// Compute state. Used by one thread at a time.
class BackendSession {
public:
    virtual ~BackendSession() = default;

    // Forgets all sequences. wipe also clears the values that the cache holds.
    virtual void reset(bool wipe) = 0;

    // Chooses the adapter of the batches from now on: 0 = none, i = the model's i-th, from 1. A sequence that goes on
    // from a batch before must have the same one.
    virtual void use_adapter(int32_t adapter, float scale) = 0;

    // Runs a batch and returns the wanted token rows in the order of the tokens: [n_wanted, n_embd], valid until the
    // next call. A sequence that goes on from the call before it needs a cache. With SessionOptions.rank it returns
    // [n_sequences, n_cls_out], and every sequence must be in one batch as a whole. Stops early with GGE_E_ABORTED when
    // abort becomes true.
    virtual const float *compute(const TokenBatch &batch, const std::atomic<bool> &abort) = 0;

    // What it and its model hold.
    virtual gge_memory memory() const = 0;

    // How many batches so far ran on the graph of the batch before them.
    virtual int64_t n_graphs_reused() const = 0;
};

// Tells what a model, a session and one of each tower would hold.
using Measure = std::function<gge_memory(const SessionOptions &)>;

// Tokens of the largest session that can be measured.
constexpr int64_t most_measured = 1 << 22;

// Weights and vocabulary; immutable, for any number of threads.
class BackendModel {
public:
    virtual ~BackendModel() = default;
    virtual const ModelFacts &facts() const noexcept = 0;

    // Appends the token ids of text (valid UTF-8, at most INT32_MAX bytes). add_special puts the vocabulary's own BOS,
    // EOS, CLS and SEP around them.
    virtual void tokenize(std::string_view text, bool add_special, bool parse_special,
                          std::vector<int32_t> &ids) const = 0;

    // The special tokens that tokenize with parse_special finds in a text, in the order in which it looks for them.
    virtual std::vector<std::pair<std::string, int32_t>> special_tokens() const = 0;

    // Where texts can be cut that are tokenised without special tokens around them; NULL if nothing is known.
    virtual const Seams *seams(bool parse_special) const = 0;

    // The rows that the model itself computes with for ids, without adapters: [n, n_embd]. Only for models that can
    // take rows.
    virtual void token_rows(const int32_t *ids, size_t n, float *rows) const = 0;

    // The encoders that were loaded with the model, vision first.
    virtual const std::vector<std::unique_ptr<BackendTower>> &towers() const noexcept = 0;

    virtual std::unique_ptr<BackendSession> open(const SessionOptions &options) const = 0;

    // Lends use what measures sessions, next to towers for passes of n_tower_batch rows.
    virtual void survey(int64_t n_tower_batch, const std::function<void(const Measure &)> &use) const = 0;
};

// llama.cpp's devices by name: the GPUs first, the CPU last.
std::vector<Device> llama_devices();

// Fills in memory and compute capability, for which the device's driver takes some memory of it.
void ask_driver(Device &device);

// devices: of llama_devices(), the CPU alone or GPUs.
std::unique_ptr<BackendModel> load_llama_model(const std::string &path, const std::vector<Device> &devices,
                                               const LoadOptions &options);

// The same as BackendModel::survey for a file, without loading its weights. The facts are those that the size of
// sessions depends on: architecture, pooling, attention, has_cache, has_state, n_ctx_train, n_cls_out.
void survey_llama_model(const std::string &path, const std::vector<Device> &devices, const LoadOptions &options,
                        int64_t n_tower_batch, const std::function<void(const ModelFacts &, const Measure &)> &use);

// Name of a level of quantisation, i from 0; nullptr when i is out of range.
const char *llama_quantize_level(int32_t i) noexcept;

// Writes a quantised copy of a GGUF file.
void quantize_llama_file(const std::string &source, const std::string &target, const QuantizeOptions &options);

} // namespace gge
