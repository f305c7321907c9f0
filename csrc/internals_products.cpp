// A product by our kernel beside one by llama.cpp's own, both as ops of a graph, for benchmarks and tests in Python.
#include "backend.h"
#include "backend_llama_matmul.h"
#include "internals.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>

namespace py = pybind11;

namespace {

template <auto free> struct Free {
    template <typename T> void operator()(T *p) const noexcept { free(p); }
};
template <typename T, auto free> using Handle = std::unique_ptr<T, Free<free>>;

const std::string ours = "ggembed";

ggml_type type_of(const std::string &name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = static_cast<ggml_type>(i);
        std::string known = ggml_type_name(type) == nullptr ? "" : ggml_type_name(type);
        std::transform(known.begin(), known.end(), known.begin(), [](unsigned char c) { return std::toupper(c); });
        if (known == name) {
            return type;
        }
    }
    throw std::invalid_argument("no type is called " + name);
}

std::vector<float> normal_values(int64_t n) {
    std::mt19937 random(1); // NOLINT(cert-msc32-c,cert-msc51-cpp)
    std::normal_distribution<float> normal(0.0F, 0.05F);
    std::vector<float> values(static_cast<size_t>(n));
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    return values;
}

struct Shape {
    ggml_type type;
    int64_t n_out;
    int64_t n_in;
    int64_t n_tokens;
};

// One product with weights in a buffer of one type.
class Product {
public:
    Product(const Shape &shape, ggml_backend_t cpu, ggml_backend_buffer_type_t buffer_type)
        : cpu_(cpu), context_(ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true})) {
        weights_ = ggml_new_tensor_2d(context_.get(), shape.type, shape.n_in, shape.n_out);
        weights_buffer_.reset(
            ggml_backend_buft_alloc_buffer(buffer_type, ggml_backend_buft_get_alloc_size(buffer_type, weights_)));
        ggml_backend_tensor_alloc(weights_buffer_.get(), weights_, ggml_backend_buffer_get_base(weights_buffer_.get()));
        ggml_tensor *rows = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F32, shape.n_in, shape.n_tokens);
        out_ = ggml_mul_mat(context_.get(), weights_, rows);
        graph_ = ggml_new_graph_custom(context_.get(), 4, false);
        ggml_build_forward_expand(graph_, out_);
        others_buffer_.reset(ggml_backend_alloc_ctx_tensors(context_.get(), cpu));
        const std::vector<float> values = normal_values(shape.n_in * shape.n_tokens);
        ggml_backend_tensor_set(rows, values.data(), 0, ggml_nbytes(rows));
    }

    // Whether the buffer's own kernel takes it.
    bool is_supported() const { return ggml_backend_supports_op(cpu_, out_); }

    void set(const std::vector<char> &weights) { ggml_backend_tensor_set(weights_, weights.data(), 0, weights.size()); }

    double seconds() {
        const auto start = std::chrono::steady_clock::now();
        if (ggml_backend_graph_compute(cpu_, graph_) != GGML_STATUS_SUCCESS) {
            throw std::runtime_error("the product fails");
        }
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }

    std::vector<float> values() const {
        std::vector<float> found(static_cast<size_t>(ggml_nelements(out_)));
        ggml_backend_tensor_get(out_, found.data(), 0, ggml_nbytes(out_));
        return found;
    }

private:
    ggml_backend_t cpu_;
    Handle<ggml_context, ggml_free> context_;
    ggml_tensor *weights_ = nullptr;
    ggml_tensor *out_ = nullptr;
    ggml_cgraph *graph_ = nullptr;
    Handle<ggml_backend_buffer, ggml_backend_buffer_free> weights_buffer_;
    Handle<ggml_backend_buffer, ggml_backend_buffer_free> others_buffer_;
};

// Ours that keeps all bits of F16.
bool is_for_towers(ggml_backend_buffer_type_t type) {
    return std::string(ggml_backend_buft_name(type)).rfind(ours + ",", 0) == 0;
}

// Buffers in the order in which llama.cpp tries them for weights.
std::vector<ggml_backend_buffer_type_t> buffer_types() {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    using Extra = ggml_backend_buffer_type_t *(*)(ggml_backend_dev_t);
    const auto extra = reinterpret_cast<Extra>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    std::vector<ggml_backend_buffer_type_t> types;
    for (ggml_backend_buffer_type_t *type = extra(device); *type != nullptr; ++type) {
        types.push_back(*type);
    }
    types.push_back(ggml_backend_cpu_buffer_type());
    return types;
}

// {"ggembed" and the name of llama.cpp's buffer: ([seconds], values)}, by turns; without ours if there is no kernel.
// kernel: of ours, the best if empty. There are n_rounds turns, and more until so many seconds have passed.
auto compare_products(const std::string &type, int64_t n_out, int64_t n_in, int64_t n_tokens, int32_t n_threads,
                      int32_t n_rounds, const std::string &kernel, double seconds) {
    gge::llama_devices(); // ggml must not start before our kernels are known to it
    const Shape shape{type_of(type), n_out, n_in, n_tokens};
    if (n_in % ggml_blck_size(shape.type) != 0) {
        throw std::invalid_argument("rows of " + type + " have a multiple of " +
                                    std::to_string(ggml_blck_size(shape.type)) + " values, not " +
                                    std::to_string(n_in));
    }
    const Handle<ggml_backend, ggml_backend_free> cpu(ggml_backend_cpu_init());
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    const Handle<ggml_threadpool, ggml_threadpool_free> pool(ggml_threadpool_new(&params));
    ggml_backend_cpu_set_n_threads(cpu.get(), n_threads);
    ggml_backend_cpu_set_threadpool(cpu.get(), pool.get());

    const std::vector<float> values = normal_values(n_out * n_in);
    std::vector<char> weights(ggml_row_size(shape.type, n_in) * static_cast<size_t>(n_out));
    const std::vector<float> importance(static_cast<size_t>(n_in), 1.0F);
    ggml_quantize_chunk(shape.type, values.data(), weights.data(), 0, n_out, n_in, importance.data());

    std::map<std::string, std::unique_ptr<Product>> products;
    for (ggml_backend_buffer_type_t buffer_type : buffer_types()) {
        if (is_for_towers(buffer_type)) {
            continue;
        }
        const std::string name = ggml_backend_buft_name(buffer_type);
        if (name == ours && !kernel.empty()) {
            buffer_type = gge::kernel_buffer_type(index_of_kernel(type, kernel));
        }
        auto product = std::make_unique<Product>(shape, cpu.get(), buffer_type);
        const bool has_theirs = products.size() > products.count(ours);
        if (product->is_supported() && !(has_theirs && name != ours)) {
            product->set(weights);
            products[name] = std::move(product);
        }
    }
    std::map<std::string, std::pair<std::vector<double>, std::vector<float>>> found;
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (int32_t i = 0; i < n_rounds || std::chrono::steady_clock::now() < end; ++i) {
        for (const auto &[name, product] : products) {
            found[name].first.push_back(product->seconds());
        }
    }
    for (const auto &[name, product] : products) {
        found[name].second = product->values();
    }
    return found;
}

} // namespace

void bind_products(py::module_ &m) {
    m.def("compare_products", &compare_products, py::arg("type"), py::arg("n_out"), py::arg("n_in"),
          py::arg("n_tokens"), py::arg("n_threads"), py::arg("n_rounds"), py::arg("kernel") = "",
          py::arg("seconds") = 0.0);
}
