// Vocabularies, towers and media for inputs of several parts over the fake model.
#pragma once

#include "fake_backend.h"
#include "fake_tower.h"
#include "parts.h"

namespace fake {

constexpr int32_t vision_start = 10;
constexpr int32_t vision_end = 11;
constexpr int32_t audio_start = 12;
constexpr int32_t audio_end = 13;
constexpr int32_t im_start = 14;

// As of jina-embeddings-v5-omni-small.
inline void small(Model &model) {
    model.known_special = {{"<|vision_start|>", vision_start},
                           {"<|audio_start|>", audio_start},
                           {"<|vision_end|>", vision_end},
                           {"<|audio_end|>", audio_end},
                           {"<|im_start|>", im_start}};
}

// As of jina-embeddings-v5-omni-nano: nothing around images, and a token that ends every input.
inline void nano(Model &model) {
    model.facts().architecture = "eurobert";
    model.facts().attention = gge::Attention::bidirectional;
    model.facts().has_cache = false;
    model.facts().pooling = GGE_POOLING_LAST;
    model.facts().token_eos = 9;
    model.known_special = {{"<|audio_start|>", audio_start}, {"<|audio_end|>", audio_end}};
}

// As of jina-embeddings-v4.
inline void v4(Model &model) {
    small(model);
    model.facts().architecture = "qwen2vl";
    model.facts().has_mrope = true;
    model.facts().pooling = GGE_POOLING_MEAN;
}

inline void add_towers(Model &model, TowerLog &log) {
    model.known_towers.push_back(std::make_unique<Tower>(vision_facts(), log));
    model.known_towers.push_back(std::make_unique<Tower>(audio_facts(), log));
}

// An image of one grey, that many cells wide and high.
inline std::shared_ptr<const gge::Media> image(const gge::Model &model, int32_t cells_wide, int32_t cells_high,
                                               uint8_t grey = 0) {
    const int32_t width = 4 * cells_wide;
    const int32_t height = 4 * cells_high;
    const std::vector<uint8_t> pixels(static_cast<size_t>(3 * width * height), grey);
    return gge::Media::image(model, {pixels.data(), width, height, 3 * int64_t{width}}, {});
}

// A black video of 2 x 2 cells.
inline std::shared_ptr<const gge::Media> video(const gge::Model &model, const std::vector<double> &seconds) {
    const std::vector<uint8_t> pixels(3 * 8 * 8);
    const auto media = gge::Media::video(model, static_cast<int32_t>(seconds.size()), 8, 8, seconds.data(), {});
    for (size_t i = 0; i < seconds.size(); ++i) {
        media->add_frame({pixels.data(), 8, 8, 24});
    }
    return media;
}

// A quarter of a second of silence for every 6 rows.
inline std::shared_ptr<const gge::Media> sound(const gge::Model &model, int64_t n_samples) {
    const std::vector<float> samples(static_cast<size_t>(n_samples));
    return gge::Media::audio(model, samples.data(), n_samples, {});
}

inline gge::InputPart text(std::string_view text) {
    return {GGE_PART_TEXT, text, nullptr};
}

inline gge::InputPart own_text(std::string_view text) {
    return {GGE_PART_TEMPLATE, text, nullptr};
}

inline gge::InputPart medium(std::shared_ptr<const gge::Media> media) {
    return {GGE_PART_MEDIA, {}, std::move(media)};
}

using Inputs = std::vector<std::vector<gge::InputPart>>;

inline gge::Tokens tokenize(const std::shared_ptr<const gge::Model> &model, const Inputs &inputs,
                            const gge::TokenizeOptions &options = {}) {
    std::vector<gge::InputPart> parts;
    std::vector<int64_t> offsets = {0};
    for (const auto &input : inputs) {
        parts.insert(parts.end(), input.begin(), input.end());
        offsets.push_back(static_cast<int64_t>(parts.size()));
    }
    return gge::tokenize_parts(model, parts, offsets, options);
}

} // namespace fake
