// Towers of projector files: the transformer that they share, and the sessions that run them.
#include "backend_llama_towers.h"

#include "backend_llama_encoder.h"

#include <ggml-cpu.h>

#include <cmath>

namespace gge {

// ---------------------------------------------------------------- weights of a transformer

Linear read_linear(TowerWeights &weights, const std::string &name, int64_t n_in, int64_t n_out, bool has_bias) {
    Linear linear;
    linear.weight = weights.matrix(name + ".weight", n_in, n_out);
    linear.bias = has_bias ? weights.plain(name + ".bias", {n_out}) : nullptr;
    return linear;
}

Norm read_norm(TowerWeights &weights, const std::string &name, int64_t n, NormKind kind) {
    Norm norm;
    norm.weight = weights.plain(name + ".weight", {n});
    norm.bias = kind == NormKind::layer ? weights.plain(name + ".bias", {n}) : nullptr;
    return norm;
}

Transformer read_transformer(TowerWeights &weights, const std::string &kind, const std::string &prefix, NormKind norm,
                             bool gated, bool k_has_bias) {
    const TowerFile &file = weights.file();
    const std::string keys = "clip." + kind + ".";
    constexpr int64_t most = 1 << 16;
    Transformer t;
    t.n_embd = file.integer(keys + "embedding_length", 1, most);
    t.n_head = file.integer(keys + "attention.head_count", 1, most);
    t.n_ff = file.integer(keys + "feed_forward_length", 1, most);
    t.eps = file.real(keys + "attention.layer_norm_epsilon", 1e-12F, 0.1F);
    const int64_t n_layer = file.integer(keys + "block_count", 1, 1024);
    if (t.n_embd % t.n_head != 0) {
        file.fail(GGE_E_FORMAT, keys + "embedding_length is " + std::to_string(t.n_embd) + ", " +
                                    std::to_string(t.n_head) + " heads cannot share that");
    }
    for (int64_t i = 0; i < n_layer; ++i) {
        const std::string at = prefix + ".blk." + std::to_string(i) + ".";
        Layer layer;
        layer.norm1 = read_norm(weights, at + "ln1", t.n_embd, norm);
        if (file.has_tensor(at + "attn_qkv.weight")) {
            layer.qkv = read_linear(weights, at + "attn_qkv", t.n_embd, 3 * t.n_embd);
        } else {
            layer.q = read_linear(weights, at + "attn_q", t.n_embd, t.n_embd);
            layer.k = read_linear(weights, at + "attn_k", t.n_embd, t.n_embd, k_has_bias);
            layer.v = read_linear(weights, at + "attn_v", t.n_embd, t.n_embd);
        }
        layer.out = read_linear(weights, at + "attn_out", t.n_embd, t.n_embd);
        layer.norm2 = read_norm(weights, at + "ln2", t.n_embd, norm);
        if (gated) {
            layer.gate = read_linear(weights, at + "ffn_gate", t.n_embd, t.n_ff);
        }
        layer.up = read_linear(weights, at + "ffn_up", t.n_embd, t.n_ff);
        layer.down = read_linear(weights, at + "ffn_down", t.n_ff, t.n_embd);
        t.layers.push_back(layer);
    }
    return t;
}

int64_t check_width(const TowerFile &file, const std::string &matrix, int64_t n_embd) {
    const std::vector<int64_t> shape = file.shape(matrix);
    const int64_t width = shape.size() > 1 ? shape[1] : 1;
    if (width != n_embd) {
        file.fail(GGE_E_FORMAT, "its tower makes rows of " + std::to_string(width) + " values, the model has " +
                                    std::to_string(n_embd));
    }
    return width;
}

void add_group(std::vector<Run> &runs, int64_t length) {
    if (!runs.empty() && runs.back().length == length) {
        ++runs.back().count;
    } else {
        const int64_t begin = runs.empty() ? 0 : runs.back().begin + runs.back().length * runs.back().count;
        runs.push_back({begin, length, 1});
    }
}

// ---------------------------------------------------------------- graph

void TowerGraph::start(size_t n_layers, size_t n_runs) {
    constexpr size_t around = 128; // nodes before and after the layers
    size_ = around + n_layers * (48 + 12 * n_runs);
    ggml_init_params params{};
    params.mem_size = 2 * size_ * ggml_tensor_overhead() + ggml_graph_overhead_custom(size_, false);
    params.no_alloc = true;
    context_.reset(ggml_init(params));
    if (!context_) {
        throw std::bad_alloc();
    }
    graph_ = ggml_new_graph_custom(context(), size_, false);
}

ggml_tensor *TowerGraph::input(std::vector<float> values, int64_t n0, int64_t n1) {
    ggml_tensor *tensor = ggml_new_tensor_2d(context(), GGML_TYPE_F32, n0, n1);
    ggml_set_input(tensor);
    inputs_.push_back({tensor, std::move(values), {}});
    return tensor;
}

ggml_tensor *TowerGraph::input(std::vector<int32_t> values) {
    ggml_tensor *tensor = ggml_new_tensor_1d(context(), GGML_TYPE_I32, static_cast<int64_t>(values.size()));
    ggml_set_input(tensor);
    inputs_.push_back({tensor, {}, std::move(values)});
    return tensor;
}

void TowerGraph::fill_inputs() const {
    for (const Input &input : inputs_) {
        const void *data = input.reals.empty() ? static_cast<const void *>(input.integers.data()) : input.reals.data();
        ggml_backend_tensor_set(input.tensor, data, 0, ggml_nbytes(input.tensor));
    }
}

int64_t TowerGraph::input_bytes() const {
    int64_t n = 0;
    for (const Input &input : inputs_) {
        n += static_cast<int64_t>(ggml_nbytes(input.tensor));
    }
    return n;
}

void TowerGraph::finish(ggml_tensor *rows) {
    rows_ = rows;
    ggml_set_output(rows);
    ggml_build_forward_expand(graph_, rows);
}

ggml_tensor *TowerGraph::linear(const Linear &linear, ggml_tensor *x) const {
    x = ggml_mul_mat(context(), linear.weight, x);
    return linear.bias == nullptr ? x : ggml_add(context(), x, linear.bias);
}

ggml_tensor *TowerGraph::norm(const Norm &norm, float eps, ggml_tensor *x) const {
    if (norm.bias == nullptr) {
        return ggml_mul(context(), ggml_rms_norm(context(), x, eps), norm.weight);
    }
    return ggml_add(context(), ggml_mul(context(), ggml_norm(context(), x, eps), norm.weight), norm.bias);
}

// ggml_gelu looks values up for x rounded to F16, on the CPU. With c = 2 sqrt(2 / pi) and w = c (1 + 0.044715 x^2) the
// function is x sigmoid(x w) = silu(x w) / w.
ggml_tensor *TowerGraph::gelu_tanh(ggml_tensor *x) const {
    constexpr float c = 1.5957691216057308F;
    ggml_tensor *w = ggml_scale_bias(context(), ggml_sqr(context(), x), c * 0.044715F, c);
    return ggml_div(context(), ggml_silu(context(), ggml_mul(context(), x, w)), w);
}

ggml_tensor *TowerGraph::gelu_erf(ggml_tensor *x) const {
    return ggml_gelu_erf(context(), x);
}

// Rows one after the other, copied only as often as there are levels of pairs.
ggml_tensor *TowerGraph::join(std::vector<ggml_tensor *> parts) const {
    while (parts.size() > 1) {
        std::vector<ggml_tensor *> pairs;
        pairs.reserve(parts.size() / 2 + 1);
        for (size_t i = 0; i < parts.size(); i += 2) {
            const bool is_pair = i + 1 < parts.size();
            pairs.push_back(is_pair ? ggml_concat(context(), parts[i], parts[i + 1], 1) : parts[i]);
        }
        parts = std::move(pairs);
    }
    return parts[0];
}

// Which rows each row sees, as an input of attend_packed.
ggml_tensor *TowerGraph::ranges_of(const std::vector<Run> &runs) {
    ggml_tensor *&tensor = ranges_[&runs];
    if (tensor == nullptr) {
        std::vector<int32_t> ranges;
        std::vector<int32_t> starts;
        for (const Run &run : runs) {
            for (int64_t i = 0; i < run.count * run.length; ++i) {
                const int64_t begin = run.begin + i / run.length * run.length;
                starts.push_back(static_cast<int32_t>(begin));
                ranges.push_back(static_cast<int32_t>(begin));
                ranges.push_back(static_cast<int32_t>(begin + run.length));
            }
        }
        ranges.insert(ranges.end(), starts.begin(), starts.end());
        tensor = input(std::move(ranges));
    }
    return tensor;
}

ggml_tensor *TowerGraph::attend_on_cpu(const Heads &heads, const std::vector<Run> &runs) {
    const auto &[q, k, v] = heads;
    attention_.scale = 1.0F / std::sqrt(static_cast<float>(q->ne[0]));
    std::array<ggml_tensor *, 4> sources = {q, k, v, ranges_of(runs)};
    ggml_tensor *y = ggml_custom_4d(context(), GGML_TYPE_F32, q->ne[0], q->ne[1], q->ne[2], 1, sources.data(),
                                    static_cast<int>(sources.size()), attend_packed, GGML_N_TASKS_MAX, &attention_);
    return ggml_reshape_2d(context(), y, q->ne[0] * q->ne[1], q->ne[2]);
}

ggml_tensor *TowerGraph::attend_by_runs(const Heads &heads, const std::vector<Run> &runs) const {
    const int64_t d = heads[0]->ne[0];
    const int64_t n_head = heads[0]->ne[1];
    std::vector<ggml_tensor *> parts;
    for (const Run &run : runs) {
        Heads part{};
        for (size_t i = 0; i < part.size(); ++i) {
            ggml_tensor *all = heads[i];
            part[i] =
                ggml_view_4d(context(), all, d, n_head, run.length, run.count, all->nb[1], all->nb[2],
                             static_cast<size_t>(run.length) * all->nb[2], static_cast<size_t>(run.begin) * all->nb[2]);
            part[i] = ggml_permute(context(), part[i], 0, 2, 1, 3);
        }
        ggml_tensor *y = ggml_flash_attn_ext(context(), part[0], part[1], part[2], nullptr,
                                             1.0F / std::sqrt(static_cast<float>(d)), 0.0F, 0.0F);
        ggml_prec_set_acc(y, GGML_PREC_F32);
        parts.push_back(ggml_reshape_2d(context(), y, d * n_head, run.length * run.count));
    }
    return join(std::move(parts));
}

ggml_tensor *TowerGraph::attention(const Transformer &t, const Layer &layer, const std::vector<Run> &runs,
                                   const Rope &rope, ggml_tensor *x) {
    const int64_t n = x->ne[1];
    const int64_t d = t.n_embd / t.n_head;
    const size_t width = static_cast<size_t>(t.n_embd) * sizeof(float);
    Heads qkv{};
    ggml_tensor *joint = layer.qkv.weight == nullptr ? nullptr : linear(layer.qkv, x);
    for (size_t i = 0; i < qkv.size(); ++i) {
        if (joint != nullptr) {
            qkv[i] = ggml_view_3d(context(), joint, d, t.n_head, n, static_cast<size_t>(d) * sizeof(float),
                                  joint->nb[1], i * width);
        } else {
            const Linear &own = i == 0 ? layer.q : i == 1 ? layer.k : layer.v;
            qkv[i] = ggml_reshape_3d(context(), linear(own, x), d, t.n_head, n);
        }
    }
    if (rope) {
        qkv[0] = rope(qkv[0]);
        qkv[1] = rope(qkv[1]);
    }
    return linear(layer.out, on_cpu_ ? attend_on_cpu(qkv, runs) : attend_by_runs(qkv, runs));
}

ggml_tensor *TowerGraph::layer(const Transformer &t, const Layer &layer, const std::vector<Run> &runs, const Rope &rope,
                               Activation activation, ggml_tensor *x) {
    x = ggml_add(context(), x, attention(t, layer, runs, rope, norm(layer.norm1, t.eps, x)));
    ggml_tensor *y = norm(layer.norm2, t.eps, x);
    if (layer.gate.weight != nullptr) {
        y = ggml_swiglu_split(context(), linear(layer.gate, y), linear(layer.up, y));
    } else {
        y = (this->*activation)(linear(layer.up, y));
    }
    return ggml_add(context(), x, linear(layer.down, y));
}

// ---------------------------------------------------------------- running

Encoder::Encoder(std::shared_ptr<const TowerFile> file, gge_modality modality, const std::string &projector)
    : weights_(std::move(file)) {
    facts_.modality = modality;
    facts_.path = weights_.file().path();
    facts_.projector = projector;
    facts_.name = weights_.file().text("general.name");
}

namespace {

struct FreeBackend {
    void operator()(ggml_backend *p) const noexcept { ggml_backend_free(p); }
};
struct FreeScheduler {
    void operator()(ggml_backend_sched *p) const noexcept { ggml_backend_sched_free(p); }
};

// Where graphs run: the device, if it is not the CPU, and the CPU for what the device lacks.
class Runner {
public:
    explicit Runner(ggml_backend_dev_t device, bool cuda_graphs = false) {
        if (device != nullptr) {
            device_.reset(ggml_backend_dev_init(device, nullptr));
            if (!device_) {
                throw Error(GGE_E_DEVICE,
                            std::string("the device ") + ggml_backend_dev_name(device) + " cannot be used for media");
            }
            switch_cuda_graphs(device_.get(), cuda_graphs);
        }
        cpu_.reset(ggml_backend_cpu_init());
        if (!cpu_) {
            throw std::bad_alloc();
        }
    }

    ggml_backend_t cpu() const { return cpu_.get(); }

    // Makes room for graphs of up to so many nodes.
    ggml_backend_sched_t scheduler(size_t n_nodes) {
        if (n_nodes > n_nodes_) {
            std::vector<ggml_backend_t> backends;
            if (device_) {
                backends.push_back(device_.get());
            }
            backends.push_back(cpu_.get());
            scheduler_.reset(); // and with it its buffers
            n_nodes_ = std::max(n_nodes, 2 * n_nodes_);
            scheduler_.reset(ggml_backend_sched_new(backends.data(), nullptr, static_cast<int>(backends.size()),
                                                    n_nodes_, false, true));
        }
        return scheduler_.get();
    }

    // Bytes of the buffers.
    void add_memory(gge_memory &memory) const {
        if (scheduler_) {
            memory.compute_host +=
                static_cast<int64_t>(ggml_backend_sched_get_buffer_size(scheduler_.get(), cpu_.get()));
            if (device_) {
                memory.compute_device +=
                    static_cast<int64_t>(ggml_backend_sched_get_buffer_size(scheduler_.get(), device_.get()));
            }
        }
    }

    // Bytes that the buffers would have.
    void add_estimate(const TowerGraph &graph, gge_memory &memory) {
        std::array<size_t, 2> sizes{};
        ggml_backend_sched_reserve_size(scheduler(graph.size()), graph.graph(), sizes.data());
        memory.compute_host += static_cast<int64_t>(sizes[device_ ? 1 : 0]);
        memory.compute_device += device_ ? static_cast<int64_t>(sizes[0]) : 0;
    }

    // An assertion in the middle of a graph leaves threads that wait for ever.
    void abandon() {
        static_cast<void>(scheduler_.release());
        static_cast<void>(cpu_.release());
        static_cast<void>(device_.release());
    }

private:
    std::unique_ptr<ggml_backend, FreeBackend> device_;
    std::unique_ptr<ggml_backend, FreeBackend> cpu_;
    std::unique_ptr<ggml_backend_sched, FreeScheduler> scheduler_;
    size_t n_nodes_ = 0;
};

void add_weights(const Encoder &encoder, ggml_backend_dev_t device, gge_memory &memory) {
    (device == nullptr ? memory.weights_host : memory.weights_device) += encoder.weights().memory();
}

class Session final : public TowerSession {
public:
    // Under a Shield.
    Session(const Encoder &encoder, ggml_backend_dev_t device, int32_t n_threads, bool cuda_graphs)
        : encoder_(encoder), device_(device), runner_(device, cuda_graphs) {
        ggml_backend_cpu_set_n_threads(runner_.cpu(), n_threads);
        threadpool_ = make_threadpool(n_threads);
        if (threadpool_) {
            ggml_backend_cpu_set_threadpool(runner_.cpu(), threadpool_.get());
        }
        ggml_backend_cpu_set_abort_callback(
            runner_.cpu(),
            [](void *self) {
                const auto *abort = static_cast<const Session *>(self)->abort_;
                return abort != nullptr && abort->load(std::memory_order_relaxed);
            },
            this);
    }

    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    const float *compute(const std::vector<TowerInput> &inputs, const std::atomic<bool> &abort) override {
        int64_t n_rows = 0;
        for (const TowerInput &input : inputs) {
            encoder_.check(input);
            n_rows += input.n_rows;
        }
        if (n_rows == 0) {
            throw Error(GGE_E_INTERNAL, "a tower was given nothing");
        }
        if (abort) {
            throw Error(GGE_E_ABORTED, "aborted");
        }
        abort_ = &abort;
        const Shield shield;
        auto graph = std::make_unique<TowerGraph>(device_ == nullptr);
        try {
            run(inputs, *graph);
        } catch (const UpstreamAbort &e) {
            runner_.abandon();
            static_cast<void>(graph.release()); // some threads may still be in the middle of it
            static_cast<void>(threadpool_.release());
            abort_ = nullptr;
            throw Error(GGE_E_INTERNAL, e.what());
        } catch (...) {
            abort_ = nullptr;
            throw;
        }
        abort_ = nullptr;
        return rows_.data();
    }

    gge_memory memory() const override {
        gge_memory memory{};
        add_weights(encoder_, device_, memory);
        runner_.add_memory(memory);
        memory.compute_host += input_bytes_;
        memory.output_host = static_cast<int64_t>(rows_.capacity() * sizeof(float));
        return memory;
    }

private:
    void run(const std::vector<TowerInput> &inputs, TowerGraph &graph) {
        const std::vector<int64_t> order = encoder_.build(graph, inputs);
        ggml_backend_sched_t scheduler = runner_.scheduler(graph.size());
        ggml_backend_sched_reset(scheduler);
        if (!ggml_backend_sched_alloc_graph(scheduler, graph.graph())) {
            throw Error(GGE_E_MEMORY, "no memory for " + std::to_string(order.size()) + " rows of media");
        }
        graph.fill_inputs();
        input_bytes_ = std::max(input_bytes_, graph.input_bytes());
        const ggml_status status = ggml_backend_sched_graph_compute(scheduler, graph.graph());
        if (status != GGML_STATUS_SUCCESS) {
            throw status == GGML_STATUS_ABORTED ? Error(GGE_E_ABORTED, "aborted")
            : status == GGML_STATUS_ALLOC_FAILED
                ? Error(GGE_E_MEMORY, "no memory for " + std::to_string(order.size()) + " rows of media")
                : Error(GGE_E_INTERNAL, std::string("ggml failed: ") + ggml_status_to_string(status));
        }
        const auto n = static_cast<size_t>(encoder_.facts().n_embd);
        rows_.resize(order.size() * n);
        for (size_t i = 0; i < order.size();) { // stretches of rows that stay together
            size_t end = i + 1;
            while (end < order.size() && order[end] == order[end - 1] + 1) {
                ++end;
            }
            ggml_backend_tensor_get(graph.rows(), rows_.data() + i * n,
                                    static_cast<size_t>(order[i]) * n * sizeof(float), (end - i) * n * sizeof(float));
            i = end;
        }
    }

    const Encoder &encoder_;
    ggml_backend_dev_t device_;
    const std::atomic<bool> *abort_ = nullptr; // set while computing
    ThreadpoolPtr threadpool_;                 // outlives the backends
    Runner runner_;
    int64_t input_bytes_ = 0; // most of a pass so far
    std::vector<float> rows_;
};

class Tower final : public BackendTower {
public:
    Tower(std::unique_ptr<Encoder> encoder, ggml_backend_dev_t device)
        : encoder_(std::move(encoder)), device_(device) {}

    const TowerFacts &facts() const noexcept override { return encoder_->facts(); }

    std::unique_ptr<TowerSession> open(int32_t n_threads, bool cuda_graphs) const override {
        const Shield shield;
        return std::make_unique<Session>(*encoder_, device_, n_threads, cuda_graphs);
    }

    // A first pass, on this thread alone.
    void try_out() const {
        TowerInput input = encoder_->example(1);
        const std::vector<float> values(static_cast<size_t>(encoder_->n_values(input)));
        input.values = values.data();
        const std::atomic<bool> never{false};
        try {
            Session(*encoder_, device_, 1, false).compute({input}, never);
        } catch (const Error &e) {
            throw Error(e.status() == GGE_E_INTERNAL ? GGE_E_FORMAT : e.status(),
                        facts().path + ": the tower fails its first pass: " + e.what());
        }
    }

private:
    std::unique_ptr<Encoder> encoder_;
    ggml_backend_dev_t device_;
};

// ---------------------------------------------------------------- loading

struct Projector {
    const char *name;
    gge_modality modality;
    std::unique_ptr<Encoder> (*make)(std::shared_ptr<const TowerFile>, const std::string &, int32_t);
};

constexpr std::array<Projector, 4> projectors = {{
    {"qwen3vl_merger", GGE_MODALITY_VISION, make_qwen3vl},
    {"qwen2.5vl_merger", GGE_MODALITY_VISION, make_qwen25vl},
    {"qwen2.5o", GGE_MODALITY_VISION, make_qwen25vl},
    {"qwen2.5o", GGE_MODALITY_AUDIO, make_qwen25o_audio},
}};

const char *name_of(gge_modality modality) {
    return modality == GGE_MODALITY_VISION ? "vision" : "audio";
}

std::unique_ptr<Encoder> make_encoder(const std::shared_ptr<const TowerFile> &file, gge_modality modality,
                                      int32_t n_embd) {
    const std::string kind = name_of(modality);
    std::string name = file->text("clip.projector_type");
    if (name.empty()) {
        name = file->text("clip." + kind + ".projector_type");
    }
    std::string known;
    for (const Projector &projector : projectors) {
        if (projector.modality == modality) {
            if (name == projector.name) {
                return projector.make(file, name, n_embd);
            }
            known += (known.empty() ? "\"" : ", \"") + std::string(projector.name) + "\"";
        }
    }
    if (name.empty()) {
        file->fail(GGE_E_FORMAT, "it lacks the key clip.projector_type, or clip." + kind + ".projector_type");
    }
    file->fail(GGE_E_UNSUPPORTED, "its " + kind + " projector \"" + name + "\" is not known, known are " + known);
}

// The towers of all files, without memory yet, vision first.
std::vector<std::unique_ptr<Encoder>> read_encoders(const std::vector<std::string> &paths, int32_t n_embd) {
    std::vector<std::unique_ptr<Encoder>> encoders;
    for (const std::string &path : paths) {
        const auto file = std::make_shared<const TowerFile>(path);
        bool has_any = false;
        for (const gge_modality modality : {GGE_MODALITY_VISION, GGE_MODALITY_AUDIO}) {
            if (!file->flag(std::string("clip.has_") + name_of(modality) + "_encoder", false)) {
                continue;
            }
            has_any = true;
            for (const auto &other : encoders) {
                if (other->facts().modality == modality) {
                    file->fail(GGE_E_FORMAT, std::string("it holds a second ") + name_of(modality) +
                                                 " tower, after that of " + other->facts().path);
                }
            }
            encoders.push_back(make_encoder(file, modality, n_embd));
        }
        if (!has_any) {
            file->fail(GGE_E_FORMAT, "it holds no tower: neither clip.has_vision_encoder nor clip.has_audio_encoder");
        }
    }
    std::stable_sort(encoders.begin(), encoders.end(),
                     [](const auto &a, const auto &b) { return a->facts().modality < b->facts().modality; });
    return encoders;
}

} // namespace

std::vector<std::unique_ptr<BackendTower>> load_towers(const LoadOptions &options, const Device &device,
                                                       int32_t n_embd) {
    std::vector<std::unique_ptr<BackendTower>> towers;
    const Shield shield;
    ggml_backend_dev_t handle = device_handle(device);
    for (auto &encoder : read_encoders(options.mmproj, n_embd)) {
        encoder->weights().load(handle, options);
        auto tower = std::make_unique<Tower>(std::move(encoder), handle);
        tower->try_out();
        towers.push_back(std::move(tower));
    }
    return towers;
}

gge_memory estimate_towers(const Device &device, const LoadOptions &options, int32_t n_embd, int64_t n_tower_batch) {
    gge_memory memory{};
    const Shield shield;
    ggml_backend_dev_t handle = device_handle(device);
    for (const auto &encoder : read_encoders(options.mmproj, n_embd)) {
        encoder->weights().pretend(handle, options);
        add_weights(*encoder, handle, memory);
        TowerInput input = encoder->example(n_tower_batch);
        const std::vector<float> values(static_cast<size_t>(encoder->n_values(input)));
        input.values = values.data();
        TowerGraph graph(handle == nullptr);
        encoder->build(graph, {input});
        Runner(handle).add_estimate(graph, memory);
        memory.compute_host += graph.input_bytes();
        memory.output_host += input.n_rows * n_embd * int64_t{sizeof(float)};
    }
    return memory;
}

} // namespace gge
