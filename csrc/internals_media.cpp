// Sizes, resizing, mel spectrograms for tests in Python.
#include "internals.h"
#include "media.h"
#include "mel.h"
#include "resize.h"

namespace py = pybind11;

namespace {

using Image = py::array_t<uint8_t, py::array::c_style>; // [height, width, 3]

gge::Pixels view(const Image &image) {
    if (image.ndim() != 3 || image.shape(2) != 3) {
        throw py::value_error("an image is (height, width, 3)");
    }
    return {image.data(), static_cast<int32_t>(image.shape(1)), static_cast<int32_t>(image.shape(0)),
            static_cast<int64_t>(image.shape(1)) * 3};
}

// (height, width), as transformers has it
auto image_size(int32_t height, int32_t width, int32_t factor, int64_t min_pixels, int64_t max_pixels) {
    const gge::ImageSize size = gge::image_size({width, height}, {factor, min_pixels, max_pixels});
    return std::make_pair(size.height, size.width);
}

auto video_size(int32_t n_frames, int32_t height, int32_t width, int32_t factor, int64_t min_pixels,
                int64_t max_pixels) {
    const gge::ImageSize size = gge::video_size({width, height}, n_frames, {factor, min_pixels, max_pixels});
    return std::make_pair(size.height, size.width);
}

Image resize(const Image &image, int32_t height, int32_t width) {
    const gge::Pixels pixels = view(image);
    std::vector<uint8_t> values;
    {
        const py::gil_scoped_release released;
        values = gge::resize_bicubic(pixels, {width, height});
    }
    return Image({height, width, 3}, values.data());
}

// [n_bins, n_frames]
auto log_mel(const py::array_t<float, py::array::c_style> &samples, int32_t n_bins) {
    if (samples.size() == 0) {
        throw py::value_error("there are no samples");
    }
    std::vector<float> values;
    {
        const py::gil_scoped_release released;
        values = gge::log_mel(samples.data(), samples.size(), n_bins);
    }
    const auto n_frames = static_cast<int64_t>(values.size()) / n_bins;
    return py::array_t<float>({int64_t{n_bins}, n_frames}, values.data());
}

// [n_patches, 2 * 3 * patch_size * patch_size] of one or two frames whose sides are multiples of the cells'
auto patches(const std::vector<Image> &frames, int32_t patch_size, int32_t merge_size, const std::array<float, 3> &mean,
             const std::array<float, 3> &std) {
    gge::TowerFacts tower;
    tower.patch_size = patch_size;
    tower.merge_size = merge_size;
    tower.image_mean = mean;
    tower.image_std = std;
    gge::MediaUnit unit;
    for (size_t i = 0; i < frames.size(); ++i) {
        const gge::Pixels pixels = view(frames[i]);
        unit.rows_wide = pixels.width / (patch_size * merge_size);
        unit.rows_high = pixels.height / (patch_size * merge_size);
        unit.frames.at(i).assign(pixels.data, pixels.data + frames[i].size());
    }
    unit.n_rows = int64_t{unit.rows_wide} * unit.rows_high;
    const int64_t n_patches = unit.n_rows * merge_size * merge_size;
    py::array_t<float> values({n_patches, int64_t{6} * patch_size * patch_size});
    if (static_cast<size_t>(values.size()) != gge::n_tower_values(tower, unit)) {
        throw std::logic_error("the number of values is not that of the patches");
    }
    gge::tower_input(tower, unit, values.mutable_data());
    return values;
}

} // namespace

void bind_media(py::module_ &m) {
    m.def("image_size", image_size);
    m.def("video_size", video_size);
    m.def("resize", resize);
    m.def("check_n_samples", gge::check_n_samples);
    m.def("log_mel", log_mel);
    m.def("patches", patches);
}
