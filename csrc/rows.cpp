#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace gge {

Pooler::Pooler(gge_pooling pooling, size_t n_embd) : pooling_(pooling), n_embd_(n_embd) {
    if (pooling == GGE_POOLING_MEAN) {
        sum_.resize(n_embd);
    } else {
        row_.resize(n_embd);
    }
}

void Pooler::start() noexcept {
    n_rows_ = 0;
    std::fill(sum_.begin(), sum_.end(), 0.0);
}

void Pooler::add(const float *rows, size_t n_rows) noexcept {
    if (n_rows == 0) {
        return;
    }
    if (pooling_ == GGE_POOLING_MEAN) {
        for (size_t r = 0; r < n_rows; ++r) {
            const float *row = rows + r * n_embd_;
            for (size_t i = 0; i < n_embd_; ++i) {
                sum_[i] += static_cast<double>(row[i]);
            }
        }
    } else if (pooling_ == GGE_POOLING_LAST) {
        std::copy_n(rows + (n_rows - 1) * n_embd_, n_embd_, row_.begin());
    } else if (n_rows_ == 0) {
        std::copy_n(rows, n_embd_, row_.begin());
    }
    n_rows_ += n_rows;
}

void Pooler::finish(float *out, size_t n) const noexcept {
    if (pooling_ == GGE_POOLING_MEAN) {
        const double scale = 1.0 / static_cast<double>(n_rows_);
        for (size_t i = 0; i < n; ++i) {
            out[i] = static_cast<float>(sum_[i] * scale);
        }
    } else {
        std::copy_n(row_.begin(), n, out);
    }
}

bool all_finite(const float *row, size_t n) noexcept {
    return std::all_of(row, row + n, [](float x) { return std::isfinite(x); });
}

void normalize(float *row, size_t n) noexcept {
    double sum = 0.0;
    for (size_t i = 0; i < n; ++i) {
        sum += static_cast<double>(row[i]) * static_cast<double>(row[i]);
    }
    if (sum > 0.0) {
        const double scale = 1.0 / std::sqrt(sum);
        for (size_t i = 0; i < n; ++i) {
            row[i] = static_cast<float>(static_cast<double>(row[i]) * scale);
        }
    }
}

void fill_nan(float *row, size_t n) noexcept {
    std::fill_n(row, n, std::numeric_limits<float>::quiet_NaN());
}

} // namespace gge
