// Pillow's filter in two passes, first along the rows, then along the columns, with 8-bit values in between. A value is
// the sum of some values of the source, its taps, with weights of 22 bits behind the point. Both passes are the same
// sum over equally spaced runs of bytes: a row of pixels for the columns; for the rows, pixels of several rows that are
// brought side by side.
#include "resize.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace gge {

namespace {

std::string name(double width, double height) {
    return std::to_string(static_cast<int64_t>(width)) + " x " + std::to_string(static_cast<int64_t>(height)) +
           " pixels";
}

void check_source(const char *what, ImageSize source) {
    const auto [shorter, longer] = std::minmax(source.width, source.height);
    const std::string is = std::string(what) + " is " + name(source.width, source.height);
    if (shorter < 1) {
        throw Error(GGE_E_INVALID, is + ", both sides must be at least 1");
    }
    if (longer > max_source_side) {
        throw Error(GGE_E_INVALID, is + ", a side may have " + std::to_string(max_source_side));
    }
    if (longer > int64_t{shorter} * max_aspect_ratio) {
        throw Error(GGE_E_INVALID,
                    is + ", one side may be at most " + std::to_string(max_aspect_ratio) + " times the other");
    }
}

ImageSize checked_target(const char *what, ImageSize source, int32_t n_frames, double width, double height) {
    if (3.0 * width * height * n_frames > static_cast<double>(max_target_bytes)) {
        throw Error(GGE_E_INVALID, std::string(what) + " of " + name(source.width, source.height) +
                                       (n_frames > 1 ? " and " + std::to_string(n_frames) + " frames" : "") +
                                       " would become one of " + name(width, height) + ", more than " +
                                       std::to_string(max_target_bytes) + " bytes");
    }
    return {static_cast<int32_t>(width), static_cast<int32_t>(height)};
}

// height, width: of the source; t_counted x sides is compared with the limits, t_scaled x sides is scaled to them.
ImageSize fit(const char *what, ImageSize source, double width, double height, int32_t t_counted, int32_t t_scaled,
              const SizeRule &rule) {
    const double factor = rule.factor;
    double w = std::nearbyint(width / factor) * factor; // ties to even
    double h = std::nearbyint(height / factor) * factor;
    const double volume = t_counted * w * h;
    const double source_volume = t_scaled * width * height;
    const auto min_pixels = static_cast<double>(rule.min_pixels);
    const auto max_pixels = static_cast<double>(rule.max_pixels);
    if (volume > max_pixels) {
        const double beta = std::sqrt(source_volume / max_pixels);
        w = std::floor(width / beta / factor) * factor;
        h = std::floor(height / beta / factor) * factor;
    } else if (volume < min_pixels) {
        const double beta = std::sqrt(min_pixels / source_volume);
        w = std::ceil(width * beta / factor) * factor;
        h = std::ceil(height * beta / factor) * factor;
    }
    return checked_target(what, source, t_counted, std::max(w, factor), std::max(h, factor));
}

} // namespace

// The rule of Qwen2-VL's image processor in transformers 5.23.0.
ImageSize image_size(ImageSize source, const SizeRule &rule) {
    check_source("image", source);
    return fit("image", source, source.width, source.height, 1, 1, rule);
}

// The rule of Qwen3-VL's video processor in transformers 5.23.0, but for these: an odd number of frames counts as the
// next even one (there: Python's round of half of it, so that 5 frames count as 4), one frame is a video too, and the
// aspect ratio is that of the frame before a short side is scaled up to the factor.
ImageSize video_size(ImageSize source, int32_t n_frames, const SizeRule &rule) {
    check_source("video frame", source);
    if (n_frames < 1) {
        throw Error(GGE_E_INVALID, "video has " + std::to_string(n_frames) + " frames, it needs at least 1");
    }
    if (n_frames > max_video_frames) {
        throw Error(GGE_E_INVALID, "video has " + std::to_string(n_frames) + " frames, the limit is " +
                                       std::to_string(max_video_frames));
    }
    double width = source.width;
    double height = source.height;
    if (std::min(width, height) < rule.factor) {
        const double scale = std::max(rule.factor / height, rule.factor / width);
        width = std::floor(width * scale);
        height = std::floor(height * scale);
    }
    return fit("video", source, width, height, n_frames + n_frames % 2, n_frames, rule);
}

namespace {

constexpr int32_t weight_bits = 22;

// Which values of the source make value i of the target: n[i] from first[i] on, with weights [i * n_max ...].
struct Taps {
    int32_t n_max = 0;
    std::vector<int32_t> first;
    std::vector<int32_t> n;
    std::vector<int32_t> weights;

    const int32_t *weights_of(size_t i) const { return weights.data() + i * static_cast<size_t>(n_max); }
};

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    }
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

int32_t fixed_point(double weight) {
    const double scaled = weight * (1 << weight_bits);
    return static_cast<int32_t>(std::trunc(scaled + std::copysign(0.5, scaled)));
}

Taps taps(int32_t n_source, int32_t n_target) {
    const double scale = static_cast<double>(n_source) / n_target;
    const double stretch = std::max(scale, 1.0); // shrinking takes a wider filter
    const double support = 2.0 * stretch;
    Taps t;
    t.n_max = static_cast<int32_t>(std::ceil(support)) * 2 + 1;
    t.first.reserve(static_cast<size_t>(n_target));
    t.n.reserve(static_cast<size_t>(n_target));
    t.weights.resize(static_cast<size_t>(n_target) * static_cast<size_t>(t.n_max));
    std::vector<double> weights(static_cast<size_t>(t.n_max));
    for (int32_t i = 0; i < n_target; ++i) {
        const double center = (i + 0.5) * scale;
        const int32_t first = std::max(static_cast<int32_t>(std::floor(center - support + 0.5)), 0);
        const int32_t n = std::min(static_cast<int32_t>(std::floor(center + support + 0.5)), n_source) - first;
        double sum = 0.0;
        for (int32_t k = 0; k < n; ++k) {
            const double weight = bicubic((k + first - center + 0.5) * (1.0 / stretch));
            weights[static_cast<size_t>(k)] = weight;
            sum += weight;
        }
        int32_t *fixed = t.weights.data() + static_cast<size_t>(i) * static_cast<size_t>(t.n_max);
        std::transform(weights.begin(), weights.begin() + n, fixed,
                       [sum](double w) { return fixed_point(sum == 0.0 ? w : w / sum); });
        t.first.push_back(first);
        t.n.push_back(n);
    }
    return t;
}

// out: [N], sums of n runs of N bytes that lie stride apart
template <size_t N>
void weigh_run(const uint8_t *source, size_t stride, const int32_t *weights, int32_t n, uint8_t *out) {
    std::array<int32_t, N> sums;
    sums.fill(1 << (weight_bits - 1)); // one half
    for (int32_t k = 0; k < n; ++k) {
        const int32_t weight = weights[k];
        for (size_t i = 0; i < N; ++i) {
            sums[i] += weight * source[i];
        }
        source += stride;
    }
    for (size_t i = 0; i < N; ++i) {
        out[i] = static_cast<uint8_t>(std::clamp(sums[i] >> weight_bits, 0, 255));
    }
}

// The same for runs of any length.
void weigh(const uint8_t *source, size_t stride, const int32_t *weights, int32_t n, uint8_t *out, size_t length) {
    constexpr size_t step = 32;
    if (length < step) {
        for (size_t i = 0; i < length; ++i) {
            weigh_run<1>(source + i, stride, weights, n, out + i);
        }
        return;
    }
    for (size_t i = 0; i + step < length; i += step) {
        weigh_run<step>(source + i, stride, weights, n, out + i);
    }
    const size_t last = length - step; // what is left, and some of what is done
    weigh_run<step>(source + last, stride, weights, n, out + last);
}

std::vector<uint8_t> packed(const Pixels &pixels) {
    const size_t bytes = static_cast<size_t>(pixels.width) * 3;
    std::vector<uint8_t> out(bytes * static_cast<size_t>(pixels.height));
    for (int32_t y = 0; y < pixels.height; ++y) {
        std::copy_n(pixels.data + y * pixels.row_bytes, bytes, out.data() + static_cast<size_t>(y) * bytes);
    }
    return out;
}

// [pixels.height, width, 3]
std::vector<uint8_t> resize_rows(const Pixels &pixels, int32_t width) {
    constexpr int32_t n_together = 32; // rows
    constexpr size_t column_bytes = size_t{3} * n_together;
    const Taps t = taps(pixels.width, width);
    const size_t out_bytes = static_cast<size_t>(width) * 3;
    std::vector<uint8_t> out(out_bytes * static_cast<size_t>(pixels.height));
    std::vector<uint8_t> columns(column_bytes * static_cast<size_t>(pixels.width));
    for (int32_t y = 0; y < pixels.height; y += n_together) {
        const auto n = static_cast<size_t>(std::min(n_together, pixels.height - y));
        const auto row_bytes = static_cast<size_t>(pixels.row_bytes);
        const uint8_t *rows = pixels.data + static_cast<size_t>(y) * row_bytes;
        for (size_t x = 0; x < static_cast<size_t>(pixels.width); ++x) {
            for (size_t i = 0; i < n; ++i) {
                std::copy_n(rows + i * row_bytes + 3 * x, 3, columns.data() + x * column_bytes + 3 * i);
            }
        }
        uint8_t *out_rows = out.data() + static_cast<size_t>(y) * out_bytes;
        for (size_t x = 0; x < static_cast<size_t>(width); ++x) {
            std::array<uint8_t, column_bytes> column;
            weigh(columns.data() + static_cast<size_t>(t.first[x]) * column_bytes, column_bytes, t.weights_of(x),
                  t.n[x], column.data(), column_bytes);
            for (size_t i = 0; i < n; ++i) {
                std::copy_n(column.data() + 3 * i, 3, out_rows + i * out_bytes + 3 * x);
            }
        }
    }
    return out;
}

// [height, pixels.width, 3]
std::vector<uint8_t> resize_columns(const Pixels &pixels, int32_t height) {
    if (height == pixels.height) {
        return packed(pixels);
    }
    const Taps t = taps(pixels.height, height);
    const size_t out_bytes = static_cast<size_t>(pixels.width) * 3;
    std::vector<uint8_t> out(out_bytes * static_cast<size_t>(height));
    for (size_t y = 0; y < static_cast<size_t>(height); ++y) {
        weigh(pixels.data + t.first[y] * pixels.row_bytes, static_cast<size_t>(pixels.row_bytes), t.weights_of(y),
              t.n[y], out.data() + y * out_bytes, out_bytes);
    }
    return out;
}

Pixels view(const std::vector<uint8_t> &packed, int32_t width, int32_t height) {
    return {packed.data(), width, height, int64_t{3} * width};
}

} // namespace

std::vector<uint8_t> resize_bicubic(const Pixels &pixels, ImageSize size) {
    if (size.width == pixels.width) {
        return resize_columns(pixels, size.height);
    }
    if (size.height == pixels.height) {
        return resize_rows(pixels, size.width);
    }
    // Pillow 13 begins with the columns of an image that loses much more of its height than of its width; before, it
    // always began with the rows. That changes some values by one or two.
    if (size.height < pixels.height && pixels.height - size.height > 2 * (pixels.width - size.width)) {
        const std::vector<uint8_t> between = resize_columns(pixels, size.height);
        return resize_rows(view(between, pixels.width, size.height), size.width);
    }
    const std::vector<uint8_t> between = resize_rows(pixels, size.width);
    return resize_columns(view(between, size.width, pixels.height), size.height);
}

} // namespace gge
