// Token rows -> the caller's rows: pooling, cutting, scaling. Pure functions on floats.
#pragma once

#include "include/ggembed.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gge {

// Pools the token rows of one input, which may come in several pieces. The mean is summed in double precision, so that
// it depends neither on how the input was cut into pieces nor on its company.
class Pooler {
public:
    Pooler(gge_pooling pooling, size_t n_embd);

    void start() noexcept;
    // rows: [n_rows, n_embd], the next token rows of the input
    void add(const float *rows, size_t n_rows) noexcept;
    // Writes the first n floats of the pooled row.
    void finish(float *out, size_t n) const noexcept;

private:
    gge_pooling pooling_;
    size_t n_embd_;
    size_t n_rows_ = 0;
    std::vector<double> sum_; // mean
    std::vector<float> row_;  // cls, last
};

bool all_finite(const float *row, size_t n) noexcept;

// Scales to unit length, computed in double precision; an all-zero row stays zero.
void normalize(float *row, size_t n) noexcept;

void fill_nan(float *row, size_t n) noexcept;

} // namespace gge
