// Each frame is 400 windowed samples around a multiple of 160. Its spectrum comes from the transform of 200 complex
// values, the even samples with the odd ones. Frames are computed in blocks: every value below is one for each frame of
// a block, so that the inner loops run over frames.
#include "mel.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace gge {

namespace {

constexpr double pi = 3.14159265358979323846;
constexpr size_t frame_size = 400;
constexpr size_t half_size = frame_size / 2;
constexpr size_t n_frequencies = half_size + 1;
constexpr int64_t padded_size = 30 * mel_sample_rate;

constexpr size_t n_lanes = 4; // frames of a block: the transform stays in the first cache
constexpr auto hop = static_cast<size_t>(mel_hop);

using Lanes = std::array<double, n_lanes>;
using Block = std::array<double, frame_size + (n_lanes - 1) * hop>;
using Power = std::array<Lanes, n_frequencies>;

struct Complex {
    Lanes re;
    Lanes im;
};

struct Turn {
    double re;
    double im;
};

// part of a full turn, clockwise
Turn turn(size_t part, size_t full) {
    const double angle = -2.0 * pi * static_cast<double>(part % full) / static_cast<double>(full);
    return {std::cos(angle), std::sin(angle)};
}

// One of Stockham's passes: takes each of the stride transforms of n values, which lie interleaved, apart into radix
// transforms of n / radix values.
template <size_t radix, size_t n, size_t stride> class Pass {
public:
    Pass() {
        for (size_t i = 0; i < radix * radix; ++i) {
            inner_[i / radix][i % radix] = turn(i / radix * (i % radix), radix);
        }
        for (size_t i = 0; i < n; ++i) {
            outer_[i / radix][i % radix] = turn(i / radix * (i % radix), n);
        }
    }

    void run(const Complex *in, Complex *out) const {
        for (size_t part = 0; part < n_parts; ++part) {
            for (size_t q = 0; q < stride; ++q) {
                for (size_t j = 0; j < radix; ++j) {
                    out[stride * (radix * part + j) + q] =
                        times(sum(in + stride * part + q, inner_[j]), outer_[part][j]);
                }
            }
        }
    }

private:
    static constexpr size_t n_parts = n / radix;
    using Turns = std::array<Turn, radix>;

    static Complex times(const Complex &value, const Turn &by) {
        Complex product;
        for (size_t i = 0; i < n_lanes; ++i) {
            product.re[i] = value.re[i] * by.re - value.im[i] * by.im;
            product.im[i] = value.re[i] * by.im + value.im[i] * by.re;
        }
        return product;
    }

    static Complex sum(const Complex *in, const Turns &by) {
        Complex total = *in;
        for (size_t k = 1; k < radix; ++k) {
            const Complex product = times(in[k * stride * n_parts], by[k]);
            for (size_t i = 0; i < n_lanes; ++i) {
                total.re[i] += product.re[i];
                total.im[i] += product.im[i];
            }
        }
        return total;
    }

    std::array<Turns, radix> inner_;
    std::array<Turns, n_parts> outer_;
};

// Power spectra of the frames of a block.
class Spectrum {
public:
    Spectrum() {
        for (size_t i = 0; i < frame_size; ++i) { // Hann, periodic
            window_[i] = 0.5 - 0.5 * std::cos(2.0 * pi * static_cast<double>(i) / static_cast<double>(frame_size));
        }
        for (size_t k = 0; k < n_frequencies; ++k) {
            turns_[k] = turn(k, frame_size);
        }
    }

    const Power &of(const Block &samples) {
        for (size_t k = 0; k < half_size; ++k) {
            for (size_t i = 0; i < n_lanes; ++i) {
                values_[k].re[i] = samples[i * hop + 2 * k] * window_[2 * k];
                values_[k].im[i] = samples[i * hop + 2 * k + 1] * window_[2 * k + 1];
            }
        }
        fives_.run(values_.data(), scratch_.data());
        next_fives_.run(scratch_.data(), values_.data());
        fours_.run(values_.data(), scratch_.data());
        twos_.run(scratch_.data(), values_.data());
        for (size_t k = 0; k < n_frequencies; ++k) {
            take_apart(values_[k % half_size], values_[(half_size - k) % half_size], turns_[k], power_[k]);
        }
        return power_;
    }

private:
    // at and mirrored hold the sum of the spectra of the even samples and of i times the odd ones.
    static void take_apart(const Complex &at, const Complex &mirrored, const Turn &by, Lanes &power) {
        for (size_t i = 0; i < n_lanes; ++i) {
            const double even_re = 0.5 * (at.re[i] + mirrored.re[i]);
            const double even_im = 0.5 * (at.im[i] - mirrored.im[i]);
            const double odd_re = 0.5 * (at.im[i] + mirrored.im[i]);
            const double odd_im = 0.5 * (mirrored.re[i] - at.re[i]);
            const double re = even_re + odd_re * by.re - odd_im * by.im;
            const double im = even_im + odd_re * by.im + odd_im * by.re;
            power[i] = re * re + im * im;
        }
    }

    std::array<double, frame_size> window_;
    std::array<Turn, n_frequencies> turns_;
    Pass<5, 200, 1> fives_;
    Pass<5, 40, 5> next_fives_;
    Pass<4, 8, 25> fours_;
    Pass<2, 2, 100> twos_;
    std::array<Complex, half_size> values_;
    std::array<Complex, half_size> scratch_;
    Power power_;
};

// Slaney's scale: even steps up to 1000 Hz, even ratios from there on.
double mel_of(double hertz) {
    return hertz < 1000.0 ? 3.0 * hertz / 200.0 : 15.0 + std::log(hertz / 1000.0) * 27.0 / std::log(6.4);
}

double hertz_of(double mel) {
    return mel < 15.0 ? 200.0 * mel / 3.0 : 1000.0 * std::exp((mel - 15.0) * std::log(6.4) / 27.0);
}

// Triangles between 0 and 8000 Hz, evenly spaced on the scale, each of the same area.
class MelFilters {
public:
    explicit MelFilters(size_t n_bins) : filters_(n_bins) {
        std::vector<double> corners(n_bins + 2);
        for (size_t b = 0; b < corners.size(); ++b) {
            corners[b] = hertz_of(mel_of(8000.0) * static_cast<double>(b) / static_cast<double>(n_bins + 1));
        }
        for (size_t b = 0; b < n_bins; ++b) {
            filters_[b] = triangle(corners[b], corners[b + 1], corners[b + 2]);
        }
    }

    Lanes apply(size_t bin, const Power &power) const {
        const Filter &filter = filters_[bin];
        Lanes sum{};
        for (size_t k = 0; k < filter.weights.size(); ++k) {
            for (size_t i = 0; i < n_lanes; ++i) {
                sum[i] += filter.weights[k] * power[filter.first + k][i];
            }
        }
        return sum;
    }

private:
    struct Filter {
        size_t first = 0;
        std::vector<double> weights;
    };

    static Filter triangle(double from, double top, double to) {
        Filter filter;
        for (size_t k = 0; k < n_frequencies; ++k) {
            const double hertz = 8000.0 * static_cast<double>(k) / static_cast<double>(half_size);
            const double weight = std::min((hertz - from) / (top - from), (to - hertz) / (to - top));
            if (weight > 0.0) {
                filter.first = filter.weights.empty() ? k : filter.first;
                filter.weights.push_back(weight * 2.0 / (to - from));
            }
        }
        return filter;
    }

    std::vector<Filter> filters_;
};

// The samples with padding around them.
class Signal {
public:
    Signal(const float *samples, int64_t n) : samples_(samples), n_(n), size_(std::max(n, padded_size)) {
        for (int64_t i = 0; i < n; ++i) {
            divisor_ = std::max(divisor_, std::abs(finite(samples[i])));
        }
    }

    void read(int64_t begin, Block &out) const {
        const auto end = begin + static_cast<int64_t>(out.size());
        if (begin >= 0 && end <= n_) {
            std::transform(samples_ + begin, samples_ + end, out.begin(), [this](float x) { return scaled(x); });
            return;
        }
        for (size_t i = 0; i < out.size(); ++i) {
            out[i] = at(begin + static_cast<int64_t>(i));
        }
    }

private:
    static float finite(float x) { return std::isfinite(x) ? x : 0.0F; }
    double scaled(float x) const { return static_cast<double>(finite(x) / divisor_); }

    // Zeros after the samples, mirrored at both ends of all.
    double at(int64_t i) const {
        i = std::abs(i);
        i = i < size_ ? i : 2 * (size_ - 1) - i;
        return i < n_ ? scaled(samples_[i]) : 0.0;
    }

    const float *samples_;
    int64_t n_;
    int64_t size_;
    float divisor_ = 1.0F;
};

} // namespace

void check_n_samples(int64_t n_samples) {
    const int64_t ms = n_samples / (mel_sample_rate / 1000);
    if (ms < min_audio_ms) {
        throw Error(GGE_E_INVALID, "audio has " + std::to_string(std::max<int64_t>(ms, 0)) + " ms, it needs at least " +
                                       std::to_string(min_audio_ms) + " ms");
    }
    if (ms > max_audio_ms) {
        throw Error(GGE_E_INVALID, "audio has " + std::to_string(ms) + " ms, the limit is " +
                                       std::to_string(max_audio_ms) + " ms, a day");
    }
}

std::vector<float> log_mel(const float *samples, int64_t n, int32_t n_bins) {
    const auto bins = static_cast<size_t>(n_bins);
    const auto n_frames = static_cast<size_t>(n_mel_frames(n));
    // Those over which the loudest value is sought: up to the last sample and what is left of it in the two frames
    // after it, but not the last one, which the feature extractor drops.
    const size_t n_sought =
        static_cast<size_t>(n < padded_size ? std::min(n_mel_frames(n) + 2, padded_size / mel_hop) : n / mel_hop);
    const Signal signal(samples, n);
    const MelFilters filters(bins);
    Spectrum spectrum;
    Block block;
    std::vector<float> out(bins * n_frames);
    float loudest = -10.0F;
    for (size_t frame = 0; frame < std::max(n_frames, n_sought); frame += n_lanes) {
        signal.read(static_cast<int64_t>(frame * hop) - static_cast<int64_t>(half_size), block);
        const Power &power = spectrum.of(block);
        for (size_t bin = 0; bin < bins; ++bin) {
            const Lanes mel = filters.apply(bin, power);
            for (size_t i = 0; i < n_lanes; ++i) {
                const float value = std::log10(std::max(static_cast<float>(mel[i]), 1e-10F));
                loudest = frame + i < n_sought ? std::max(loudest, value) : loudest;
                if (frame + i < n_frames) {
                    out[bin * n_frames + frame + i] = value;
                }
            }
        }
    }
    for (float &value : out) {
        value = (std::max(value, loudest - 8.0F) + 4.0F) / 4.0F;
    }
    return out;
}

} // namespace gge
