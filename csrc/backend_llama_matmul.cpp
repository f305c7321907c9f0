// Our matrix kernels as a buffer type of ggml's CPU: weights that are put there are packed for a kernel, and the
// products with them run in it. The only file that sees ggml's side of the CPU.
#include "backend_llama_matmul.h"
#include "backend_llama.h"
#include "matmul.h"

#include <ggml-backend-impl.h>
#include <ggml-cpu-impl.h>
#include <traits.h>

#include <algorithm>

namespace gge {
namespace {

// Of the model that this thread loads.
thread_local bool excluded = false;

constexpr std::pair<ggml_type, WeightType> types[] = {
    {GGML_TYPE_Q4_0, WeightType::q4_0},     {GGML_TYPE_Q4_1, WeightType::q4_1}, {GGML_TYPE_Q5_0, WeightType::q5_0},
    {GGML_TYPE_Q5_1, WeightType::q5_1},     {GGML_TYPE_Q8_0, WeightType::q8_0}, {GGML_TYPE_Q4_K, WeightType::q4_k},
    {GGML_TYPE_Q5_K, WeightType::q5_k},     {GGML_TYPE_Q6_K, WeightType::q6_k}, {GGML_TYPE_IQ4_NL, WeightType::iq4_nl},
    {GGML_TYPE_IQ4_XS, WeightType::iq4_xs}, {GGML_TYPE_F16, WeightType::f16},   {GGML_TYPE_BF16, WeightType::bf16},
    {GGML_TYPE_F32, WeightType::f32},
};

// How a buffer type packs weights.
struct Packing {
    const char *name;
    bool whole_halves; // F16 keeps its bits, instead of becoming bfloat16
    size_t i_kernel;   // of those that the CPU has for a type

    // NULL for weights that upstream keeps.
    const MatmulKernel *kernel_of(const ggml_tensor *weights) const {
        const auto *const type =
            std::find_if(std::begin(types), std::end(types), [&](const auto &t) { return t.first == weights->type; });
        if (type == std::end(types) || ggml_n_dims(weights) != 2) {
            return nullptr;
        }
        const bool is_whole = type->second == WeightType::f16 && whole_halves;
        return matmul_kernel(is_whole ? WeightType::whole_f16 : type->second, i_kernel);
    }
};

const Packing &packing_of(ggml_backend_buffer_type_t type);

// Of weights in a buffer.
const MatmulKernel *kernel_of(const ggml_tensor *weights) {
    return packing_of(weights->buffer->buft).kernel_of(weights);
}

size_t n_rows(const ggml_tensor *t) {
    return static_cast<size_t>(ggml_nrows(t));
}

size_t n_out(const ggml_tensor *weights) {
    return static_cast<size_t>(weights->ne[1]);
}

size_t n_in(const ggml_tensor *weights) {
    return static_cast<size_t>(weights->ne[0]);
}

// Panels and tokens are shared out in rectangles: weights that stay in a core's cache while tokens pass by, and enough
// rectangles for threads of unequal speed. Beside few tokens weights are read once, by some panels at a time.
struct Shares {
    static constexpr size_t cache_bytes = 256 << 10;
    static constexpr size_t shares_per_thread = 4;
    static constexpr size_t few_tokens = 3;
    static constexpr size_t token_step = 56; // tokens of a share are a multiple of it: some tiles of a kernel

    Shares(const MatmulKernel &kernel, const MatmulTask &task, size_t n_threads)
        : all_panels(n_panels(kernel, task.n_out)) {
        const bool is_few = task.n_tokens <= few_tokens;
        const size_t n_wanted = n_threads == 1 ? 1 : n_threads * shares_per_thread / (is_few ? 2 : 1);
        const size_t panel_bytes = kernel.packed_size(kernel.n_panel, task.n_in);
        n_panels_each = std::clamp<size_t>(is_few ? all_panels : cache_bytes / panel_bytes, 1,
                                           std::max<size_t>(1, all_panels / n_wanted));
        n_columns = (all_panels + n_panels_each - 1) / n_panels_each;
        const size_t n_parts = (n_wanted + n_columns - 1) / n_columns;
        n_tokens_each = round_up((task.n_tokens + n_parts - 1) / n_parts, token_step);
        n_shares = n_columns * ((task.n_tokens + n_tokens_each - 1) / n_tokens_each);
    }

    void run(const MatmulKernel &kernel, const MatmulTask &task, size_t share) const {
        const size_t panel = share % n_columns * n_panels_each;
        const size_t token = share / n_columns * n_tokens_each;
        kernel.multiply(task, panel, std::min(panel + n_panels_each, all_panels), token,
                        std::min(token + n_tokens_each, task.n_tokens));
    }

    size_t all_panels;
    size_t n_panels_each;
    size_t n_columns;
    size_t n_tokens_each;
    size_t n_shares;
};

class Products final : public ggml::cpu::tensor_traits {
public:
    bool work_size(int /*n_threads*/, const ggml_tensor *op, size_t &size) override {
        size = kernel_of(op->src[0])->input_size(n_in(op->src[0])) * n_rows(op->src[1]);
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        const ggml_tensor *weights = op->src[0];
        const ggml_tensor *rows = op->src[1];
        const MatmulKernel &kernel = *kernel_of(weights);
        MatmulTask task;
        task.weights = weights->data;
        task.n_out = n_out(weights);
        task.n_in = n_in(weights);
        task.inputs = params->wdata;
        task.n_tokens = n_rows(rows);
        task.out = static_cast<float *>(op->data);
        task.out_stride = task.n_out;

        const size_t input_size = kernel.input_size(task.n_in);
        const auto i_thread = static_cast<size_t>(params->ith);
        const auto n_threads = static_cast<size_t>(params->nth);
        for (size_t i = task.n_tokens * i_thread / n_threads; i < task.n_tokens * (i_thread + 1) / n_threads; ++i) {
            kernel.convert(row_of(rows, i), task.n_in, static_cast<char *>(params->wdata) + i * input_size);
        }
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        const Shares shares(kernel, task, n_threads);
        for (size_t share = i_thread; share < shares.n_shares;
             share = static_cast<size_t>(ggml_threadpool_chunk_add(params->threadpool, 1))) {
            shares.run(kernel, task, share);
        }
        return true;
    }

private:
    static const float *row_of(const ggml_tensor *t, size_t i) {
        const size_t n1 = static_cast<size_t>(t->ne[1]);
        const size_t n2 = static_cast<size_t>(t->ne[2]);
        const size_t at = i % n1 * t->nb[1] + i / n1 % n2 * t->nb[2] + i / n1 / n2 * t->nb[3];
        return reinterpret_cast<const float *>(static_cast<const char *>(t->data) + at);
    }
};

Products products;

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size);

// A buffer type and its context, which upstream looks at as the class that this one starts with.
class PackedWeights final : public ggml::cpu::extra_buffer_type {
public:
    PackedWeights(const char *name, bool whole_halves, size_t i_kernel)
        : packing{name, whole_halves, i_kernel},
          type_{{[](ggml_backend_buffer_type_t type) { return packing_of(type).name; }, &alloc_buffer,
                 [](ggml_backend_buffer_type_t) { return size_t{64}; }, nullptr,
                 [](ggml_backend_buffer_type_t type, const ggml_tensor *t) {
                     const MatmulKernel *kernel = packing_of(type).kernel_of(t);
                     return kernel == nullptr ? ggml_nbytes(t) : kernel->packed_size(n_out(t), n_in(t));
                 },
                 nullptr},
                ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
                this} {}
    PackedWeights(const PackedWeights &) = delete;
    PackedWeights &operator=(const PackedWeights &) = delete;

    bool supports_op(ggml_backend_dev_t /*device*/, const ggml_tensor *op) override {
        const ggml_tensor *rows = op->src[1];
        return !excluded && op->op == GGML_OP_MUL_MAT && is_packed(op->src[0]) && rows->type == GGML_TYPE_F32 &&
               rows->nb[0] == sizeof(float) &&
               (rows->buffer == nullptr || ggml_backend_buft_is_host(rows->buffer->buft));
    }

    ggml::cpu::tensor_traits *get_tensor_traits(const ggml_tensor *op) override {
        return op->op == GGML_OP_MUL_MAT && is_packed(op->src[0]) ? &products : nullptr;
    }

    ggml_backend_buffer_type_t type() { return &type_; }

    static bool is_packed(const ggml_tensor *weights) {
        return weights->buffer != nullptr && weights->buffer->buft->iface.alloc_buffer == &alloc_buffer &&
               kernel_of(weights) != nullptr;
    }

    const Packing packing;

private:
    ggml_backend_buffer_type type_;
};

const Packing &packing_of(ggml_backend_buffer_type_t type) {
    return static_cast<const PackedWeights *>(type->context)->packing;
}

ggml_backend_buffer_type_t whole_buffer_type() {
    static PackedWeights weights("ggembed, F16 whole", true, 0);
    return weights.type();
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer != nullptr) {
        buffer->buft = type;
        buffer->iface.set_tensor = [](ggml_backend_buffer_t, ggml_tensor *t, const void *data, size_t offset,
                                      size_t size_) {
            if (offset != 0 || size_ != ggml_nbytes(t)) {
                throw UpstreamAbort("packed weights are written in parts");
            }
            const MatmulKernel *kernel = kernel_of(t);
            kernel->pack(data, n_out(t), n_in(t), t->data);
        };
        buffer->iface.get_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

} // namespace

ggml_backend_buffer_type_t packed_buffer_type(const ggml_tensor *weights) {
    ggml_backend_buffer_type_t type = whole_buffer_type();
    return packing_of(type).kernel_of(weights) == nullptr ? nullptr : type;
}

ggml_backend_buffer_type_t kernel_buffer_type(size_t i_kernel) {
    static PackedWeights weights[] = {{"ggembed", false, 0}, {"ggembed", false, 1}, {"ggembed", false, 2}};
    return weights[i_kernel].type();
}

void add_cpu_kernels() {
    ggml_backend_cpu_add_buffer_type(kernel_buffer_type(0)); // which upstream takes for all that both can hold
    ggml_backend_cpu_add_buffer_type(whole_buffer_type());
}

CpuKernels::CpuKernels(bool allowed) noexcept {
    excluded = !allowed;
}

CpuKernels::~CpuKernels() {
    excluded = false;
}

std::string packed_for(const ggml_tensor *weights) {
    return PackedWeights::is_packed(weights) ? kernel_of(weights)->name : "";
}

} // namespace gge
