// What encoders of media are made of: weights of projector files, and graphs over ggml that turn media into rows of the
// text model. Private to the backend_llama*.cpp files.
#pragma once

#include "backend_llama.h"

#include <ggml-backend.h>

namespace gge {

struct FreeGgml {
    void operator()(ggml_context *p) const noexcept { ggml_free(p); }
};
using GgmlPtr = std::unique_ptr<ggml_context, FreeGgml>;

// ---------------------------------------------------------------- backend_llama_tower_file.cpp

// The bytes of a file, mapped so that processes share them.
class FileMapping {
public:
    // Returns NULL where files cannot be mapped.
    static std::shared_ptr<const FileMapping> open(const std::string &path);
    ~FileMapping();
    FileMapping(const FileMapping &) = delete;
    FileMapping &operator=(const FileMapping &) = delete;

    char *begin() const { return begin_; }
    size_t size() const { return size_; }

private:
    FileMapping(char *begin, size_t size) : begin_(begin), size_(size) {}

    char *begin_;
    size_t size_;
};

// A projector file. What is asked for is checked; errors name the file and the key or tensor.
class TowerFile {
public:
    explicit TowerFile(const std::string &path);

    const std::string &path() const { return path_; }
    int64_t bytes() const { return bytes_; }
    const gguf_context *gguf() const { return gguf_.get(); }
    [[noreturn]] void fail(gge_status status, const std::string &what) const;

    bool has_key(const std::string &key) const;
    bool has_tensor(const std::string &name) const;
    std::string text(const std::string &key) const; // "" without the key
    bool flag(const std::string &key, bool otherwise) const;
    bool any_flag(const std::string &key) const; // of an array
    int64_t integer(const std::string &key, int64_t least, int64_t most) const;
    int64_t integer(const std::string &key, int64_t least, int64_t most, int64_t otherwise) const;
    float real(const std::string &key, float least, float most) const;
    std::array<float, 3> color(const std::string &key, float least) const; // one value for each channel

    // Dimensions of a tensor, its bytes, and where they stand in the file.
    std::vector<int64_t> shape(const std::string &name) const; // without ones at the end, but at least one
    size_t tensor_bytes(int64_t tensor) const;
    size_t tensor_offset(int64_t tensor) const;
    std::vector<char> read(int64_t tensor) const;
    int64_t find(const std::string &name) const; // throws Error if it is missing

private:
    int64_t find_key(const std::string &key) const;
    int64_t integer_at(int64_t key, const std::string &name) const;

    std::string path_;
    GgufPtr gguf_;
    int64_t bytes_ = 0;
};

// The weights of one tower: first named and checked, then, if at all, given memory.
class TowerWeights {
public:
    explicit TowerWeights(std::shared_ptr<const TowerFile> file);

    const TowerFile &file() const { return *file_; }

    // A matrix to multiply with, in the type of the file.
    ggml_tensor *matrix(const std::string &name, int64_t n_in, int64_t n_out);
    // Values in F32, whatever the file has.
    ggml_tensor *plain(const std::string &name, const std::vector<int64_t> &shape);
    // A matrix in F32, computed from tensors of the file.
    using Make = std::function<std::vector<float>(const std::vector<std::vector<float>> &)>;
    ggml_tensor *made(const std::vector<std::string> &names, const std::vector<int64_t> &shape, int64_t n_in,
                      int64_t n_out, Make make);

    void load(ggml_backend_dev_t device, const LoadOptions &options);
    // Instead: as if they had memory on the device.
    void pretend(ggml_backend_dev_t device, const LoadOptions &options);

    int64_t n_params() const { return n_params_; }
    int64_t file_bytes() const { return file_bytes_; } // of the tensors, as the file has them
    int64_t memory() const { return memory_; }         // once loaded

private:
    struct Stored {
        ggml_tensor *tensor;
        int64_t i; // in the file
        bool is_matrix;
    };
    struct Made {
        ggml_tensor *tensor;
        std::vector<int64_t> sources;
        Make make; // none: the values of the one source
    };
    struct FreeBuffer {
        void operator()(ggml_backend_buffer *p) const noexcept { ggml_backend_buffer_free(p); }
    };
    using BufferPtr = std::unique_ptr<ggml_backend_buffer, FreeBuffer>;

    int64_t use(const std::string &name, const std::vector<int64_t> &shape);
    BufferPtr allocate(ggml_context *tensors, ggml_backend_dev_t device);
    void set(const Stored &stored) const;
    std::vector<Stored> to_pack(ggml_backend_dev_t device, const LoadOptions &options) const;
    static size_t packed_bytes(const std::vector<Stored> &chosen);
    void pack(const std::vector<Stored> &chosen, const LoadOptions &options);
    bool map();
    int64_t mapped_bytes() const;
    std::vector<float> values(int64_t i) const;

    std::shared_ptr<const TowerFile> file_;
    GgmlPtr stored_context_;
    GgmlPtr made_context_;
    std::vector<Stored> stored_;
    std::vector<Made> made_;
    int64_t n_params_ = 0;
    int64_t file_bytes_ = 0;
    int64_t memory_ = 0;
    std::shared_ptr<const FileMapping> mapping_; // outlives its buffer
    BufferPtr packed_buffer_;
    BufferPtr stored_buffer_;
    BufferPtr made_buffer_;
};

// ---------------------------------------------------------------- backend_llama_towers.cpp

struct Linear {
    ggml_tensor *weight = nullptr;
    ggml_tensor *bias = nullptr; // may be NULL
};

struct Norm {
    ggml_tensor *weight = nullptr;
    ggml_tensor *bias = nullptr; // NULL: an RMS norm
};

struct Layer {
    Norm norm1;
    Linear qkv; // or, without it, the three
    Linear q;
    Linear k;
    Linear v;
    Linear out;
    Norm norm2;
    Linear gate; // none: up and an activation
    Linear up;
    Linear down;
};

struct Transformer {
    int64_t n_embd = 0;
    int64_t n_head = 0;
    int64_t n_ff = 0;
    float eps = 0.0F;
    std::vector<Layer> layers;
};

// The width of a norm is that of the transformer.
enum class NormKind { layer, rms };

// Reads "clip.<kind>." keys and "<prefix>.blk.N." tensors.
Transformer read_transformer(TowerWeights &weights, const std::string &kind, const std::string &prefix, NormKind norm,
                             bool gated, bool k_has_bias);
Linear read_linear(TowerWeights &weights, const std::string &name, int64_t n_in, int64_t n_out, bool has_bias = true);
Norm read_norm(TowerWeights &weights, const std::string &name, int64_t n, NormKind kind);

// Width of the rows that a matrix makes; an error unless it is that of the text model.
int64_t check_width(const TowerFile &file, const std::string &matrix, int64_t n_embd);

// Groups of rows that attend to each other, all of one length, one after the other.
struct Run {
    int64_t begin;
    int64_t length;
    int64_t count;
};

// Appends a group that follows the last one.
void add_group(std::vector<Run> &runs, int64_t length);

// The graph of one pass, and what goes into it.
class TowerGraph {
public:
    // on_cpu: all of it runs there, and attention is our own
    explicit TowerGraph(bool on_cpu) : on_cpu_(on_cpu) {}

    // Makes room for that many layers, whose attention runs over n_runs runs.
    void start(size_t n_layers, size_t n_runs);

    ggml_context *context() const { return context_.get(); }
    ggml_tensor *input(std::vector<float> values, int64_t n0, int64_t n1);
    ggml_tensor *input(std::vector<int32_t> values);

    ggml_tensor *linear(const Linear &linear, ggml_tensor *x) const;
    ggml_tensor *norm(const Norm &norm, float eps, ggml_tensor *x) const;
    ggml_tensor *gelu_tanh(ggml_tensor *x) const;
    ggml_tensor *gelu_erf(ggml_tensor *x) const;

    using Rope = std::function<ggml_tensor *(ggml_tensor *)>; // of [head size, n_head, n]
    using Activation = ggml_tensor *(TowerGraph::*)(ggml_tensor *) const;
    ggml_tensor *layer(const Transformer &t, const Layer &layer, const std::vector<Run> &runs, const Rope &rope,
                       Activation activation, ggml_tensor *x);

    void finish(ggml_tensor *rows);

    ggml_cgraph *graph() const { return graph_; }
    size_t size() const { return size_; } // of the graph, at most
    ggml_tensor *rows() const { return rows_; }
    void fill_inputs() const;
    int64_t input_bytes() const;

private:
    struct Input {
        ggml_tensor *tensor;
        std::vector<float> reals;
        std::vector<int32_t> integers;
    };

    using Heads = std::array<ggml_tensor *, 3>; // queries, keys and values: [head size, n_head, n]
    ggml_tensor *attention(const Transformer &t, const Layer &layer, const std::vector<Run> &runs, const Rope &rope,
                           ggml_tensor *x);
    ggml_tensor *attend_on_cpu(const Heads &heads, const std::vector<Run> &runs);
    ggml_tensor *attend_by_runs(const Heads &heads, const std::vector<Run> &runs) const;
    ggml_tensor *ranges_of(const std::vector<Run> &runs);
    ggml_tensor *join(std::vector<ggml_tensor *> parts) const;

    bool on_cpu_;
    llama_packed_attention attention_{}; // read while the graph runs
    std::map<const std::vector<Run> *, ggml_tensor *> ranges_;
    GgmlPtr context_;
    ggml_cgraph *graph_ = nullptr;
    size_t size_ = 0;
    std::vector<Input> inputs_;
    ggml_tensor *rows_ = nullptr;
};

// What kinds of towers differ in: their weights, and how media become rows of the transformer and these rows of the
// text model.
class Encoder {
public:
    Encoder(std::shared_ptr<const TowerFile> file, gge_modality modality, const std::string &projector);
    virtual ~Encoder() = default;
    Encoder(const Encoder &) = delete;
    Encoder &operator=(const Encoder &) = delete;

    const TowerFacts &facts() const { return facts_; }
    const TowerWeights &weights() const { return weights_; }
    TowerWeights &weights() { return weights_; }

    // Throws Error unless an input has a shape that the tower takes.
    virtual void check(const TowerInput &input) const = 0;

    // A medium of about n_rows rows, at least the smallest there is; values are for the caller to give.
    virtual TowerInput example(int64_t n_rows) const = 0;
    virtual int64_t n_values(const TowerInput &input) const = 0;

    // Returns for each row of the result, the inputs' rows one after the other, which row of graph.rows() it is.
    virtual std::vector<int64_t> build(TowerGraph &graph, const std::vector<TowerInput> &inputs) const = 0;

protected:
    TowerFacts facts_;
    TowerWeights weights_;
};

// ---------------------------------------------------------------- backend_llama_vision.cpp, backend_llama_audio.cpp

std::unique_ptr<Encoder> make_qwen3vl(std::shared_ptr<const TowerFile> file, const std::string &projector,
                                      int32_t n_embd);
std::unique_ptr<Encoder> make_qwen25vl(std::shared_ptr<const TowerFile> file, const std::string &projector,
                                       int32_t n_embd);
std::unique_ptr<Encoder> make_qwen25o_audio(std::shared_ptr<const TowerFile> file, const std::string &projector,
                                            int32_t n_embd);

} // namespace gge
