// The kernels for matrices, for benchmarks and tests in Python.
#include "internals.h"
#include "matmul.h"

#include <algorithm>
#include <chrono>
#include <map>

namespace py = pybind11;

namespace {

using gge::WeightType;
using Rows = py::array_t<float, py::array::c_style | py::array::forcecast>;

const std::map<std::string, WeightType> types = {
    {"Q4_0", WeightType::q4_0}, {"Q4_1", WeightType::q4_1},     {"Q5_0", WeightType::q5_0},
    {"Q5_1", WeightType::q5_1}, {"Q8_0", WeightType::q8_0},     {"Q4_K", WeightType::q4_k},
    {"Q5_K", WeightType::q5_k}, {"Q6_K", WeightType::q6_k},     {"F16", WeightType::f16},
    {"BF16", WeightType::bf16}, {"IQ4_NL", WeightType::iq4_nl}, {"IQ4_XS", WeightType::iq4_xs},
    {"F32", WeightType::f32},
};

constexpr size_t alignment = 64;

// Memory that kernels may read in whole vectors.
class Aligned {
public:
    explicit Aligned(size_t size) : bytes_(size + alignment) {}
    void *data() {
        const auto at = reinterpret_cast<uintptr_t>(bytes_.data());
        return bytes_.data() + (alignment - at % alignment) % alignment;
    }

private:
    std::vector<char> bytes_;
};

std::vector<const gge::MatmulKernel *> kernels_of(const std::string &type) {
    std::vector<const gge::MatmulKernel *> kernels;
    while (const gge::MatmulKernel *kernel = gge::matmul_kernel(types.at(type), kernels.size())) {
        kernels.push_back(kernel);
    }
    return kernels;
}

const gge::MatmulKernel *kernel_called(const std::string &type, const std::string &name) {
    return kernels_of(type)[index_of_kernel(type, name)];
}

// Weights of a type of GGUF files, packed for a kernel.
class Matmul {
public:
    Matmul(const std::string &type, const py::bytes &weights, size_t n_out, size_t n_in, const std::string &kernel)
        : kernel_(kernel_called(type, kernel)), n_out_(n_out), n_in_(n_in), packed_(kernel_->packed_size(n_out, n_in)) {
        kernel_->pack(std::string_view(weights).data(), n_out, n_in, packed_.data());
    }

    size_t n_bytes() const { return kernel_->packed_size(n_out_, n_in_); }

    // (n_tokens, n_in) -> (n_tokens, n_out), in steps of so many panels and tokens
    Rows run(const Rows &rows, size_t panel_step, size_t token_step) {
        const auto n_tokens = static_cast<size_t>(rows.shape(0));
        Rows out({static_cast<py::ssize_t>(n_tokens), static_cast<py::ssize_t>(n_out_)});
        multiply(rows, out.mutable_data(), panel_step, token_step);
        return out;
    }

    // Rows of activations as the kernel reads them: (n_tokens, input_size) bytes
    py::array_t<uint8_t> converted(const Rows &rows) const {
        py::array_t<uint8_t> out({rows.shape(0), static_cast<py::ssize_t>(kernel_->input_size(n_in_))});
        for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
            kernel_->convert(rows.data(i, 0), n_in_, out.mutable_data(i, 0));
        }
        return out;
    }

    // Seconds of each round.
    std::vector<double> seconds(const Rows &rows, size_t n_rounds) {
        std::vector<float> out(static_cast<size_t>(rows.shape(0)) * n_out_);
        std::vector<double> found;
        for (size_t i = 0; i < n_rounds; ++i) {
            const auto start = std::chrono::steady_clock::now();
            multiply(rows, out.data(), 4, out.size());
            found.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
        return found;
    }

private:
    void multiply(const Rows &rows, float *out, size_t panel_step, size_t token_step) {
        gge::MatmulTask task;
        task.n_tokens = static_cast<size_t>(rows.shape(0));
        const size_t input_size = kernel_->input_size(n_in_);
        Aligned inputs(input_size * task.n_tokens);
        for (size_t i = 0; i < task.n_tokens; ++i) {
            kernel_->convert(rows.data() + i * n_in_, n_in_, static_cast<char *>(inputs.data()) + i * input_size);
        }
        task.weights = packed_.data();
        task.n_out = n_out_;
        task.n_in = n_in_;
        task.inputs = inputs.data();
        task.out = out;
        task.out_stride = n_out_;
        const size_t n_panels = gge::n_panels(*kernel_, n_out_);
        for (size_t panel = 0; panel < n_panels; panel += panel_step) {
            for (size_t token = 0; token < task.n_tokens; token += token_step) {
                kernel_->multiply(task, panel, std::min(panel + panel_step, n_panels), token,
                                  std::min(token + token_step, task.n_tokens));
            }
        }
    }

    const gge::MatmulKernel *kernel_;
    size_t n_out_;
    size_t n_in_;
    Aligned packed_;
};

} // namespace

size_t index_of_kernel(const std::string &type, const std::string &name) {
    const std::vector<const gge::MatmulKernel *> kernels = kernels_of(type);
    const auto found = std::find_if(kernels.begin(), kernels.end(), [&](const auto *k) { return name == k->name; });
    if (found == kernels.end()) {
        throw py::value_error("this CPU has no kernel " + name + " for " + type);
    }
    return static_cast<size_t>(found - kernels.begin());
}

void bind_matmul(py::module_ &m) {
    m.def(
        "matmul_kernels", // that this CPU can run, the best first
        [](const std::string &type) {
            std::vector<std::string> names;
            for (const gge::MatmulKernel *kernel : kernels_of(type)) {
                names.emplace_back(kernel->name);
            }
            return names;
        },
        py::arg("type"));
    py::class_<Matmul>(m, "Matmul")
        .def(py::init<const std::string &, const py::bytes &, size_t, size_t, const std::string &>(), py::arg("type"),
             py::arg("weights"), py::arg("n_out"), py::arg("n_in"), py::arg("kernel"))
        .def("run", &Matmul::run, py::arg("rows"), py::arg("panel_step") = 1, py::arg("token_step") = 1000000)
        .def_property_readonly("n_bytes", &Matmul::n_bytes) // of the packed weights
        .def("converted", &Matmul::converted, py::arg("rows"))
        .def("seconds", &Matmul::seconds, py::arg("rows"), py::arg("n_rounds"));
}
