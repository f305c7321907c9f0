// llama.cpp behind backend.h: devices, models, compute state.
//
// Upstream checks its own assumptions with GGML_ASSERT, which ends the process. Every limit that we know of is checked
// before upstream is called. For the rest, most of all for damaged files, a shield turns an assertion on the calling
// thread into an exception (docs/adr/0003), and a model that loads has to pass a first forward pass on that thread
// before it is handed out, so that a file whose graph cannot be built or run is an error of loading.
#include "backend_llama.h"

#include "backend_llama_matmul.h"
#include "backend_llama_seams.h"
#include "backend_llama_towers.h"
#include "devices.h"
#include "process.h"
#include "unicode.h"
#include "wordpiece.h"

#include "ggml/src/ggml-threading.h"
#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <mutex>
#include <optional>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace gge {
namespace {

// ---------------------------------------------------------------- upstream's process-wide state

thread_local int t_shield_depth = 0;
std::atomic<int> g_shields_for_all{0};

void on_upstream_abort(const char *message) {
    log_line(GGE_LOG_ERROR, message);
    if (t_shield_depth > 0 || g_shields_for_all > 0) {
        throw UpstreamAbort(std::string("llama.cpp: ") + message);
    }
}

void on_upstream_log(ggml_log_level level, const char *text, void *) {
    if (level < GGML_LOG_LEVEL_DEBUG || level > GGML_LOG_LEVEL_ERROR) {
        return; // the rest of a line of dots
    }
    static const std::array<const char *, 5> known = {
        "does not match expectation of", // compute buffers that grew with a shape
        "model default pooling_type is", // every context of ours pools by itself
        "(required for type",            // two lines per tensor when quantising; their sum remains
        "falling back to",
        "possible training context overflow", // sizes are rounded up; inputs are not longer than that
    };
    const bool expected =
        std::any_of(known.begin(), known.end(), [&](const char *s) { return std::strstr(text, s) != nullptr; });
    log_line(expected ? GGE_LOG_DEBUG : static_cast<gge_log_level>(level), text);
}

// The process that upstream was set up in, which starts the drivers of GPUs.
const Owner &upstream_owner() {
    static const Owner owner = this_process();
    return owner;
}

// The compiled kernels use these instructions without asking, so ask before the first one runs.
void check_cpu() {
#if defined(__x86_64__) && defined(__GNUC__)
    struct Feature {
        const char *name;
        bool compiled;
        bool present;
    };
    const std::array<Feature, 8> features = {{
        {"AVX", ggml_cpu_has_avx() != 0, __builtin_cpu_supports("avx") != 0},
        {"AVX2", ggml_cpu_has_avx2() != 0, __builtin_cpu_supports("avx2") != 0},
        {"FMA", ggml_cpu_has_fma() != 0, __builtin_cpu_supports("fma") != 0},
        {"BMI2", ggml_cpu_has_bmi2() != 0, __builtin_cpu_supports("bmi2") != 0},
        {"AVX-512", ggml_cpu_has_avx512() != 0, __builtin_cpu_supports("avx512f") != 0},
        {"AVX-512 VBMI", ggml_cpu_has_avx512_vbmi() != 0, __builtin_cpu_supports("avx512vbmi") != 0},
        {"AVX-512 VNNI", ggml_cpu_has_avx512_vnni() != 0, __builtin_cpu_supports("avx512vnni") != 0},
        {"AVX-512 BF16", ggml_cpu_has_avx512_bf16() != 0, __builtin_cpu_supports("avx512bf16") != 0},
    }};
    for (const Feature &feature : features) {
        if (feature.compiled && !feature.present) {
            throw Error(GGE_E_UNSUPPORTED, std::string("this build of ggembed needs a CPU with ") + feature.name +
                                               "; build it on this machine, or with GGEMBED_CPU=baseline");
        }
    }
#endif
}

} // namespace

Shield::Shield() noexcept {
    ++t_shield_depth;
}

Shield::~Shield() {
    --t_shield_depth;
}

ShieldForAll::ShieldForAll() noexcept {
    ++g_shields_for_all;
}

ShieldForAll::~ShieldForAll() {
    --g_shields_for_all;
}

void init_upstream() {
    static std::once_flag once;
    std::call_once(once, [] {
        check_cpu();
        upstream_owner();
#if !defined(_WIN32)
        // A thread that holds ggml's lock at the moment of a fork is not in the child.
        pthread_atfork(ggml_critical_section_start, ggml_critical_section_end, ggml_critical_section_end);
#endif
        ggml_set_abort_callback(on_upstream_abort);
        llama_log_set(on_upstream_log, nullptr);
        add_cpu_kernels();
        llama_backend_init();
    });
}

Error upstream_error(gge_status fallback, const std::string &what, const ErrorLines &lines) {
    std::string text = lines.text("no reason given");
    const std::string marker = "error loading model: ";
    if (const size_t at = text.find(marker); at != std::string::npos) {
        text = text.substr(at + marker.size());
        text = text.substr(0, text.find("; "));
    }
    const auto says = [&](const char *word) { return text.find(word) != std::string::npos; };
    const bool memory = says("allocate") || says("bad_alloc") || says("out of memory");
    return {memory ? GGE_E_MEMORY : fallback, what + ": " + text};
}

namespace {

// ---------------------------------------------------------------- devices

struct UpstreamDevice {
    Device device;
    ggml_backend_dev_t handle;
};

// Asks for nothing that a driver would have to open a device for.
std::vector<UpstreamDevice> find_devices() {
    init_upstream();
    std::vector<UpstreamDevice> gpus;
    std::vector<UpstreamDevice> cpus;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t handle = ggml_backend_dev_get(i);
        const auto type = ggml_backend_dev_type(handle);
        const std::string reg = ggml_backend_reg_name(ggml_backend_dev_backend_reg(handle));
        Device d;
        std::string prefix;
        if (type == GGML_BACKEND_DEVICE_TYPE_CPU) {
            d.kind = GGE_DEVICE_CPU;
        } else if (type != GGML_BACKEND_DEVICE_TYPE_GPU && type != GGML_BACKEND_DEVICE_TYPE_IGPU) {
            continue; // helpers of the CPU
        } else if (reg == "CUDA") {
            d.kind = GGE_DEVICE_CUDA;
            prefix = "cuda:";
        } else if (reg == "MTL" || reg == "Metal") {
            d.kind = GGE_DEVICE_METAL;
            prefix = "metal:";
        } else {
            d.kind = GGE_DEVICE_OTHER;
            prefix = reg + ":";
        }
        auto &list = prefix.empty() ? cpus : gpus;
        for (const auto &other : list) {
            d.index += other.device.name.compare(0, prefix.size(), prefix) == 0 ? 1 : 0;
        }
        d.name = prefix.empty() ? "cpu" : prefix + std::to_string(d.index);
        d.description = ggml_backend_dev_description(handle);
        list.push_back({std::move(d), handle});
    }
    gpus.insert(gpus.end(), cpus.begin(), cpus.end());
    return gpus;
}

} // namespace

ThreadpoolPtr make_threadpool(int32_t n_threads) {
    if (n_threads <= 1) {
        return {};
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = 1; // milliseconds: the way to the next micro-batch, but not to the next call (upstream's 50: 0.1 s)
    ThreadpoolPtr pool(ggml_threadpool_new(&params));
    if (!pool) {
        throw Error(GGE_E_MEMORY, "cannot start " + std::to_string(n_threads) + " threads");
    }
    return pool;
}

// ---------------------------------------------------------------- session

namespace {

// On other devices few shapes count, so that graphs are used again.
constexpr size_t device_tile = 64;
// Of whole tiles of any size.
constexpr uint32_t room_step = 64;

// Whether micro-batches run without a cache, where the architecture can: it carries inputs that span several.
bool is_packed(const SessionOptions &options) {
    return !options.plain && options.n_ctx <= options.n_ubatch;
}

} // namespace

llama_context_params context_params(const SessionOptions &options, bool on_cpu, bool packs) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx = round_up(static_cast<uint32_t>(std::max(options.n_ctx, options.n_positions)), room_step);
    p.n_batch = round_up(static_cast<uint32_t>(options.n_ubatch), room_step);
    p.n_ubatch = p.n_batch;
    const uint32_t nobody = packs && is_packed(options) ? 1 : 0; // see padded()
    p.n_seq_max = std::min(p.n_batch, static_cast<uint32_t>(options.n_seq_max) + nobody);
    p.n_threads = options.n_threads;
    p.n_threads_batch = options.n_threads;
    p.pooling_type = options.rank ? LLAMA_POOLING_TYPE_RANK : LLAMA_POOLING_TYPE_NONE;
    p.attention_type = options.attention == AttentionChoice::causal          ? LLAMA_ATTENTION_TYPE_CAUSAL
                       : options.attention == AttentionChoice::bidirectional ? LLAMA_ATTENTION_TYPE_NON_CAUSAL
                                                                             : LLAMA_ATTENTION_TYPE_UNSPECIFIED;
    p.flash_attn_type = options.flash_attention == FlashAttention::on    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                        : options.flash_attention == FlashAttention::off ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                                         : LLAMA_FLASH_ATTN_TYPE_AUTO;
    p.embeddings = true;
    p.rows_only = !options.plain;
    p.packed = packs && is_packed(options);
    p.packed_attention =
        on_cpu && !options.streams && options.flash_attention != FlashAttention::off ? attend_packed : nullptr;
    p.no_perf = true;
    p.no_cuda_graphs = !options.cuda_graphs;
    p.kv_unified = true; // otherwise every sequence gets an equal share of the context
    return p;
}

void read_cache(llama_model *model, bool on_cpu, ModelFacts &facts) {
    SessionOptions options;
    options.n_ctx = 8;
    options.n_ubatch = 8;
    options.n_seq_max = 1;
    const auto open = [&](bool plain) {
        options.plain = plain;
        const ErrorLines lines;
        ContextPtr context(llama_init_from_model(model, context_params(options, on_cpu, true)));
        if (!context) {
            throw upstream_error(GGE_E_FORMAT, "the compute state cannot be made", lines);
        }
        return context;
    };
    const ContextPtr plain = open(true);
    facts.has_cache = !llama_model_has_encoder(model) && llama_get_memory(plain.get()) != nullptr;
    facts.attention =
        facts.has_cache && llama_get_causal_attn(plain.get()) ? Attention::causal : Attention::bidirectional;
    facts.packs = !llama_model_has_encoder(model) && llama_get_memory(open(false).get()) == nullptr;
    facts.cacheless = facts.packs && on_cpu;
}

namespace {

bool has_mrope(const llama_model *model) {
    const llama_rope_type type = llama_model_rope_type(model);
    return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE;
}

// Notes the tensors of adapters that a graph computes with: {name of the changed tensor}.
bool note_adapter_tensors(ggml_tensor *node, bool, void *used) {
    for (const ggml_tensor *source : node->src) {
        const std::string_view name = source == nullptr ? "" : source->name;
        if (const size_t at = name.rfind(".lora_"); at != std::string_view::npos) {
            static_cast<std::set<std::string> *>(used)->emplace(name.substr(0, at));
        }
    }
    return false; // its values are of no interest
}

template <typename T> size_t n_wanted(const std::vector<T> &wanted) {
    return static_cast<size_t>(std::count(wanted.begin(), wanted.end(), 1));
}

class LlamaSession final : public BackendSession {
public:
    // tile: of how many tokens packed micro-batches and their wanted rows are a multiple, 0 = the model does not pack;
    // used: where to note the tensors that adapters change, or NULL
    LlamaSession(llama_model *model, const std::vector<Adapter> &adapters, const SessionOptions &options, bool on_cpu,
                 size_t tile, std::set<std::string> *used = nullptr)
        : uses_encode_(llama_model_has_encoder(model)), tile_(is_packed(options) && !options.rank ? tile : 0),
          n_embd_(static_cast<size_t>(llama_model_n_embd_out(model))), adapters_(adapters),
          n_scores_(options.rank ? llama_model_n_cls_out(model) : 0), has_mrope_(has_mrope(model)) {
        llama_context_params p = context_params(options, on_cpu, tile > 0);
        p.abort_callback = [](void *self) {
            const auto *abort = static_cast<const LlamaSession *>(self)->abort_;
            return abort != nullptr && abort->load(std::memory_order_relaxed);
        };
        p.abort_callback_data = this;
        p.cb_eval = used == nullptr ? nullptr : note_adapter_tensors;
        p.cb_eval_user_data = used;

        const ErrorLines lines;
        const Shield shield;
        context_.reset(llama_init_from_model(model, p));
        if (!context_) {
            throw upstream_error(GGE_E_FORMAT, "the compute state cannot be made", lines);
        }
        n_ubatch_ = llama_n_ubatch(context_.get());
        threadpool_ = make_threadpool(options.n_threads);
        if (threadpool_) {
            llama_attach_threadpool(context_.get(), threadpool_.get(), threadpool_.get());
        }
    }

    void reset(bool wipe) override {
        if (llama_memory_t memory = llama_get_memory(context_.get())) {
            llama_memory_clear(memory, wipe);
        }
    }

    void use_adapter(int32_t adapter, float scale) override {
        if (adapter == adapter_ && (adapter == 0 || scale == scale_)) {
            return;
        }
        if (adapter == 0) {
            use_adapters({}, scale);
        } else {
            use_adapters({adapters_[static_cast<size_t>(adapter) - 1].handle}, scale);
        }
        adapter_ = adapter;
        scale_ = scale;
    }

    void use_all_adapters() {
        std::vector<llama_adapter_lora *> all;
        for (const Adapter &adapter : adapters_) {
            all.push_back(adapter.handle);
        }
        use_adapters(std::move(all), 1.0F);
    }

    const float *compute(const TokenBatch &batch, const std::atomic<bool> &abort) override {
        const size_t n = batch.ids.size();
        if (n == 0 || n > n_ubatch_) {
            throw Error(GGE_E_INTERNAL, "a micro-batch has " + std::to_string(n) +
                                            " tokens, the compute state takes 1 to " + std::to_string(n_ubatch_));
        }
        const llama_batch b = padded(batch);

        const ErrorLines lines;
        abort_ = &abort;
        const int32_t code = run(b, lines);
        abort_ = nullptr;
        if (code != 0) {
            throw code == 2 ? Error(GGE_E_ABORTED, "aborted")
            : code == -2    ? Error(GGE_E_MEMORY,
                                    "no memory for " + std::to_string(n) + " tokens: " + lines.text("no reason given"))
                         : upstream_error(GGE_E_INTERNAL, "llama.cpp failed with code " + std::to_string(code), lines);
        }
        const float *rows = n_scores_ > 0 ? gather_scores(batch) : gather_rows(batch);
        if (rows == nullptr) {
            throw Error(GGE_E_UNSUPPORTED, "llama.cpp computes no embeddings for this architecture");
        }
        return rows;
    }

    gge_memory memory() const override { return memory_of(context_.get(), n_outputs_); }

    int64_t n_graphs_reused() const override { return llama_perf_context(context_.get()).n_reused; }

private:
    void use_adapters(std::vector<llama_adapter_lora *> adapters, float scale) {
        std::vector<float> scales(adapters.size(), scale);
        llama_set_adapters_lora(context_.get(), adapters.data(), adapters.size(), scales.data());
    }

    // Upstream's batch. Kernels for products of matrices take other ways where rows remain at the end, which gives other
    // last bits; in whole tiles a row is the same whatever is packed beside it. So tokens of nobody stand at the end, and
    // some rows that nobody wants are computed.
    llama_batch padded(const TokenBatch &batch) {
        const size_t n = batch.ids.size();
        const size_t n_padded = tile_ > 0 ? round_up(n, tile_) : n;
        ids_ = batch.ids;
        ids_.resize(n_padded, 0);
        rows_ = batch.rows;
        const size_t width = rows_.size() / n;
        for (size_t i = n; i < n_padded && width > 0; ++i) { // not zeros, which norms may make infinite
            rows_.insert(rows_.end(), batch.rows.end() - static_cast<std::ptrdiff_t>(width), batch.rows.end());
        }
        positions_ = batch.positions;
        positions_.resize(n_padded);
        if (has_mrope_ && !rows_.empty()) { // one kind after the other, of which the fourth is not used
            positions_.insert(positions_.end(), batch.heights.begin(), batch.heights.end());
            positions_.resize(2 * n_padded);
            positions_.insert(positions_.end(), batch.widths.begin(), batch.widths.end());
            positions_.resize(4 * n_padded);
        }
        sequences_ = batch.sequences;
        sequences_.resize(n_padded, batch.sequences.back() + 1);
        n_sequences_.assign(n_padded, 1);
        sequence_of_.resize(n_padded);
        for (size_t i = 0; i < n_padded; ++i) {
            sequence_of_[i] = &sequences_[i];
        }
        output_.assign(batch.wanted.begin(), batch.wanted.end());
        output_.resize(n_padded, 0);
        if (tile_ > 0) {
            size_t n_missing = round_up(n_wanted(output_), tile_) - n_wanted(output_);
            for (size_t i = n_padded; n_missing > 0 && i-- > 0;) {
                n_missing -= output_[i] == 0 ? size_t{1} : size_t{0};
                output_[i] = 1;
            }
        } else {
            output_.assign(n_padded, 1);
        }
        n_outputs_ = std::max(n_outputs_, static_cast<int64_t>(n_wanted(output_)));

        llama_batch b{};
        b.n_tokens = static_cast<int32_t>(n_padded);
        b.token = rows_.empty() ? ids_.data() : nullptr;
        b.embd = rows_.empty() ? nullptr : rows_.data();
        b.pos = positions_.data();
        b.n_seq_id = n_sequences_.data();
        b.seq_id = sequence_of_.data();
        b.logits = output_.data();
        return b;
    }

    // Moves the wanted rows together, in upstream's buffer.
    const float *gather_rows(const TokenBatch &batch) {
        float *rows = llama_get_embeddings(context_.get());
        if (rows == nullptr || n_wanted(output_) == n_wanted(batch.wanted)) {
            return rows;
        }
        float *from = rows;
        float *to = rows;
        for (size_t i = 0; i < batch.wanted.size(); ++i) {
            if (batch.wanted[i] != 0) {
                if (from != to) {
                    std::copy_n(from, n_embd_, to);
                }
                to += n_embd_;
            }
            from += output_[i] != 0 ? n_embd_ : 0;
        }
        return rows;
    }

    const float *gather_scores(const TokenBatch &batch) {
        scores_.clear();
        for (int32_t s = 0; s <= batch.sequences.back(); ++s) {
            const float *row = llama_get_embeddings_seq(context_.get(), s);
            if (row == nullptr) {
                return nullptr;
            }
            scores_.insert(scores_.end(), row, row + n_scores_);
        }
        return scores_.data();
    }

    int32_t run(const llama_batch &b, const ErrorLines &lines) {
        const Shield shield;
        try {
            const int32_t code = uses_encode_ ? llama_encode(context_.get(), b) : llama_decode(context_.get(), b);
            if (code == 0) {
                llama_synchronize(context_.get());
            }
            return code;
        } catch (const UpstreamAbort &e) {
            // An assertion in the middle of a graph leaves the pool's other threads at a barrier, where freeing would
            // wait for them for ever.
            static_cast<void>(context_.release());
            static_cast<void>(threadpool_.release());
            abort_ = nullptr;
            throw upstream_error(GGE_E_INTERNAL, e.what(), lines); // which tell that a GPU is out of memory
        } catch (const std::runtime_error &e) {                    // the graph with another adapter cannot be made
            abort_ = nullptr;
            const bool memory = std::strstr(e.what(), "allocate") != nullptr;
            throw Error(memory ? GGE_E_MEMORY : GGE_E_INTERNAL, std::string("llama.cpp: ") + e.what());
        }
    }

    const bool uses_encode_;
    const size_t tile_;
    const size_t n_embd_;
    const std::vector<Adapter> &adapters_;
    int32_t adapter_ = 0;
    float scale_ = 1.0F;
    const size_t n_scores_; // of a sequence; 0 = token rows are computed
    std::vector<float> scores_;
    const std::atomic<bool> *abort_ = nullptr; // set while computing
    const bool has_mrope_;
    size_t n_ubatch_ = 0;
    int64_t n_outputs_ = 0; // most tokens of a micro-batch so far
    std::vector<llama_token> ids_;
    std::vector<float> rows_;
    std::vector<llama_pos> positions_;
    std::vector<llama_seq_id> sequences_;
    std::vector<int32_t> n_sequences_;
    std::vector<llama_seq_id *> sequence_of_;
    std::vector<int8_t> output_;
    ThreadpoolPtr threadpool_; // outlives the context
    ContextPtr context_;
};

// ---------------------------------------------------------------- model

} // namespace

gge_pooling read_pooling(const std::string &value) {
    static const std::array<gge_pooling, 5> known = {GGE_POOLING_NONE, GGE_POOLING_MEAN, GGE_POOLING_CLS,
                                                     GGE_POOLING_LAST, GGE_POOLING_RANK};
    for (size_t i = 0; i < known.size(); ++i) {
        if (value == std::to_string(i)) {
            return known[i];
        }
    }
    throw Error(GGE_E_FORMAT, "the file's pooling type is " + value + ", known are 0 to 4");
}

void read_head(const llama_model *model, const Shapes &tensors, ModelFacts &facts) {
    const auto has = [&](const char *name) { return tensors.count(name) > 0; };
    Head head;
    head.dense = has("cls.weight");
    head.norm = has("cls.norm.weight");
    head.out = has("cls.output.weight");
    head.has_token_types = has("token_types.weight");
    head.n_out = static_cast<int32_t>(llama_model_n_cls_out(model));
    facts.cannot_rank = why_no_rank(facts.architecture, head);
    facts.n_cls_out = facts.cannot_rank.empty() ? head.n_out : 0;
}

namespace {

// The pre-tokenizers whose models have the normaliser NFC in their tokenizer.json, which GGUF does not record: Qwen2,
// 2.5 and 3, Qwen3.5, DeepSeek-R1's distillates of Qwen, ModernBERT.
bool has_nfc(const std::string &pre) {
    static const std::array<const char *, 4> known = {"qwen2", "qwen35", "deepseek-r1-qwen", "modern-bert"};
    return std::find(known.begin(), known.end(), pre) != known.end();
}

// Those whose graph computes alike with ids and with the rows that these stand for (tests/python/test_parts.py).
bool takes_rows(const std::string &architecture) {
    static const std::array<const char *, 6> known = {"eurobert", "llama", "llama-embed", "qwen2", "qwen2vl", "qwen3"};
    return std::find(known.begin(), known.end(), architecture) != known.end();
}

class LlamaModel final : public BackendModel {
public:
    LlamaModel(const std::string &path, ModelPtr model, std::vector<Adapter> adapters, const ModelFiles &files,
               std::vector<Device> devices)
        : model_(std::move(model)), adapters_(std::move(adapters)), devices_(std::move(devices)),
          on_cpu_(devices_.front().kind == GGE_DEVICE_CPU) {
        facts_.path = path;
        read_metadata();
        check_shape(model_.get());
        read_vocabulary();
        read_special_tokens();
        read_word_piece();
        read_shape();
        read_ranking(files.tensors);
        read_adapters();
        try_out(files.tile);
        if (facts_.cannot_take_rows.empty()) {
            token_table_.emplace(files.token_table);
        }
    }

    const ModelFacts &facts() const noexcept override { return facts_; }
    ModelFacts &facts() noexcept { return facts_; }

    void tokenize(std::string_view text, bool add_special, bool parse_special,
                  std::vector<int32_t> &ids) const override {
        if (word_piece_ && !add_special && !parse_special) {
            word_piece_->tokenize(text, ids);
        } else if (wants_nfc_ && !is_nfc(text)) {
            tokenize_upstream(to_nfc(text), add_special, parse_special, ids);
        } else {
            tokenize_upstream(text, add_special, parse_special, ids);
        }
    }

    const Seams *seams(bool parse_special) const override {
        LazySeams &lazy = seams_[parse_special ? 1 : 0];
        std::call_once(lazy.once, [&] {
            const Shield shield;
            lazy.seams = word_piece_ && !parse_special ? pair_seams([this](char32_t before, char32_t behind) {
                return word_piece_->parts_words(before) || word_piece_->parts_words(behind);
            })
                                                       : llama_seams(*vocab(), parse_special, wants_nfc_);
        });
        return lazy.seams.get();
    }

    void token_rows(const int32_t *ids, size_t n, float *rows) const override { token_table_->read(ids, n, rows); }

    const std::vector<std::unique_ptr<BackendTower>> &towers() const noexcept override { return towers_; }

    void load(const LoadOptions &options, const Device &device) {
        towers_ = load_towers(options, device, facts_.n_embd);
        load_options_ = options;
        load_options_.callbacks = {};
    }

    std::unique_ptr<BackendSession> open(const SessionOptions &options) const override {
        try {
            return std::make_unique<LlamaSession>(model_.get(), adapters_, options, on_cpu_, tile_);
        } catch (const Error &e) {
            throw e.status() == GGE_E_MEMORY ? Error(GGE_E_MEMORY, e.what() + free_memory()) : e;
        } catch (const std::bad_alloc &) {
            throw Error(GGE_E_MEMORY, "out of memory" + free_memory());
        }
    }

    void survey(int64_t n_tower_batch, const std::function<void(const Measure &)> &use) const override {
        survey_llama_model(facts_.path, devices_, load_options_, n_tower_batch,
                           [&](const ModelFacts &, const Measure &measure) { use(measure); });
    }

    std::vector<std::pair<std::string, int32_t>> special_tokens() const override { return special_tokens_; }

private:
    std::string free_memory() const {
        std::vector<Device> devices = devices_;
        std::for_each(devices.begin(), devices.end(), ask_driver);
        return "; free are " + show_free(devices);
    }

    const llama_vocab *vocab() const { return llama_model_get_vocab(model_.get()); }

    void tokenize_upstream(std::string_view text, bool add_special, bool parse_special,
                           std::vector<int32_t> &ids) const {
        if (text.size() > INT32_MAX) { // normalisation can lengthen it
            throw Error(GGE_E_INVALID, "a text has " + std::to_string(text.size()) +
                                           " bytes once normalised, at most " + std::to_string(INT32_MAX) +
                                           " are possible");
        }
        // A token stands for at least one byte, but for the special ones and the space that some vocabularies put in
        // front; normalisation can lengthen a text, so upstream's own count decides.
        const size_t begin = ids.size();
        const auto run = [&](size_t room) {
            ids.resize(begin + room);
            return llama_tokenize(vocab(), text.data(), static_cast<int32_t>(text.size()), ids.data() + begin,
                                  static_cast<int32_t>(room), add_special, parse_special);
        };
        int32_t n = 0;
        try {
            const Shield shield;
            n = run(std::min<size_t>(text.size() + 8, INT32_MAX));
            if (n < 0 && n != INT32_MIN) {
                n = run(static_cast<size_t>(-n));
            }
        } catch (const std::bad_alloc &) {
            throw;
        } catch (const std::exception &e) { // an incomplete vocabulary
            throw Error(GGE_E_FORMAT, std::string("llama.cpp cannot tokenise with this vocabulary: ") + e.what());
        }
        if (n < 0) {
            ids.resize(begin);
            throw Error(GGE_E_INVALID, "a text has more tokens than fit 31 bits");
        }
        ids.resize(begin + static_cast<size_t>(n));
    }

    // Calls one of upstream's functions that write a string of unknown length.
    template <typename Get> static std::string read_string(Get get) {
        std::string value(256, '\0');
        int32_t n = get(value.data(), value.size());
        if (n >= static_cast<int32_t>(value.size())) {
            value.resize(static_cast<size_t>(n) + 1);
            n = get(value.data(), value.size());
        }
        value.resize(n < 0 ? 0 : static_cast<size_t>(n));
        return value;
    }

    const std::string &meta(const std::string &key) const {
        static const std::string none;
        for (const auto &entry : facts_.metadata) {
            if (entry.first == key) {
                return entry.second;
            }
        }
        return none;
    }

    void read_metadata() {
        const llama_model *m = model_.get();
        for (int32_t i = 0; i < llama_model_meta_count(m); ++i) {
            facts_.metadata.emplace_back(
                read_string([&](char *buf, size_t size) { return llama_model_meta_key_by_index(m, i, buf, size); }),
                read_string(
                    [&](char *buf, size_t size) { return llama_model_meta_val_str_by_index(m, i, buf, size); }));
        }
        facts_.architecture = meta("general.architecture");
        facts_.name = meta("general.name");
        facts_.tokenizer = meta("tokenizer.ggml.model");
        facts_.quantization = llama_ftype_name(llama_model_ftype(m));
        const std::string &pooling = meta(facts_.architecture + ".pooling_type");
        facts_.pooling = pooling.empty() ? GGE_POOLING_DEFAULT : read_pooling(pooling);
    }

    void read_vocabulary() {
        facts_.n_vocab = llama_vocab_n_tokens(vocab());
        facts_.has_tokenizer = llama_vocab_type(vocab()) != LLAMA_VOCAB_TYPE_NONE;
        facts_.token_bos = llama_vocab_bos(vocab());
        facts_.token_eos = llama_vocab_eos(vocab());
        facts_.token_sep = llama_vocab_sep(vocab());
        facts_.token_pad = llama_vocab_pad(vocab());
        for (const int32_t id : {facts_.token_bos, facts_.token_eos, facts_.token_sep, facts_.token_pad}) {
            if (id < -1 || id >= facts_.n_vocab) {
                throw Error(GGE_E_FORMAT, "a special token has id " + std::to_string(id) + ", the vocabulary has " +
                                              std::to_string(facts_.n_vocab) + " tokens");
            }
        }
        if (facts_.n_vocab < 1) {
            throw Error(GGE_E_FORMAT, "the file has no vocabulary");
        }
        wants_nfc_ = llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_BPE && has_nfc(meta("tokenizer.ggml.pre"));
    }

    // In the order in which upstream looks for them in a text.
    void read_special_tokens() {
        constexpr int special = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN;
        for (int32_t i = 0; facts_.has_tokenizer && i < facts_.n_vocab; ++i) {
            if (const char *text = llama_vocab_get_text(vocab(), i);
                text[0] != '\0' && (llama_vocab_get_attr(vocab(), i) & special) != 0) {
                special_tokens_.emplace_back(text, i);
            }
        }
        std::stable_sort(special_tokens_.begin(), special_tokens_.end(),
                         [](const auto &a, const auto &b) { return a.first.size() > b.first.size(); });
    }

    int32_t find_unknown_token() const {
        const std::string &value = meta("tokenizer.ggml.unknown_token_id");
        const long long id = std::strtoll(value.c_str(), nullptr, 10);
        if (!value.empty() && id >= 0 && id < facts_.n_vocab) {
            return static_cast<int32_t>(id);
        }
        for (int32_t i = 0; i < facts_.n_vocab; ++i) {
            if (std::string_view(llama_vocab_get_text(vocab(), i)) == "[UNK]") {
                return i;
            }
        }
        throw Error(GGE_E_FORMAT, "the WordPiece vocabulary has no unknown token");
    }

    void read_word_piece() {
        if (llama_vocab_type(vocab()) != LLAMA_VOCAB_TYPE_WPM) {
            return;
        }
        std::vector<std::string_view> tokens;
        tokens.reserve(static_cast<size_t>(facts_.n_vocab));
        for (int32_t i = 0; i < facts_.n_vocab; ++i) {
            const bool special =
                (llama_vocab_get_attr(vocab(), i) & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) != 0;
            tokens.emplace_back(special ? "" : llama_vocab_get_text(vocab(), i));
        }
        // upstream's keys and defaults
        WordPieceOptions options;
        options.lowercase = meta("tokenizer.ggml.normalizer.lowercase") != "false";
        const std::string &strip = meta("tokenizer.ggml.normalizer.strip_accents");
        options.strip_accents = strip.empty() ? options.lowercase : strip != "false";
        word_piece_.emplace(tokens, find_unknown_token(), options);
    }

    void read_shape() {
        const llama_model *m = model_.get();
        facts_.n_embd = llama_model_n_embd_out(m);
        facts_.n_layer = llama_model_n_layer(m);
        facts_.n_ctx_train = llama_model_n_ctx_train(m);
        facts_.n_params = static_cast<int64_t>(llama_model_n_params(m));
        facts_.tensor_bytes = static_cast<int64_t>(llama_model_size(m));
        read_weights(m, facts_);
        facts_.has_state = llama_model_is_recurrent(m) || llama_model_is_hybrid(m);
        facts_.has_mrope = has_mrope(m);
        if (!takes_rows(facts_.architecture) || llama_model_n_embd_inp(m) != facts_.n_embd) {
            facts_.cannot_take_rows = "models of architecture " + facts_.architecture + " take no media";
        }
    }

    void read_adapters() {
        facts_.n_adapters = static_cast<int32_t>(adapters_.size());
        for (int32_t i = 0; i < facts_.n_adapters; ++i) {
            if (adapters_[static_cast<size_t>(i)].changed.count("token_embd.weight") > 0) {
                facts_.token_adapters.insert(i + 1);
            }
        }
    }

    void read_ranking(const Shapes &tensors) {
        read_head(model_.get(), tensors, facts_);
        const std::string &pooling = meta(facts_.architecture + ".classifier.pooling_type");
        if (!pooling.empty() && pooling != "1" && pooling != "2") { // upstream would take it for 2
            throw Error(GGE_E_FORMAT,
                        "the file's classifier pooling type is " + pooling + ", known are 1 (mean) and 2 (cls)");
        }
        if (const char *text = llama_model_chat_template(model_.get(), "rerank")) {
            facts_.pair_template = text;
        }
        // BERT and ModernBERT have one [SEP] between two texts, whatever the file says; it ends the first
        facts_.pair_has_sep = llama_vocab_get_add_sep(vocab()) && facts_.token_sep >= 0 &&
                              llama_vocab_type(vocab()) != LLAMA_VOCAB_TYPE_WPM &&
                              meta("tokenizer.ggml.pre") != "modern-bert";
    }

    // Upstream applies adapters where it multiplies with the matrices of the layers, and nowhere else. The rows of
    // texts do not depend on the output matrix.
    void check_adapters_act(const std::set<std::string> &used) const {
        for (const Adapter &adapter : adapters_) {
            for (const std::string &name : adapter.changed) {
                if (used.count(name) == 0 && (name != "output.weight" || facts_.n_cls_out > 0)) {
                    throw Error(GGE_E_UNSUPPORTED, adapter.path + ": it changes tensor " + name +
                                                       ", to which llama.cpp applies no adapters");
                }
            }
        }
    }

    std::string explain_adapters() const {
        if (adapters_.empty()) {
            return "";
        }
        return !facts_.token_adapters.empty()
                   ? " with its adapters, of which those that change token_embd.weight need a model with an "
                     "output.weight of its own"
                   : " with its adapters";
    }

    // A first forward pass, on this thread alone, with all that the graph may hold.
    void try_out(size_t cpu_tile) {
        SessionOptions options;
        options.n_ctx = 8;
        options.n_ubatch = 8;
        options.n_seq_max = 1;
        options.n_threads = 1;
        options.rank = facts_.n_cls_out > 0;
        std::set<std::string> used;
        read_cache(model_.get(), on_cpu_, facts_);
        tile_ = !facts_.packs ? 0 : on_cpu_ ? cpu_tile : device_tile;
        LlamaSession session(model_.get(), adapters_, options, on_cpu_, tile_, &used);
        session.use_all_adapters();
        TokenBatch batch;
        const int32_t n = std::min(2, facts_.n_ctx_train);
        for (int32_t i = 0; i < n; ++i) {
            batch.ids.push_back(i == 0 ? 0 : facts_.n_vocab - 1);
            batch.positions.push_back(i);
            batch.sequences.push_back(0);
            batch.wanted.push_back(1);
        }
        const std::atomic<bool> never{false};
        try {
            session.compute(batch, never);
        } catch (const Error &e) {
            throw Error(e.status() == GGE_E_INTERNAL ? GGE_E_FORMAT : e.status(),
                        "the model fails its first forward pass" + explain_adapters() + ": " + e.what());
        }
        check_adapters_act(used);
    }

    ModelPtr model_;
    std::vector<Adapter> adapters_; // freed with the model
    const std::vector<Device> devices_;
    LoadOptions load_options_;
    const bool on_cpu_; // no layer is elsewhere
    size_t tile_ = 0;
    std::vector<std::unique_ptr<BackendTower>> towers_;
    ModelFacts facts_;
    mutable std::optional<RowTable> token_table_; // has a lock of its own
    std::optional<WordPiece> word_piece_;
    bool wants_nfc_ = false;
    std::vector<std::pair<std::string, int32_t>> special_tokens_;

    struct LazySeams {
        std::once_flag once;
        std::unique_ptr<Seams> seams;
    };
    mutable std::array<LazySeams, 2> seams_; // by parse_special
};

// ---------------------------------------------------------------- loading

// Before the first context is made, which has room for their nodes.
void load_adapters(llama_model *model, std::vector<Adapter> &adapters) {
    for (Adapter &adapter : adapters) {
        const ErrorLines lines;
        adapter.handle = llama_adapter_lora_init(model, adapter.path.c_str());
        if (adapter.handle == nullptr) {
            throw upstream_error(GGE_E_FORMAT, adapter.path, lines);
        }
    }
}

struct LoadProgress {
    const Callbacks &callbacks;
    int64_t file_bytes;
    bool aborted = false;

    bool report(float fraction) {
        if (callbacks.progress != nullptr) {
            callbacks.progress(callbacks.user_data,
                               static_cast<int64_t>(static_cast<double>(fraction) * static_cast<double>(file_bytes)),
                               file_bytes);
        }
        aborted = callbacks.abort != nullptr && callbacks.abort(callbacks.user_data) != 0;
        return !aborted;
    }
};

} // namespace

ggml_backend_dev_t device_handle(const Device &device) {
    if (device.kind == GGE_DEVICE_CPU) {
        return nullptr;
    }
    const auto devices = find_devices();
    const auto found =
        std::find_if(devices.begin(), devices.end(), [&](const auto &d) { return d.device.name == device.name; });
    if (found == devices.end()) {
        throw Error(GGE_E_DEVICE, "device \"" + device.name + "\" is gone");
    }
    if (!upstream_owner().is_here()) {
        throw Error(GGE_E_DEVICE, device.name + " cannot be used here: its driver was started in process " +
                                      std::to_string(upstream_owner().process()) + ", of which this one is a forked " +
                                      "child; start processes with spawn, or look for devices only after the fork");
    }
    return found->handle;
}

void switch_cuda_graphs(ggml_backend_t backend, bool on) {
    const auto reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    const auto set = reinterpret_cast<void (*)(ggml_backend_t, bool)>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_cuda_set_graphs")); // of patch 0012
    if (set != nullptr) {
        set(backend, on);
    }
}

void ask_driver(Device &device) {
    const auto devices = find_devices();
    const auto found =
        std::find_if(devices.begin(), devices.end(), [&](const auto &d) { return d.device.name == device.name; });
    const bool on_cpu = device.kind == GGE_DEVICE_CPU;
    if (found == devices.end() || (!on_cpu && !upstream_owner().is_here())) {
        return;
    }
    size_t free = 0;
    size_t total = 0;
    try {
        const Shield shield;
        ggml_backend_dev_memory(found->handle, &free, &total);
    } catch (const UpstreamAbort &) { // a device in a bad state; what is done with it will say so
        return;
    }
    device.memory_total = static_cast<int64_t>(total);
    device.memory_free = static_cast<int64_t>(free);
    if (const int64_t available = host_memory_available(); on_cpu && available > 0) {
        device.memory_free = available; // upstream says that all is free
    }
    const auto index = static_cast<size_t>(device.index);
    if (device.kind == GGE_DEVICE_CUDA && index < compute_capabilities().size()) {
        device.capability = compute_capabilities()[index];
    }
}

std::vector<Device> llama_devices() {
    std::vector<Device> devices;
    for (auto &d : find_devices()) {
        devices.push_back(std::move(d.device));
    }
    return devices;
}

OpenedModel open_model(const std::string &path, const std::vector<Device> &devices, const LoadOptions &options,
                       bool without_weights) {
    OpenedModel opened;
    {
        init_upstream();
        const Shield shield;
        opened.files = check_files(path);
        opened.adapters = check_adapters(options.adapters, opened.files);
        for (const Adapter &adapter : opened.adapters) {
            opened.files.tile = std::max(opened.files.tile, tile_of(open_gguf(adapter.path).get()));
        }
    }
    std::vector<ggml_backend_dev_t> handles; // ends with NULL: none is "no GPU at all"
    std::transform(devices.begin(), devices.end(), std::back_inserter(handles), device_handle);
    handles.push_back(nullptr);
    LoadProgress progress{options.callbacks, opened.files.bytes};

    llama_model_params p = llama_model_default_params();
    p.devices = handles.data();
    p.split_mode = devices.size() > 1 ? LLAMA_SPLIT_MODE_LAYER : LLAMA_SPLIT_MODE_NONE;
    p.n_gpu_layers = handles.front() == nullptr || options.n_gpu_layers < 0 ? 0
                     : options.n_gpu_layers == 0                            ? -1
                                                                            : options.n_gpu_layers;
    p.load_mode = options.mmap && !without_weights ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    p.no_alloc = without_weights;
    p.progress_callback = [](float fraction, void *data) {
        return static_cast<LoadProgress *>(data)->report(fraction);
    };
    p.progress_callback_user_data = &progress;

    const ErrorLines lines;
    const Shield shield;
    const CpuKernels kernels(options.cpu_kernels);
    try {
        opened.model.reset(llama_model_load_from_file(path.c_str(), p));
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &e) {
        throw Error(GGE_E_FORMAT, path + ": " + e.what());
    }
    if (progress.aborted) {
        throw Error(GGE_E_ABORTED, "a callback asked to stop loading " + path);
    }
    if (!opened.model) {
        throw upstream_error(GGE_E_FORMAT, path, lines);
    }
    if (!without_weights) {
        load_adapters(opened.model.get(), opened.adapters);
    }
    const int32_t n_layers = llama_model_n_layer(opened.model.get()) + 1; // upstream counts the output layer too
    opened.n_gpu_layers = p.n_gpu_layers < 0 ? n_layers : std::min(p.n_gpu_layers, n_layers);
    return opened;
}

namespace {

std::unique_ptr<BackendModel> load_opened(const std::string &path, const std::vector<Device> &devices,
                                          const LoadOptions &options) {
    OpenedModel opened = open_model(path, devices, options, false);
    const Shield shield;
    std::unique_ptr<LlamaModel> loaded;
    try {
        loaded = std::make_unique<LlamaModel>(path, std::move(opened.model), std::move(opened.adapters), opened.files,
                                              devices);
    } catch (const Error &e) {
        throw Error(e.status(), path + ": " + e.what());
    } catch (const std::runtime_error &e) {
        throw Error(GGE_E_FORMAT, path + ": " + e.what());
    }
    loaded->load(options, devices.front()); // its errors name the projector file
    loaded->facts().n_gpu_layers = opened.n_gpu_layers;
    loaded->facts().file_bytes = opened.files.bytes;
    return loaded;
}

// The numbers to an error of memory while a model is loaded.
Error lacks_memory(const std::string &path, std::vector<Device> devices, const LoadOptions &options,
                   const std::string &reason) {
    const int64_t file_bytes = check_files(path).bytes;
    std::string text = reason;
    try {
        gge_memory needs{};
        survey_llama_model(path, devices, options, 1, [&](const ModelFacts &, const Measure &measure) {
            SessionOptions least;
            least.n_ctx = least.n_ubatch = 8;
            least.n_seq_max = 1;
            needs = measure(least);
        });
        text +=
            "; the weights take " +
            (needs.weights_device > 0 ? show_bytes(needs.weights_device) + " on " + names_of(devices) + " and " : "") +
            show_bytes(needs.weights_host) + " on the host";
    } catch (const std::exception &) { // an estimate takes memory, too
        text += "; the file has " + show_bytes(file_bytes);
    }
    std::for_each(devices.begin(), devices.end(), ask_driver);
    return {GGE_E_MEMORY, text + "; free are " + show_free(devices)};
}

} // namespace

std::unique_ptr<BackendModel> load_llama_model(const std::string &path, const std::vector<Device> &devices,
                                               const LoadOptions &options) {
    try {
        return load_opened(path, devices, options);
    } catch (const std::bad_alloc &) {
        throw lacks_memory(path, devices, options, path + ": out of memory");
    } catch (const Error &e) {
        if (e.status() != GGE_E_MEMORY) {
            throw;
        }
        throw lacks_memory(path, devices, options, e.what());
    }
}

} // namespace gge
