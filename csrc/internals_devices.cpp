// Fake GPUs for tests in Python, in a process of their own: they stay.
#include "fake_gpu.h"
#include "internals.h"

namespace py = pybind11;

void bind_devices(py::module_ &m) {
    m.def("add_gpus", &fake_gpu::add, py::arg("memory"));
    m.def("gpus", [] {
        py::list found;
        for (size_t i = 0; i < fake_gpu::n_gpus; ++i) {
            const fake_gpu::Gpu &gpu = fake_gpu::gpus.at(i);
            py::dict counts;
            counts["used"] = gpu.used.load();
            counts["n_asked"] = gpu.n_asked.load();
            counts["n_backends"] = gpu.n_backends.load();
            counts["n_graphs"] = gpu.n_graphs.load();
            counts["n_captures"] = gpu.n_captures.load();
            found.append(counts);
        }
        return found;
    });
}
