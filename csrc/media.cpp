#include "media.h"

#include "mel.h"

#include <cmath>

namespace gge {

namespace {

constexpr double default_frame_rate = 24.0; // that of transformers for frames without times

int32_t cell_side(const TowerFacts &tower) {
    return tower.patch_size * tower.merge_size;
}

// A limit of the caller takes the tower's other one along.
SizeRule size_rule(const TowerFacts &tower, int64_t min_pixels, int64_t max_pixels, const MediaOptions &options) {
    SizeRule rule{cell_side(tower), min_pixels, max_pixels};
    if (options.min_pixels > 0) {
        rule.min_pixels = options.min_pixels;
        rule.max_pixels = std::max(rule.max_pixels, rule.min_pixels);
    }
    if (options.max_pixels > 0) {
        rule.max_pixels = options.max_pixels;
        rule.min_pixels = std::min(rule.min_pixels, rule.max_pixels);
    }
    if (options.max_pixels > 0 && options.min_pixels > options.max_pixels) {
        throw Error(GGE_E_INVALID, "min_pixels is " + std::to_string(options.min_pixels) + ", max_pixels only " +
                                       std::to_string(options.max_pixels));
    }
    return rule;
}

void check_pixels(const Pixels &pixels) {
    if (pixels.data == nullptr) {
        throw Error(GGE_E_INVALID, "pixels is NULL");
    }
    const int64_t needed = int64_t{3} * pixels.width;
    const std::string is = "row_bytes is " + std::to_string(pixels.row_bytes);
    if (pixels.row_bytes < needed) {
        throw Error(GGE_E_INVALID,
                    is + ", a row of " + std::to_string(pixels.width) + " pixels has " + std::to_string(needed));
    }
    if (pixels.row_bytes > INT64_MAX / pixels.height) {
        throw Error(GGE_E_INVALID, is + ", too much for " + std::to_string(pixels.height) + " rows");
    }
}

// When frame i of a video is shown.
double time_of(const double *seconds, int64_t i) {
    return seconds == nullptr ? static_cast<double>(i) / default_frame_rate : seconds[i];
}

void check_seconds(const double *seconds, int64_t n) {
    constexpr double most = 1e9; // some 30 years, with which a time is still a short text
    for (int64_t i = 0; seconds != nullptr && i < n; ++i) {
        const std::string of = "seconds[" + std::to_string(i) + "] is " + std::to_string(seconds[i]);
        if (!(seconds[i] >= 0.0 && seconds[i] <= most)) { // NaN is neither
            throw Error(GGE_E_INVALID, of + ", allowed are 0 to 1e9");
        }
        if (i > 0 && seconds[i] < seconds[i - 1]) {
            throw Error(GGE_E_INVALID, of + ", less than that of the frame before, " + std::to_string(seconds[i - 1]));
        }
    }
}

} // namespace

Media::Media(const Model &model, gge_modality modality) : tower_(tower_for(model, modality).facts()) {}

void Media::announce(ImageSize source, ImageSize target, int32_t n_frames) {
    source_ = source;
    size_ = target;
    n_frames_ = n_frames;
    n_missing_ = n_frames;
    units_.resize(static_cast<size_t>((n_frames + 1) / 2));
    for (MediaUnit &unit : units_) {
        unit.rows_wide = target.width / cell_side(tower_);
        unit.rows_high = target.height / cell_side(tower_);
        unit.n_rows = int64_t{unit.rows_wide} * unit.rows_high;
    }
}

std::shared_ptr<Media> Media::image(const Model &model, const Pixels &pixels, const MediaOptions &options) {
    const std::shared_ptr<Media> media(new Media(model, GGE_MODALITY_VISION));
    const TowerFacts &tower = media->tower_;
    const ImageSize source{pixels.width, pixels.height};
    media->announce(source, image_size(source, size_rule(tower, tower.min_pixels, tower.max_pixels, options)), 1);
    media->add_frame(pixels);
    return media;
}

std::shared_ptr<Media> Media::video(const Model &model, int32_t n_frames, int32_t width, int32_t height,
                                    const double *seconds, const MediaOptions &options) {
    const std::shared_ptr<Media> media(new Media(model, GGE_MODALITY_VISION));
    const TowerFacts &tower = media->tower_;
    if (tower.projector == "qwen2.5vl_merger") {
        throw Error(GGE_E_UNSUPPORTED, "the model's vision tower (" + tower.projector + ") takes images, but no video");
    }
    const ImageSize source{width, height};
    const SizeRule rule = size_rule(tower, tower.video_min_pixels, tower.video_max_pixels, options);
    const ImageSize target = video_size(source, n_frames, rule);
    check_seconds(seconds, n_frames);
    media->is_video_ = true;
    media->announce(source, target, n_frames);
    for (int64_t i = 0; i < n_frames; i += 2) {
        const int64_t last = std::min<int64_t>(i + 1, n_frames - 1);
        media->units_[static_cast<size_t>(i / 2)].seconds = (time_of(seconds, i) + time_of(seconds, last)) / 2.0;
    }
    return media;
}

std::shared_ptr<Media> Media::audio(const Model &model, const float *samples, int64_t n_samples, const MediaOptions &) {
    const std::shared_ptr<Media> media(new Media(model, GGE_MODALITY_AUDIO));
    check_n_samples(n_samples);
    if (samples == nullptr) {
        throw Error(GGE_E_INVALID, "samples is NULL");
    }
    MediaUnit unit;
    unit.n_frames = n_mel_frames(n_samples);
    unit.n_rows = (unit.n_frames + 1) / 4;
    unit.mel = log_mel(samples, n_samples, media->tower_.n_mel_bins);
    media->n_frames_ = unit.n_frames;
    media->units_.push_back(std::move(unit));
    return media;
}

void Media::add_frame(const Pixels &pixels) {
    if (modality() != GGE_MODALITY_VISION) {
        throw Error(GGE_E_INVALID, "a sound takes no frames");
    }
    if (n_missing_ == 0) {
        throw Error(GGE_E_INVALID, is_video_ ? "the video has all of its " + std::to_string(n_frames_) + " frames"
                                             : "an image takes no further frames");
    }
    Pixels frame = pixels;
    frame.width = source_.width;
    frame.height = source_.height;
    check_pixels(frame);
    const auto i = static_cast<size_t>(n_frames_ - n_missing_);
    units_[i / 2].frames[i % 2] = resize_bicubic(frame, size_);
    --n_missing_;
}

int64_t Media::n_rows() const noexcept {
    int64_t n = 0;
    for (const MediaUnit &unit : units_) {
        n += unit.n_rows;
    }
    return n;
}

const BackendTower &tower_for(const Model &model, gge_modality modality, size_t copy) {
    for (const auto &tower : model.backend(copy).towers()) {
        if (tower->facts().modality == modality) {
            return *tower;
        }
    }
    const std::string kind = modality == GGE_MODALITY_VISION ? "vision" : "audio";
    throw Error(GGE_E_UNSUPPORTED, "the model was loaded without a projector for " + kind);
}

namespace {

// What a tower sees of a value of a channel: in steps of single precision, as transformers takes them.
using Channels = std::array<std::array<float, 256>, 3>;

Channels normalized(const TowerFacts &tower) {
    Channels values;
    for (size_t c = 0; c < 3; ++c) {
        for (size_t v = 0; v < 256; ++v) {
            const auto rescaled = static_cast<float>(static_cast<double>(v) * (1.0 / 255.0));
            values[c][v] = (rescaled - tower.image_mean[c]) / tower.image_std[c];
        }
    }
    return values;
}

// One frame of one patch: [3, side, side] from side rows of pixels.
void write_patch(const Channels &channels, const uint8_t *pixels, size_t row_bytes, size_t side, float *out) {
    for (const auto &values : channels) {
        for (size_t y = 0; y < side; ++y) {
            const uint8_t *row = pixels + y * row_bytes;
            for (size_t x = 0; x < side; ++x) {
                *out++ = values[row[3 * x]];
            }
        }
        ++pixels; // the next channel
    }
}

// Calls visit with the pixel (x, y) at which each patch begins, in the order of the tower's input.
template <typename Visit> void for_each_patch(const TowerFacts &tower, const MediaUnit &unit, const Visit &visit) {
    const auto merge = static_cast<size_t>(tower.merge_size);
    const auto side = static_cast<size_t>(tower.patch_size);
    for (size_t cell_y = 0; cell_y < static_cast<size_t>(unit.rows_high); ++cell_y) {
        for (size_t cell_x = 0; cell_x < static_cast<size_t>(unit.rows_wide); ++cell_x) {
            for (size_t i = 0; i < merge * merge; ++i) {
                visit((cell_x * merge + i % merge) * side, (cell_y * merge + i / merge) * side);
            }
        }
    }
}

void write_patches(const TowerFacts &tower, const MediaUnit &unit, float *values) {
    const auto side = static_cast<size_t>(tower.patch_size);
    const size_t row_bytes = 3 * static_cast<size_t>(cell_side(tower)) * static_cast<size_t>(unit.rows_wide);
    const size_t n = 3 * side * side;
    const Channels channels = normalized(tower);
    const bool still = unit.frames[1].empty();
    for_each_patch(tower, unit, [&](size_t x, size_t y) {
        const size_t begin = y * row_bytes + 3 * x;
        write_patch(channels, unit.frames[0].data() + begin, row_bytes, side, values);
        if (still) {
            std::copy_n(values, n, values + n);
        } else {
            write_patch(channels, unit.frames[1].data() + begin, row_bytes, side, values + n);
        }
        values += 2 * n;
    });
}

} // namespace

size_t n_tower_values(const TowerFacts &tower, const MediaUnit &unit) {
    if (tower.modality == GGE_MODALITY_AUDIO) {
        return 0;
    }
    const auto side = static_cast<size_t>(cell_side(tower));
    return static_cast<size_t>(unit.n_rows) * side * side * 3 * 2;
}

TowerInput tower_input(const TowerFacts &tower, const MediaUnit &unit, float *values) {
    TowerInput input;
    input.n_rows = unit.n_rows;
    if (tower.modality == GGE_MODALITY_AUDIO) {
        input.n_frames = unit.n_frames;
        input.values = unit.mel.data();
        return input;
    }
    input.grid_width = unit.rows_wide * tower.merge_size;
    input.grid_height = unit.rows_high * tower.merge_size;
    write_patches(tower, unit, values);
    input.values = values;
    return input;
}

} // namespace gge
