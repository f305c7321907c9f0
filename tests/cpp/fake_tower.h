// A tower without weights. The rows of an input are
//     [ sum of its values, its number of rows, index of the row, 1 for vision or 2 for audio ]
// so that tests can tell from a row which input made it.
#pragma once

#include "backend.h"

#include <chrono>
#include <limits>
#include <mutex>
#include <numeric>
#include <thread>

namespace fake {

constexpr int32_t n_tower_embd = 4;

// What the sessions of a tower did, and how they misbehave. Shared with the test.
struct TowerLog {
    std::mutex mutex;
    std::vector<std::vector<int64_t>> passes;                // n_rows of each input
    int64_t n_rows_limit = 1 << 20;                          // a pass with more rows fails with GGE_E_MEMORY
    float nan_sum = std::numeric_limits<float>::quiet_NaN(); // inputs with that sum have NaN for rows
    bool is_slow = false;                                    // runs until it is aborted
    bool slow_started = false;

    std::vector<std::vector<int64_t>> get_passes() {
        const std::lock_guard<std::mutex> lock(mutex);
        return passes;
    }
};

// Cells of 4 x 4 pixels; images of 4 to 64 cells, videos of up to 128 in all frames.
inline gge::TowerFacts vision_facts() {
    gge::TowerFacts facts;
    facts.modality = GGE_MODALITY_VISION;
    facts.path = "fake-vision.gguf";
    facts.projector = "qwen3vl_merger";
    facts.n_embd = n_tower_embd;
    facts.n_layer = 1;
    facts.patch_size = 2;
    facts.merge_size = 2;
    facts.image_mean = {0.5F, 0.5F, 0.5F};
    facts.image_std = {0.5F, 0.5F, 0.5F};
    facts.min_pixels = 4 * 16;
    facts.max_pixels = 64 * 16;
    facts.video_min_pixels = 4 * 16;
    facts.video_max_pixels = 128 * 16;
    return facts;
}

inline gge::TowerFacts audio_facts() {
    gge::TowerFacts facts;
    facts.modality = GGE_MODALITY_AUDIO;
    facts.path = "fake-audio.gguf";
    facts.projector = "qwen2.5o";
    facts.n_embd = n_tower_embd;
    facts.n_layer = 1;
    facts.n_mel_bins = 8;
    facts.n_window = 100;
    return facts;
}

// Values that TowerInput.values has.
inline size_t n_values(const gge::TowerFacts &facts, const gge::TowerInput &input) {
    if (facts.modality == GGE_MODALITY_AUDIO) {
        return static_cast<size_t>(facts.n_mel_bins) * static_cast<size_t>(input.n_frames);
    }
    const auto patch = static_cast<size_t>(facts.patch_size);
    return static_cast<size_t>(input.grid_width) * static_cast<size_t>(input.grid_height) * 2 * 3 * patch * patch;
}

// Rows that a tower makes of an input of that shape.
inline int64_t n_rows(const gge::TowerFacts &facts, const gge::TowerInput &input) {
    if (facts.modality == GGE_MODALITY_AUDIO) {
        return (input.n_frames + 1) / 4;
    }
    const int64_t n_patches = static_cast<int64_t>(input.grid_width) * input.grid_height;
    return n_patches / (static_cast<int64_t>(facts.merge_size) * facts.merge_size);
}

class TowerSession final : public gge::TowerSession {
public:
    TowerSession(gge::TowerFacts facts, TowerLog &log) : facts_(std::move(facts)), log_(log) {}

    gge_memory memory() const override { return {}; }

    const float *compute(const std::vector<gge::TowerInput> &inputs, const std::atomic<bool> &abort) override {
        const float nan_sum = start(inputs);
        wait_if_slow(abort);
        rows_.clear();
        for (const gge::TowerInput &input : inputs) {
            const double exact = std::accumulate(input.values, input.values + n_values(facts_, input), 0.0);
            const auto sum = static_cast<float>(exact);
            const float first = sum == nan_sum ? std::numeric_limits<float>::quiet_NaN() : sum;
            for (int64_t i = 0; i < input.n_rows; ++i) {
                rows_.insert(rows_.end(), {first, static_cast<float>(input.n_rows), static_cast<float>(i),
                                           facts_.modality == GGE_MODALITY_VISION ? 1.0F : 2.0F});
            }
        }
        return rows_.data();
    }

private:
    float start(const std::vector<gge::TowerInput> &inputs) {
        std::vector<int64_t> pass;
        int64_t n = 0;
        for (const gge::TowerInput &input : inputs) {
            if (input.n_rows != n_rows(facts_, input)) {
                throw gge::Error(GGE_E_INTERNAL, "the number of rows is not that of the input's shape");
            }
            pass.push_back(input.n_rows);
            n += input.n_rows;
        }
        const std::lock_guard<std::mutex> lock(log_.mutex);
        log_.passes.push_back(pass);
        if (inputs.empty() || n > log_.n_rows_limit) {
            throw gge::Error(GGE_E_MEMORY, "no memory for the tower");
        }
        return log_.nan_sum;
    }

    void wait_if_slow(const std::atomic<bool> &abort) {
        {
            const std::lock_guard<std::mutex> lock(log_.mutex);
            if (!log_.is_slow) {
                return;
            }
            log_.slow_started = true;
        }
        while (!abort) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        throw gge::Error(GGE_E_ABORTED, "aborted");
    }

    gge::TowerFacts facts_;
    TowerLog &log_;
    std::vector<float> rows_;
};

class Tower final : public gge::BackendTower {
public:
    Tower(gge::TowerFacts facts, TowerLog &log) : facts_(std::move(facts)), log_(log) {}

    const gge::TowerFacts &facts() const noexcept override { return facts_; }

    std::unique_ptr<gge::TowerSession> open(int32_t, bool) const override {
        return std::make_unique<TowerSession>(facts_, log_);
    }

private:
    gge::TowerFacts facts_;
    TowerLog &log_;
};

} // namespace fake
