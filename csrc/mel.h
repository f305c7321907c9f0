// The log-mel spectrogram of Whisper's feature extractor. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gge {

constexpr int64_t mel_sample_rate = 16000;
constexpr int64_t mel_hop = 160;

} // namespace gge
