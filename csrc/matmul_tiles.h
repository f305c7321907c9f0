// How every kernel goes through its panels and tokens: in tiles, of one panel and as many tokens as the registers hold
// sums of.
#pragma once

#include "matmul.h"

namespace gge {
namespace { // each file that includes this is compiled for a CPU of its own

struct Tile {
    const char *panel;
    const char *inputs; // of the first token
    size_t input_size;
    size_t n_in;
    float *out;
    size_t out_stride;
    size_t n_out; // rows of the weights from the first of the panel on
};

inline size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

inline size_t count_panels(size_t n_out, size_t n_panel) {
    return (n_out + n_panel - 1) / n_panel;
}

template <typename Products, size_t n> void multiply_tile(const Tile &tile, size_t n_tokens) {
    if constexpr (n > 0) {
        if (n_tokens == n) {
            Products::template multiply<n>(tile);
        } else {
            multiply_tile<Products, n - 1>(tile, n_tokens);
        }
    }
}

template <typename Products>
void multiply_tiles(const MatmulTask &task, size_t panel_begin, size_t panel_end, size_t token_begin,
                    size_t token_end) {
    Tile tile{};
    tile.input_size = Products::input_size(task.n_in);
    tile.n_in = task.n_in;
    tile.out_stride = task.out_stride;
    // Of one size, as far as they can be: few sums wait for each other.
    size_t n_left = (token_end - token_begin + Products::n_tokens - 1) / Products::n_tokens;
    for (size_t t = token_begin; n_left > 0; --n_left) {
        const size_t n = (token_end - t + n_left - 1) / n_left;
        tile.inputs = static_cast<const char *>(task.inputs) + t * tile.input_size;
        for (size_t p = panel_begin; p < panel_end; ++p) {
            tile.panel = static_cast<const char *>(task.weights) + p * Products::panel_size(task.n_in);
            tile.out = task.out + t * task.out_stride + p * Products::n_panel;
            tile.n_out = task.n_out - p * Products::n_panel;
            multiply_tile<Products, Products::n_tokens>(tile, n);
        }
        t += n;
    }
}

template <typename Products> size_t packed_size(size_t n_out, size_t n_in) {
    return count_panels(n_out, Products::n_panel) * Products::panel_size(n_in);
}

} // namespace
} // namespace gge
