// Vision towers of Qwen3-VL and Qwen2.5-VL: patches -> transformer with two-dimensional rotary positions -> merger,
// which makes one row of merge_size x merge_size patches.
#include "backend_llama_encoder.h"

#include <cmath>
#include <numeric>

namespace gge {
namespace {

constexpr int64_t n_channels = 3;
constexpr int64_t n_frames = 2; // of a pair; a still image is both

struct Cell { // of a grid of merged patches
    int64_t row;
    int64_t column;
};

class VisionEncoder : public Encoder {
public:
    VisionEncoder(std::shared_ptr<const TowerFile> file, const std::string &projector, NormKind norm, bool gated,
                  bool patch_has_bias, int32_t n_embd)
        : Encoder(std::move(file), GGE_MODALITY_VISION, projector) {
        const TowerFile &f = weights_.file();
        patch_ = f.integer("clip.vision.patch_size", 1, 256);
        merge_ = f.integer("clip.vision.spatial_merge_size", 1, 16, 2);
        transformer_ = read_transformer(weights_, "vision", "v", norm, gated, true);
        if (transformer_.n_embd / transformer_.n_head % 4 != 0) {
            f.fail(GGE_E_FORMAT, "a head has " + std::to_string(transformer_.n_embd / transformer_.n_head) +
                                     " values, positions in two dimensions need a multiple of 4");
        }
        read_patches(patch_has_bias);
        post_norm_ = read_norm(weights_, "v.post_ln", transformer_.n_embd, norm);
        const int64_t merged = transformer_.n_embd * merge_ * merge_;
        mlp1_ = read_linear(weights_, "mm.0", merged, merged);
        mlp2_ = read_linear(weights_, "mm.2", merged, check_width(f, "mm.2.weight", n_embd));

        facts_.n_embd = n_embd;
        facts_.n_layer = static_cast<int32_t>(transformer_.layers.size());
        facts_.patch_size = static_cast<int32_t>(patch_);
        facts_.merge_size = static_cast<int32_t>(merge_);
        facts_.image_mean = f.color("clip.vision.image_mean", -1000.0F);
        facts_.image_std = f.color("clip.vision.image_std", 1e-6F);
    }

    void check(const TowerInput &input) const final {
        constexpr int64_t most = 1 << 24; // patches of an image, far more than fit any memory
        const int64_t w = input.grid_width;
        const int64_t h = input.grid_height;
        if (w < 1 || h < 1 || w % merge_ != 0 || h % merge_ != 0 || w * h > most ||
            input.n_rows != w * h / (merge_ * merge_) || input.values == nullptr) {
            throw Error(GGE_E_INTERNAL, "an image has " + std::to_string(w) + " x " + std::to_string(h) +
                                            " patches and " + std::to_string(input.n_rows) +
                                            " rows, which do not fit the vision tower");
        }
    }

    TowerInput example(int64_t n_rows) const final {
        const auto side = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(n_rows))));
        TowerInput input;
        input.n_rows = side * side;
        input.grid_width = static_cast<int32_t>(side * merge_);
        input.grid_height = input.grid_width;
        return input;
    }

    int64_t n_values(const TowerInput &input) const final {
        return int64_t{input.grid_width} * input.grid_height * n_patch_values();
    }

    std::vector<int64_t> build(TowerGraph &graph, const std::vector<TowerInput> &inputs) const final {
        Packed packed = pack(inputs);
        graph.start(transformer_.layers.size(), std::max(packed.images.size(), packed.windows.size()));
        ggml_context *context = graph.context();
        const auto n = static_cast<int64_t>(packed.rows.size());

        ggml_tensor *x = graph.linear(patches_, graph.input(std::move(packed.patches), n_patch_values(), n));
        x = add_positions(graph, packed, x);
        ggml_tensor *positions = graph.input(rope_positions(packed));
        const int quarter = static_cast<int>(transformer_.n_embd / transformer_.n_head / 4);
        const TowerGraph::Rope rope = [&](ggml_tensor *y) {
            std::array<int, 4> sections = {quarter, quarter, quarter, quarter};
            return ggml_rope_multi(context, y, positions, nullptr, 2 * quarter, sections.data(), GGML_ROPE_TYPE_VISION,
                                   0, 10000.0F, 1.0F, 0.0F, 1.0F, 0.0F, 0.0F);
        };
        for (size_t i = 0; i < transformer_.layers.size(); ++i) {
            const std::vector<Run> &runs = is_windowed(i) ? packed.windows : packed.images;
            x = graph.layer(transformer_, transformer_.layers[i], runs, rope, &TowerGraph::gelu_tanh, x);
        }
        x = graph.norm(post_norm_, transformer_.eps, x);
        x = ggml_reshape_2d(context, x, transformer_.n_embd * merge_ * merge_, n / (merge_ * merge_));
        graph.finish(graph.linear(mlp2_, graph.gelu_erf(graph.linear(mlp1_, x))));
        return packed.order;
    }

protected:
    // All inputs' patches, as the transformer gets them. Inputs of equal size are neighbours.
    struct Packed {
        std::vector<float> patches;
        std::vector<int32_t> rows; // of each patch in its grid, and so on
        std::vector<int32_t> columns;
        std::vector<int32_t> heights; // of its grid
        std::vector<int32_t> widths;
        std::vector<Run> images;
        std::vector<Run> windows;
        std::vector<int64_t> order; // where the row is that stands for a cell; inputs one after the other
    };

    // The cells of a grid in the order in which the transformer gets them; appends what attends to each other where
    // is_windowed().
    virtual std::vector<Cell> order_cells(int64_t height, int64_t width, std::vector<Run> &windows) const = 0;
    virtual bool is_windowed(size_t layer) const = 0;
    virtual ggml_tensor *add_positions(TowerGraph &graph, const Packed &packed, ggml_tensor *x) const = 0;

    void read_pixel_limits(int64_t min_pixels, int64_t max_pixels) {
        read_pixel_limits("image", min_pixels, max_pixels, facts_.min_pixels, facts_.max_pixels);
    }

    void read_video_limits(int64_t min_pixels, int64_t max_pixels) {
        read_pixel_limits("video", min_pixels, max_pixels, facts_.video_min_pixels, facts_.video_max_pixels);
    }

    // The activation that the file names must be the one of the graph.
    void check_activation(const char *other) const {
        if (weights_.file().flag(std::string("clip.use_") + other, false)) {
            weights_.file().fail(GGE_E_UNSUPPORTED, std::string("clip.use_") + other + " is set, with which \"" +
                                                        facts_.projector + "\" is not known");
        }
    }

    void finish_facts() {
        facts_.n_params = weights_.n_params();
        facts_.tensor_bytes = weights_.file_bytes();
        facts_.file_bytes = weights_.file().bytes();
    }

    int64_t patch_ = 0;
    int64_t merge_ = 0;
    Transformer transformer_;

private:
    int64_t n_patch_values() const { return n_frames * n_channels * patch_ * patch_; }

    // The kernels of the two frames, joined so that one product takes both.
    void read_patches(bool has_bias) {
        const int64_t n = n_channels * patch_ * patch_;
        const int64_t n_embd = transformer_.n_embd;
        patches_.weight =
            weights_.made({"v.patch_embd.weight", "v.patch_embd.weight.1"}, {patch_, patch_, n_channels, n_embd},
                          n_frames * n, n_embd, [n, n_embd](const std::vector<std::vector<float>> &halves) {
                              std::vector<float> joined;
                              joined.reserve(2 * halves[0].size());
                              for (int64_t i = 0; i < n_embd; ++i) {
                                  for (const std::vector<float> &half : halves) {
                                      joined.insert(joined.end(), half.begin() + i * n, half.begin() + (i + 1) * n);
                                  }
                              }
                              return joined;
                          });
        patches_.bias = has_bias ? weights_.plain("v.patch_embd.bias", {n_embd}) : nullptr;
    }

    void read_pixel_limits(const std::string &kind, int64_t min_pixels, int64_t max_pixels, int64_t &least,
                           int64_t &most) const {
        constexpr int64_t limit = int64_t{1} << 40;
        const std::string keys = "clip.vision." + kind + "_";
        least = weights_.file().integer(keys + "min_pixels", 1, limit, min_pixels);
        most = weights_.file().integer(keys + "max_pixels", 1, limit, std::max(least, max_pixels));
        if (least > most) {
            weights_.file().fail(GGE_E_FORMAT, keys + "min_pixels is " + std::to_string(least) + ", more than " + keys +
                                                   "max_pixels, " + std::to_string(most));
        }
    }

    Packed pack(const std::vector<TowerInput> &inputs) const {
        std::vector<size_t> sorted(inputs.size());
        std::iota(sorted.begin(), sorted.end(), size_t{0});
        std::stable_sort(sorted.begin(), sorted.end(),
                         [&](size_t a, size_t b) { return inputs[a].n_rows > inputs[b].n_rows; });
        std::vector<int64_t> first_row(inputs.size()); // in the result
        int64_t n_rows = 0;
        for (size_t i = 0; i < inputs.size(); ++i) {
            first_row[i] = n_rows;
            n_rows += inputs[i].n_rows;
        }
        Packed packed;
        packed.order.resize(static_cast<size_t>(n_rows));
        packed.patches.reserve(static_cast<size_t>(n_rows * merge_ * merge_ * n_patch_values()));
        int64_t n_done = 0;
        for (const size_t i : sorted) {
            pack(inputs[i], packed, first_row[i], n_done);
            n_done += inputs[i].n_rows;
        }
        return packed;
    }

    void pack(const TowerInput &input, Packed &packed, int64_t first_row, int64_t n_done) const {
        add_group(packed.images, input.n_rows * merge_ * merge_);
        const int64_t width = input.grid_width / merge_;
        const int64_t n_cell_values = merge_ * merge_ * n_patch_values();
        for (const Cell &cell : order_cells(input.grid_height / merge_, width, packed.windows)) {
            const int64_t i = cell.row * width + cell.column;
            packed.patches.insert(packed.patches.end(), input.values + i * n_cell_values,
                                  input.values + (i + 1) * n_cell_values);
            packed.order[static_cast<size_t>(first_row + i)] = n_done++;
            for (int64_t j = 0; j < merge_ * merge_; ++j) {
                packed.rows.push_back(static_cast<int32_t>(cell.row * merge_ + j / merge_));
                packed.columns.push_back(static_cast<int32_t>(cell.column * merge_ + j % merge_));
                packed.heights.push_back(input.grid_height);
                packed.widths.push_back(input.grid_width);
            }
        }
    }

    // The first quarter of a head turns by the row, the second by the column; ggml wants four numbers.
    static std::vector<int32_t> rope_positions(const Packed &packed) {
        std::vector<int32_t> positions;
        for (const auto *part : {&packed.rows, &packed.columns, &packed.rows, &packed.columns}) {
            positions.insert(positions.end(), part->begin(), part->end());
        }
        return positions;
    }

    Linear patches_;
    Norm post_norm_;
    Linear mlp1_;
    Linear mlp2_;
};

// ---------------------------------------------------------------- Qwen3-VL

// Where a grid of n points meets a table of side entries, both from edge to edge.
struct Taps {
    std::array<int32_t, 2> entries;
    std::array<float, 2> weights;
};

Taps find_taps(int32_t i, int32_t n, int64_t side) {
    const float at = static_cast<float>(i) * static_cast<float>(side - 1) / static_cast<float>(std::max(n - 1, 1));
    const float below = std::floor(at);
    const auto entry = static_cast<int64_t>(below);
    const float part = at - below;
    return {{static_cast<int32_t>(std::min(entry, side - 1)), static_cast<int32_t>(std::min(entry + 1, side - 1))},
            {1.0F - part, part}};
}

class Qwen3Vision final : public VisionEncoder {
public:
    Qwen3Vision(std::shared_ptr<const TowerFile> file, const std::string &projector, int32_t n_embd)
        : VisionEncoder(check_deepstack(std::move(file)), projector, NormKind::layer, false, true, n_embd) {
        const TowerFile &f = weights_.file();
        check_activation("silu");
        const std::string name = "v.position_embd.weight";
        const std::vector<int64_t> shape = f.shape(name);
        const int64_t n = shape.size() > 1 ? shape[1] : 1;
        side_ = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(n))));
        if (side_ * side_ != n) {
            f.fail(GGE_E_FORMAT, "tensor " + name + " has " + std::to_string(n) + " positions, which are no square");
        }
        table_ = weights_.plain(name, {transformer_.n_embd, n});
        read_pixel_limits(262144, 1310720);
        read_video_limits(262144, 12845056);
        finish_facts();
    }

private:
    static std::shared_ptr<const TowerFile> check_deepstack(std::shared_ptr<const TowerFile> file) {
        const std::string key = "clip.vision.is_deepstack_layers";
        if (file->any_flag(key)) {
            file->fail(GGE_E_UNSUPPORTED, key + " names layers, models with deepstack are not known");
        }
        for (int64_t i = 0; i < gguf_get_n_tensors(file->gguf()); ++i) {
            const std::string name = gguf_get_tensor_name(file->gguf(), i);
            if (name.compare(0, 12, "v.deepstack.") == 0) {
                file->fail(GGE_E_UNSUPPORTED, "it has tensor " + name + ", models with deepstack are not known");
            }
        }
        return file;
    }

    std::vector<Cell> order_cells(int64_t height, int64_t width, std::vector<Run> &) const override {
        std::vector<Cell> cells;
        for (int64_t row = 0; row < height; ++row) {
            for (int64_t column = 0; column < width; ++column) {
                cells.push_back({row, column});
            }
        }
        return cells;
    }

    bool is_windowed(size_t) const override { return false; }

    // The table of learned positions, resized to each grid.
    ggml_tensor *add_positions(TowerGraph &graph, const Packed &packed, ggml_tensor *x) const override {
        const size_t n = packed.rows.size();
        std::array<std::vector<int32_t>, 4> entries;
        std::array<std::vector<float>, 4> shares;
        for (size_t i = 0; i < n; ++i) {
            const Taps down = find_taps(packed.rows[i], packed.heights[i], side_);
            const Taps across = find_taps(packed.columns[i], packed.widths[i], side_);
            for (size_t j = 0; j < 4; ++j) {
                entries[j].push_back(down.entries[j / 2] * static_cast<int32_t>(side_) + across.entries[j % 2]);
                shares[j].push_back(down.weights[j / 2] * across.weights[j % 2]);
            }
        }
        ggml_context *context = graph.context();
        ggml_tensor *sum = nullptr;
        for (size_t j = 0; j < 4; ++j) {
            ggml_tensor *corner = ggml_get_rows(context, table_, graph.input(std::move(entries[j])));
            corner = ggml_mul(context, corner, graph.input(std::move(shares[j]), 1, static_cast<int64_t>(n)));
            sum = sum == nullptr ? corner : ggml_add(context, sum, corner);
        }
        return ggml_add(context, x, sum);
    }

    int64_t side_ = 0;
    ggml_tensor *table_ = nullptr;
};

// ---------------------------------------------------------------- Qwen2.5-VL

class Qwen25Vision final : public VisionEncoder {
public:
    Qwen25Vision(std::shared_ptr<const TowerFile> file, const std::string &projector, int32_t n_embd)
        : VisionEncoder(std::move(file), projector, NormKind::rms, true, false, n_embd) {
        const TowerFile &f = weights_.file();
        check_activation("gelu");
        pattern_ = f.integer("clip.vision.n_wa_pattern", 0, 1024);
        constexpr int64_t window_pixels = 112;
        window_ = window_pixels / (patch_ * merge_);
        if (pattern_ > 0 && window_ < 1) {
            f.fail(GGE_E_FORMAT, "patches of " + std::to_string(patch_) + " pixels, " + std::to_string(merge_) +
                                     " of them in a row, are larger than a window of " + std::to_string(window_pixels));
        }
        read_pixel_limits(3136, 1003520);
        finish_facts();
    }

private:
    struct Window {
        int64_t row, column, height, width;
    };

    // Window by window; those of equal size are neighbours.
    std::vector<Cell> order_cells(int64_t height, int64_t width, std::vector<Run> &windows) const override {
        const int64_t step = pattern_ > 0 ? window_ : std::max(height, width);
        std::vector<Window> parts;
        for (int64_t row = 0; row < height; row += step) {
            for (int64_t column = 0; column < width; column += step) {
                parts.push_back({row, column, std::min(step, height - row), std::min(step, width - column)});
            }
        }
        std::stable_sort(parts.begin(), parts.end(),
                         [](const Window &a, const Window &b) { return a.height * a.width > b.height * b.width; });
        std::vector<Cell> cells;
        for (const Window &part : parts) {
            add_group(windows, part.height * part.width * merge_ * merge_);
            for (int64_t i = 0; i < part.height * part.width; ++i) {
                cells.push_back({part.row + i / part.width, part.column + i % part.width});
            }
        }
        return cells;
    }

    bool is_windowed(size_t layer) const override {
        return pattern_ > 0 && (static_cast<int64_t>(layer) + 1) % pattern_ != 0;
    }

    ggml_tensor *add_positions(TowerGraph &, const Packed &, ggml_tensor *x) const override { return x; }

    int64_t pattern_ = 0; // every so many layers, one attends to the whole image; 0 = all do
    int64_t window_ = 0;  // cells of a window's side
};

} // namespace

std::unique_ptr<Encoder> make_qwen3vl(std::shared_ptr<const TowerFile> file, const std::string &projector,
                                      int32_t n_embd) {
    return std::make_unique<Qwen3Vision>(std::move(file), projector, n_embd);
}

std::unique_ptr<Encoder> make_qwen25vl(std::shared_ptr<const TowerFile> file, const std::string &projector,
                                       int32_t n_embd) {
    return std::make_unique<Qwen25Vision>(std::move(file), projector, n_embd);
}

} // namespace gge
