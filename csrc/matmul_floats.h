// Products in float, for any kind of vectors. Weights lie in panels of n_vectors vectors of rows, of each value of a row
// beside those of the other rows, in the type that they have in the file; they become floats when they are read. One
// panel meets as many tokens as the registers hold sums of; one to three tokens meet several panels.
//
// Isa has the vectors. All results are the same to the last bit.
#pragma once

#include "matmul_tiles.h"

#include <immintrin.h>

#include <cstring>

namespace gge {
namespace { // each file that includes this is compiled for a CPU of its own

// As a type of weights is held.
struct Half {
    uint16_t bits;
};
struct Bfloat {
    uint16_t bits;
};

template <typename Isa, typename Weight> struct FloatProducts {
    using Floats = typename Isa::Floats;
    static constexpr size_t n_vectors = Isa::n_vectors;
    static constexpr size_t n_panel = n_vectors * Isa::width; // rows of the weights
    static constexpr size_t n_tokens = Isa::n_float_tokens;
    static constexpr size_t line = 64; // bytes

    static size_t panel_size(size_t n_in) { return n_in * n_panel * sizeof(Weight); }
    // An odd number of lines, so that the tokens of a tile do not all fall into the same places of the cache.
    static size_t input_size(size_t n_in) { return ((n_in * sizeof(float) + line - 1) / line | 1U) * line; }
    static void convert(const float *row, size_t n_in, void *input) { std::memcpy(input, row, n_in * sizeof *row); }

    static void pack(const void *weights, size_t n_out, size_t n_in, void *packed) {
        constexpr size_t n_chunk = line / sizeof(Weight); // values of a row that are brought over at a time
        const auto *rows = static_cast<const Weight *>(weights);
        auto *out = static_cast<Weight *>(packed);
        for (size_t panel = 0; panel < n_out; panel += n_panel, out += n_in * n_panel) {
            for (size_t begin = 0; begin < n_in; begin += n_chunk) {
                for (size_t r = 0; r < n_panel; ++r) {
                    for (size_t k = begin; k < smaller(begin + n_chunk, n_in); ++k) {
                        out[k * n_panel + r] = panel + r < n_out ? rows[(panel + r) * n_in + k] : Weight{};
                    }
                }
            }
        }
    }

    static Floats input(const Tile &tile, size_t t, size_t k) {
        float value = 0.0F;
        std::memcpy(&value, tile.inputs + t * tile.input_size + k * sizeof value, sizeof value);
        return Isa::all(value);
    }

    template <size_t n, size_t n_panels = 1> static void multiply(const Tile &tile) {
        constexpr size_t n_sums = n_panels * n_vectors; // of a token
        Floats sums[n][n_sums];
        for (auto &sum : sums) {
            for (auto &vector : sum) {
                vector = Isa::zeros();
            }
        }
        const auto *weights = reinterpret_cast<const Weight *>(tile.panel);
        const auto weight = [&](size_t j) {
            return Isa::read(weights + j / n_vectors * tile.n_in * n_panel + j % n_vectors * Isa::width);
        };
        for (size_t k = 0; k < tile.n_in; ++k, weights += n_panel) {
            // The fewer of both stay in registers.
            if constexpr (n < n_sums) {
                Floats x[n];
#pragma GCC unroll 4
                for (size_t t = 0; t < n; ++t) {
                    x[t] = input(tile, t, k);
                }
#pragma GCC unroll 8
                for (size_t j = 0; j < n_sums; ++j) {
                    const Floats w = weight(j);
#pragma GCC unroll 4
                    for (size_t t = 0; t < n; ++t) {
                        sums[t][j] = Isa::multiply_add(w, x[t], sums[t][j]);
                    }
                }
            } else {
                Floats w[n_sums];
                for (size_t j = 0; j < n_sums; ++j) {
                    w[j] = weight(j);
                }
#pragma GCC unroll 14
                for (size_t t = 0; t < n; ++t) {
                    const Floats x = input(tile, t, k);
#pragma GCC unroll 2
                    for (size_t j = 0; j < n_sums; ++j) {
                        sums[t][j] = Isa::multiply_add(w[j], x, sums[t][j]);
                    }
                }
            }
        }
        for (size_t j = 0; j < n_sums && j * Isa::width < tile.n_out; ++j) {
            for (size_t t = 0; t < n; ++t) {
                Isa::store(tile.out + t * tile.out_stride + j * Isa::width, sums[t][j], tile.n_out - j * Isa::width);
            }
        }
    }
};

// Two sums of each token: eight and more are added to while none is waited for.
template <typename Isa, typename Weight> constexpr size_t enough_tokens<FloatProducts<Isa, Weight>> = 5;
template <typename Isa, typename Weight, size_t n>
constexpr size_t panels_at_once<FloatProducts<Isa, Weight>, n> = n == 1 ? 4 : (n < 4 ? 2 : 1);

template <typename Isa, typename Weight> constexpr MatmulKernel float_kernel() {
    using P = FloatProducts<Isa, Weight>;
    return {Isa::name, P::n_panel, packed_size<P>, P::pack, P::input_size, P::convert, multiply_tiles<P>};
}

// In the order of WeightType.
template <typename Isa>
constexpr MatmulKernel float_kernels[] = {
    float_kernel<Isa, Half>(),
    float_kernel<Isa, Bfloat>(),
    float_kernel<Isa, float>(),
    float_kernel<Isa, Half>(),
};

} // namespace
} // namespace gge
