#include "media.h"

namespace gge {

std::shared_ptr<Media> Media::image(const Model &model, const Pixels &, const MediaOptions &) {
    tower_for(model, GGE_MODALITY_VISION);
    throw Error(GGE_E_UNSUPPORTED, "images are not built yet");
}

std::shared_ptr<Media> Media::video(const Model &model, int32_t, int32_t, int32_t, const double *,
                                    const MediaOptions &) {
    tower_for(model, GGE_MODALITY_VISION);
    throw Error(GGE_E_UNSUPPORTED, "video is not built yet");
}

std::shared_ptr<Media> Media::audio(const Model &model, const float *, int64_t, const MediaOptions &) {
    tower_for(model, GGE_MODALITY_AUDIO);
    throw Error(GGE_E_UNSUPPORTED, "audio is not built yet");
}

void Media::add_frame(const Pixels &) {
    --n_missing_;
}

int64_t Media::n_rows() const noexcept {
    int64_t n = 0;
    for (const MediaUnit &unit : units_) {
        n += unit.n_rows;
    }
    return n;
}

const BackendTower &tower_for(const Model &model, gge_modality modality) {
    for (const auto &tower : model.backend().towers()) {
        if (tower->facts().modality == modality) {
            return *tower;
        }
    }
    const std::string kind = modality == GGE_MODALITY_VISION ? "vision" : "audio";
    throw Error(GGE_E_UNSUPPORTED, "the model was loaded without a projector for " + kind);
}

size_t n_tower_values(const TowerFacts &, const MediaUnit &) {
    return 0;
}

TowerInput tower_input(const TowerFacts &, const MediaUnit &unit, float *values) {
    TowerInput input;
    input.n_rows = unit.n_rows;
    input.values = values;
    return input;
}

} // namespace gge
