// The log-mel spectrogram of Whisper's feature extractor. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gge {

constexpr int64_t mel_sample_rate = 16000;
constexpr int64_t mel_hop = 160;
constexpr int64_t min_audio_ms = 30;                           // fewer frames make no row
constexpr int64_t max_audio_ms = int64_t{24} * 60 * 60 * 1000; // a day

// Throws Error if a sound is too short or too long.
void check_n_samples(int64_t n_samples);

// Frames that hold samples, not only padding.
constexpr int64_t n_mel_frames(int64_t n_samples) {
    return (n_samples + mel_hop - 1) / mel_hop;
}

// [n_bins, n_mel_frames(n)], the first frames of WhisperFeatureExtractor's for samples that are padded to 30 seconds;
// longer ones are not cut. Samples that are not finite count as 0, and all are divided by the largest magnitude if that
// is above 1. n: a number that check_n_samples accepts
std::vector<float> log_mel(const float *samples, int64_t n, int32_t n_bins);

} // namespace gge
