// Our attention beside ggml's, both as ops of a graph, for benchmarks and tests in Python.
#include "attention.h"
#include "backend.h"
#include "internals.h"

#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>

namespace py = pybind11;

namespace {

struct Shape {
    int32_t n_heads;
    int32_t n_heads_kv;
    int32_t n_dims;
};

void attend_op(ggml_tensor * /*out*/, int i_thread, int n_threads, void *input) {
    gge::attend(*static_cast<const gge::AttentionInput *>(input), i_thread, n_threads);
}

// The attention of one layer over packed sequences of random values, in our way and in the way of llama.cpp: keys and
// values in F16, a mask over all tokens.
class Layer {
public:
    Layer(const std::vector<int32_t> &lengths, const Shape &shape, bool causal, int32_t n_threads)
        : shape_(shape), n_threads_(n_threads), pool_(make_pool(n_threads), &ggml_threadpool_free) {
        for (const int32_t n : lengths) {
            const auto start = static_cast<int32_t>(starts_.size());
            for (int32_t i = 0; i < n; ++i) {
                starts_.push_back(start);
                ranges_.insert(ranges_.end(), {start, start + (causal ? i + 1 : n)});
            }
        }
        n_tokens_ = static_cast<int32_t>(starts_.size());
        const auto n = static_cast<size_t>(n_tokens_);
        const size_t heads_bytes = sizeof(float) * n * static_cast<size_t>(shape.n_heads * shape.n_dims);
        context_.reset(ggml_init({heads_bytes * 8 + n * n * 2 + (size_t{1} << 20), nullptr, false}));
        build();
    }

    // ([seconds of ours], [seconds of ggml's], largest difference), by turns
    auto run(int32_t n_rounds) {
        std::vector<double> ours;
        std::vector<double> theirs;
        for (int32_t i = 0; i < n_rounds; ++i) {
            ours.push_back(seconds(ours_));
            theirs.push_back(seconds(theirs_));
        }
        const ggml_tensor *out = ggml_graph_node(ours_, -1);
        const float *a = ggml_get_data_f32(out);
        const float *b = ggml_get_data_f32(ggml_graph_node(theirs_, -1));
        float difference = 0.0F;
        for (int64_t i = 0; i < ggml_nelements(out); ++i) {
            difference = std::max(difference, std::abs(a[i] - b[i]));
        }
        return std::make_tuple(std::move(ours), std::move(theirs), difference);
    }

private:
    static ggml_threadpool *make_pool(int32_t n_threads) {
        gge::llama_devices(); // ggml must not start before our kernels are known to it
        ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
        return ggml_threadpool_new(&params);
    }

    ggml_tensor *heads(int32_t n_heads) {
        ggml_tensor *t = ggml_new_tensor_3d(context_.get(), GGML_TYPE_F32, shape_.n_dims, n_heads, n_tokens_);
        std::normal_distribution<float> normal;
        std::generate_n(ggml_get_data_f32(t), ggml_nelements(t), [&] { return normal(random_); });
        return t;
    }

    ggml_tensor *halves(const ggml_tensor *t) {
        ggml_tensor *half = ggml_new_tensor(context_.get(), GGML_TYPE_F16, 3, t->ne);
        ggml_fp32_to_fp16_row(ggml_get_data_f32(t), static_cast<ggml_fp16_t *>(half->data), ggml_nelements(t));
        return half;
    }

    ggml_tensor *mask() {
        ggml_tensor *t = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F16, n_tokens_, n_tokens_);
        auto *values = static_cast<ggml_fp16_t *>(t->data);
        for (size_t i = 0; i < starts_.size(); ++i) {
            for (int32_t j = 0; j < n_tokens_; ++j) {
                const bool seen = j >= ranges_[2 * i] && j < ranges_[2 * i + 1];
                *values++ = ggml_fp32_to_fp16(seen ? 0.0F : -INFINITY);
            }
        }
        return t;
    }

    gge::HeadsView view(const ggml_tensor *t) const {
        const auto n_dims = static_cast<size_t>(shape_.n_dims);
        return {ggml_get_data_f32(t), n_dims * static_cast<size_t>(t->ne[1]), n_dims};
    }

    void build() {
        ggml_context *ctx = context_.get();
        ggml_tensor *q = heads(shape_.n_heads);
        ggml_tensor *k = heads(shape_.n_heads_kv);
        ggml_tensor *v = heads(shape_.n_heads_kv);
        ggml_tensor *ours = ggml_custom_4d(ctx, GGML_TYPE_F32, shape_.n_dims, shape_.n_heads, n_tokens_, 1, &q, 1,
                                           &attend_op, GGML_N_TASKS_MAX, &input_);
        input_.q = view(q);
        input_.k = view(k);
        input_.v = view(v);
        input_.n_tokens = n_tokens_;
        input_.n_heads = shape_.n_heads;
        input_.n_heads_kv = shape_.n_heads_kv;
        input_.n_dims = shape_.n_dims;
        input_.n_dims_v = shape_.n_dims;
        input_.ranges = ranges_.data();
        input_.starts = starts_.data();
        input_.scale = 1.0F / std::sqrt(static_cast<float>(shape_.n_dims));
        input_.out = ggml_get_data_f32(ours);
        ours_ = graph_of(ours);
        const auto heads_first = [ctx](ggml_tensor *t) { return ggml_permute(ctx, t, 0, 2, 1, 3); };
        theirs_ = graph_of(ggml_flash_attn_ext(ctx, heads_first(q), heads_first(halves(k)), heads_first(halves(v)),
                                               mask(), input_.scale, 0.0F, 0.0F));
    }

    ggml_cgraph *graph_of(ggml_tensor *result) {
        ggml_cgraph *graph = ggml_new_graph_custom(context_.get(), 16, false);
        ggml_build_forward_expand(graph, result);
        return graph;
    }

    double seconds(ggml_cgraph *graph) {
        ggml_cplan plan = ggml_graph_plan(graph, n_threads_, pool_.get());
        work_.resize(plan.work_size);
        plan.work_data = work_.data();
        const auto start = std::chrono::steady_clock::now();
        ggml_graph_compute(graph, &plan);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }

    Shape shape_;
    int32_t n_threads_;
    int32_t n_tokens_ = 0;
    std::vector<int32_t> starts_;
    std::vector<int32_t> ranges_;
    std::mt19937 random_;
    gge::AttentionInput input_;
    std::unique_ptr<ggml_context, decltype(&ggml_free)> context_{nullptr, &ggml_free};
    std::unique_ptr<ggml_threadpool, decltype(&ggml_threadpool_free)> pool_;
    ggml_cgraph *ours_ = nullptr;
    ggml_cgraph *theirs_ = nullptr;
    std::vector<uint8_t> work_;
};

auto compare_attention(const std::vector<int32_t> &lengths, int32_t n_heads, int32_t n_heads_kv, int32_t n_dims,
                       bool causal, int32_t n_threads, int32_t n_rounds) {
    return Layer(lengths, {n_heads, n_heads_kv, n_dims}, causal, n_threads).run(n_rounds);
}

} // namespace

void bind_attention(py::module_ &m) {
    m.def("compare_attention", &compare_attention, py::arg("lengths"), py::arg("n_heads"), py::arg("n_heads_kv"),
          py::arg("n_dims"), py::arg("causal"), py::arg("n_threads"), py::arg("n_rounds"));
}
