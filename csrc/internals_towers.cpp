// Towers of projector files for tests in Python.
#include "backend_llama_towers.h"
#include "internals.h"

#include <algorithm>

namespace py = pybind11;

namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;

// One tower of a projector file, on the CPU.
class Tower {
public:
    Tower(const std::string &path, int32_t n_embd, const std::string &modality, int32_t n_threads, bool mmap) {
        const auto devices = gge::llama_devices();
        const auto wanted = modality == "audio" ? GGE_MODALITY_AUDIO : GGE_MODALITY_VISION;
        gge::LoadOptions options;
        options.mmproj = {path};
        options.mmap = mmap;
        for (auto &tower : gge::load_towers(options, devices.back(), n_embd)) {
            if (tower->facts().modality == wanted) {
                tower_ = std::move(tower);
            }
        }
        if (!tower_) {
            throw py::value_error(path + " has no " + modality + " tower");
        }
        session_ = tower_->open(n_threads, false);
    }

    py::dict facts() const {
        const gge::TowerFacts &f = tower_->facts();
        py::dict d;
        d["projector"] = f.projector;
        d["name"] = f.name;
        d["n_embd"] = f.n_embd;
        d["n_layer"] = f.n_layer;
        d["patch_size"] = f.patch_size;
        d["merge_size"] = f.merge_size;
        d["image_mean"] = f.image_mean;
        d["image_std"] = f.image_std;
        d["min_pixels"] = f.min_pixels;
        d["max_pixels"] = f.max_pixels;
        d["video_min_pixels"] = f.video_min_pixels;
        d["video_max_pixels"] = f.video_max_pixels;
        d["n_mel_bins"] = f.n_mel_bins;
        d["n_window"] = f.n_window;
        d["n_params"] = f.n_params;
        d["tensor_bytes"] = f.tensor_bytes;
        d["file_bytes"] = f.file_bytes;
        return d;
    }

    py::dict memory() const {
        const gge_memory m = session_->memory();
        py::dict d;
        d["weights_host"] = m.weights_host;
        d["compute_host"] = m.compute_host;
        d["output_host"] = m.output_host;
        return d;
    }

    // images: (patches across, patches down, values of the patches)
    std::vector<Array> vision(const std::vector<std::tuple<int32_t, int32_t, Array>> &images) {
        const int32_t merge = std::max(tower_->facts().merge_size, 1);
        std::vector<gge::TowerInput> inputs;
        for (const auto &[width, height, values] : images) {
            gge::TowerInput &input = inputs.emplace_back();
            input.n_rows = int64_t{width} * height / (merge * merge);
            input.grid_width = width;
            input.grid_height = height;
            input.values = values.data();
        }
        return compute(inputs);
    }

    // mels: [n_mel, n_frames] each
    std::vector<Array> audio(const std::vector<Array> &mels) {
        std::vector<gge::TowerInput> inputs;
        for (const Array &mel : mels) {
            gge::TowerInput &input = inputs.emplace_back();
            input.n_frames = mel.shape(1);
            input.n_rows = (input.n_frames + 1) / 4;
            input.values = mel.data();
        }
        return compute(inputs);
    }

    // The call that runs, or else the next one, finds its abort flag set.
    void stop() { abort_ = true; }

private:
    std::vector<Array> compute(const std::vector<gge::TowerInput> &inputs) {
        const float *rows = nullptr;
        try {
            const py::gil_scoped_release unlocked;
            rows = session_->compute(inputs, abort_);
        } catch (...) {
            abort_ = false;
            throw;
        }
        std::vector<Array> results;
        const int64_t n_embd = tower_->facts().n_embd;
        for (const gge::TowerInput &input : inputs) {
            Array &result = results.emplace_back(std::vector<py::ssize_t>{input.n_rows, n_embd});
            std::copy_n(rows, result.size(), result.mutable_data());
            rows += result.size();
        }
        return results;
    }

    std::unique_ptr<gge::BackendTower> tower_;
    std::unique_ptr<gge::TowerSession> session_;
    std::atomic<bool> abort_{false};
};

} // namespace

void bind_towers(py::module_ &m) {
    py::class_<Tower>(m, "Tower")
        .def(py::init<const std::string &, int32_t, const std::string &, int32_t, bool>(), py::arg("path"),
             py::arg("n_embd"), py::arg("modality"), py::arg("n_threads") = 1, py::arg("mmap") = true)
        .def_property_readonly("facts", &Tower::facts)
        .def("memory", &Tower::memory)
        .def("stop", &Tower::stop)
        .def("vision", &Tower::vision, py::arg("images"))
        .def("audio", &Tower::audio, py::arg("mels"));
}
