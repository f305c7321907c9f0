#include "check.h"
#include "mel.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace gge;

namespace {

std::vector<float> tone(double hertz, int64_t n) {
    std::vector<float> samples(static_cast<size_t>(n));
    for (size_t i = 0; i < samples.size(); ++i) {
        samples[i] = static_cast<float>(std::sin(2.0 * 3.14159265358979 * hertz * static_cast<double>(i) / 16000.0));
    }
    return samples;
}

std::vector<float> log_mel_of(const std::vector<float> &samples, int32_t n_bins) {
    return log_mel(samples.data(), static_cast<int64_t>(samples.size()), n_bins);
}

// The loudest bin of a frame.
size_t loudest(const std::vector<float> &mel, size_t n_bins, size_t frame) {
    const size_t n_frames = mel.size() / n_bins;
    size_t best = 0;
    for (size_t bin = 1; bin < n_bins; ++bin) {
        best = mel[bin * n_frames + frame] > mel[best * n_frames + frame] ? bin : best;
    }
    return best;
}

} // namespace

TEST(frames_are_counted_up) {
    CHECK_EQ(n_mel_frames(480), 3);
    CHECK_EQ(n_mel_frames(481), 4);
    CHECK_EQ(n_mel_frames(480000), 3000);
    CHECK_EQ(n_mel_frames(480001), 3001);
}

TEST(length_is_limited_on_both_sides) {
    check_n_samples(480);
    check_n_samples(86400LL * 16000);
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, check_n_samples(479)), "audio has 29 ms, it needs at least 30 ms");
    CHECK_THROWS(GGE_E_INVALID, check_n_samples(0));
    CHECK_THROWS(GGE_E_INVALID, check_n_samples(INT64_MIN));
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, check_n_samples(86400LL * 16000 + 16)),
             "audio has 86400001 ms, the limit is 86400000 ms, a day");
    CHECK_THROWS(GGE_E_INVALID, check_n_samples(INT64_MAX));
}

TEST(silence_is_the_floor) {
    for (const float value : log_mel_of(std::vector<float>(1000), 8)) {
        CHECK_EQ(value, -1.5F);
    }
}

TEST(a_tone_is_loudest_in_its_bin) {
    const std::vector<float> low = log_mel_of(tone(300.0, 8000), 80);
    const std::vector<float> high = log_mel_of(tone(5900.0, 8000), 80);
    CHECK_EQ(loudest(low, 80, 25), 7U); // 37.2 Hz apart
    CHECK_EQ(loudest(high, 80, 25), 72U);
}

TEST(any_number_of_bins_is_finite) {
    for (const int32_t n_bins : {1, 2, 8, 80, 128, 400}) {
        const std::vector<float> mel = log_mel_of(tone(440.0, 700), n_bins);
        CHECK_EQ(mel.size(), static_cast<size_t>(n_bins) * 5);
        CHECK(std::all_of(mel.begin(), mel.end(), [](float x) { return std::isfinite(x); }));
    }
}

TEST(values_that_are_not_numbers_are_silence) {
    std::vector<float> bad = tone(440.0, 480);
    std::vector<float> silent = bad;
    const float infinity = std::numeric_limits<float>::infinity();
    bad[7] = infinity;
    bad[8] = -infinity;
    bad[9] = std::numeric_limits<float>::quiet_NaN();
    silent[7] = silent[8] = silent[9] = 0.0F;
    CHECK(log_mel_of(bad, 8) == log_mel_of(silent, 8));
}

TEST(the_largest_values_do_not_overflow) {
    std::vector<float> loud = tone(440.0, 480);
    std::vector<float> largest = loud;
    const float peak = *std::max_element(loud.begin(), loud.end());
    for (size_t i = 0; i < loud.size(); ++i) {
        loud[i] /= peak;
        largest[i] = loud[i] * std::numeric_limits<float>::max();
    }
    const std::vector<float> expected = log_mel_of(loud, 8);
    const std::vector<float> mel = log_mel_of(largest, 8);
    for (size_t i = 0; i < mel.size(); ++i) {
        CHECK(std::abs(mel[i] - expected[i]) < 1e-5F);
    }
}

TEST(what_comes_after_the_kept_frames_counts_for_the_loudest) {
    std::vector<float> samples(1600 - 10, 1e-3F); // 10 frames, the last sample lies in two frames beyond
    const std::vector<float> quiet = log_mel_of(samples, 8);
    samples.back() = 1.0F;
    const std::vector<float> clicked = log_mel_of(samples, 8);
    CHECK_EQ(clicked.size(), 80U);
    CHECK(*std::min_element(clicked.begin(), clicked.end()) > *std::min_element(quiet.begin(), quiet.end()));
}

TEST(thirty_seconds_are_no_seam) {
    for (const int64_t n : {479840LL, 479841LL, 479999LL, 480000LL, 480001LL, 480160LL, 480161LL}) {
        const std::vector<float> mel = log_mel_of(tone(440.0, n), 4);
        const auto n_frames = static_cast<size_t>(n_mel_frames(n));
        CHECK_EQ(mel.size(), 4 * n_frames);
        CHECK(std::abs(mel[1000] - mel[2900]) < 1e-4F);
    }
}
