// How every kernel goes through its panels and tokens: in tiles, of one panel and as many tokens as the registers hold
// sums of, or of some panels and few tokens.
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

// Panels that meet n tokens at once: more than one where the sums are so few that they would wait for each other.
template <typename Products, size_t n> constexpr size_t panels_at_once = 1;

// No tile has fewer tokens while there are more.
template <typename Products> constexpr size_t enough_tokens = 1;

template <typename Products, size_t n, size_t n_panels>
void multiply_panels(Tile tile, size_t panel_begin, size_t panel_end) {
    size_t p = panel_begin;
    for (; p + n_panels <= panel_end; p += n_panels) {
        if constexpr (n_panels > 1) {
            Products::template multiply<n, n_panels>(tile);
        } else {
            Products::template multiply<n>(tile);
        }
        tile.panel += n_panels * Products::panel_size(tile.n_in);
        tile.out += n_panels * Products::n_panel;
        tile.n_out -= n_panels * Products::n_panel;
    }
    if constexpr (n_panels > 1) {
        multiply_panels<Products, n, n_panels / 2>(tile, p, panel_end);
    }
}

// A tile beside all of its panels; n: as many tokens as there may be.
template <typename Products, size_t n>
void multiply_tile(const Tile &tile, size_t n_tokens, size_t panel_begin, size_t panel_end) {
    if constexpr (n > 0) {
        if (n_tokens == n) {
            multiply_panels<Products, n, panels_at_once<Products, n>>(tile, panel_begin, panel_end);
        } else {
            multiply_tile<Products, n - 1>(tile, n_tokens, panel_begin, panel_end);
        }
    }
}

template <typename Products>
void multiply_tiles(const MatmulTask &task, size_t panel_begin, size_t panel_end, size_t token_begin,
                    size_t token_end) {
    Tile tile{};
    tile.panel = static_cast<const char *>(task.weights) + panel_begin * Products::panel_size(task.n_in);
    tile.n_out = task.n_out - panel_begin * Products::n_panel;
    tile.input_size = Products::input_size(task.n_in);
    tile.n_in = task.n_in;
    tile.out_stride = task.out_stride;
    // Of one size, as far as they can be.
    size_t n_left = (token_end - token_begin + Products::n_tokens - 1) / Products::n_tokens;
    for (size_t t = token_begin; n_left > 0; --n_left) {
        const size_t n_fair = (token_end - t + n_left - 1) / n_left;
        const size_t n = smaller(n_fair < enough_tokens<Products> ? enough_tokens<Products> : n_fair, token_end - t);
        tile.inputs = static_cast<const char *>(task.inputs) + t * tile.input_size;
        tile.out = task.out + t * task.out_stride + panel_begin * Products::n_panel;
        multiply_tile<Products, Products::n_tokens>(tile, n, panel_begin, panel_end);
        t += n;
    }
}

template <typename Products> size_t packed_size(size_t n_out, size_t n_in) {
    return count_panels(n_out, Products::n_panel) * Products::panel_size(n_in);
}

} // namespace
} // namespace gge
