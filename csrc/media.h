// Images, videos and sound in the form that a tower takes, and how many rows it makes of them.
#pragma once

#include "model.h"
#include "resize.h"

#include <memory>
#include <string>
#include <vector>

namespace gge {

// What a tower sees at once: an image, a pair of frames, or a sound.
struct MediaUnit {
    int64_t n_rows = 0;
    int32_t rows_wide = 0; // vision: the rows of an image lie in a grid, one line after the other
    int32_t rows_high = 0;
    double seconds = 0.0; // vision: when a pair of frames is shown
    std::array<std::vector<uint8_t>, 2>
        frames;             // vision: RGB8 at the tower's size; an empty second one is the first again
    std::vector<float> mel; // audio: [n_mel_bins, n_frames]
    int64_t n_frames = 0;   // audio
};

class Media {
public:
    static std::shared_ptr<Media> image(const Model &model, const Pixels &pixels, const MediaOptions &options);

    // seconds: [n_frames] or NULL
    static std::shared_ptr<Media> video(const Model &model, int32_t n_frames, int32_t width, int32_t height,
                                        const double *seconds, const MediaOptions &options);
    static std::shared_ptr<Media> audio(const Model &model, const float *samples, int64_t n_samples,
                                        const MediaOptions &options);

    // width and height of the pixels are those that were announced. Changes nothing when it throws.
    void add_frame(const Pixels &pixels);

    gge_modality modality() const noexcept { return tower_.modality; }
    bool is_video() const noexcept { return is_video_; }
    bool complete() const noexcept { return n_missing_ == 0; }
    const std::vector<MediaUnit> &units() const noexcept { return units_; }
    int64_t n_rows() const noexcept;
    int32_t width() const noexcept { return size_.width; } // pixels that the tower sees, 0 for audio
    int32_t height() const noexcept { return size_.height; }
    int64_t n_frames() const noexcept { return n_frames_; }
    // The tower that it was made for: media only go with models whose tower takes the same.
    const TowerFacts &tower() const noexcept { return tower_; }

private:
    Media(const Model &model, gge_modality modality);
    void announce(ImageSize source, ImageSize target, int32_t n_frames);

    TowerFacts tower_;
    bool is_video_ = false;
    ImageSize source_;
    ImageSize size_;
    int64_t n_frames_ = 0;
    int64_t n_missing_ = 0; // frames that are still to come
    std::vector<MediaUnit> units_;
};

// The tower of a model, of one of its copies, for a modality. Throws Error if there is none.
const BackendTower &tower_for(const Model &model, gge_modality modality, size_t copy = 0);

// Values that TowerInput.values wants for a unit, where the unit does not hold them as they are.
size_t n_tower_values(const TowerFacts &tower, const MediaUnit &unit);

// Fills them in, and the rest of the input, which needs both as long as it lives. values: [n_tower_values]
TowerInput tower_input(const TowerFacts &tower, const MediaUnit &unit, float *values);

} // namespace gge
