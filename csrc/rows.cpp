#include "rows.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

namespace gge {
namespace {

// Eight sums side by side, which compilers turn into vectors.
double dot(const float *a, const float *b, size_t n) noexcept {
    std::array<double, 8> sums{};
    size_t i = 0;
    for (; i + sums.size() <= n; i += sums.size()) {
        for (size_t k = 0; k < sums.size(); ++k) {
            sums[k] += static_cast<double>(a[i + k]) * static_cast<double>(b[i + k]);
        }
    }
    double sum = 0.0;
    for (; i < n; ++i) {
        sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return std::accumulate(sums.begin(), sums.end(), sum);
}

// Adds rows to sums, in their order.
template <size_t n_rows> void add_rows(double *sums, const float *rows, size_t n_embd) noexcept {
    for (size_t i = 0; i < n_embd; ++i) {
        double sum = sums[i];
        for (size_t r = 0; r < n_rows; ++r) {
            sum += static_cast<double>(rows[r * n_embd + i]);
        }
        sums[i] = sum;
    }
}

} // namespace

Pooler::Pooler(gge_pooling pooling, size_t n_embd) : pooling_(pooling), n_embd_(n_embd), row_(n_embd) {
    if (pooling == GGE_POOLING_MEAN) {
        sum_.resize(n_embd);
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
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4) { // a sum is read and written once for four rows
            add_rows<4>(sum_.data(), rows + r * n_embd_, n_embd_);
        }
        for (; r < n_rows; ++r) {
            add_rows<1>(sum_.data(), rows + r * n_embd_, n_embd_);
        }
    } else if (pooling_ == GGE_POOLING_LAST) {
        std::copy_n(rows + (n_rows - 1) * n_embd_, n_embd_, row_.begin());
    } else if (n_rows_ == 0) {
        std::copy_n(rows, n_embd_, row_.begin());
    }
    n_rows_ += n_rows;
}

const float *Pooler::finish() noexcept {
    if (pooling_ == GGE_POOLING_MEAN) {
        const double scale = 1.0 / static_cast<double>(n_rows_);
        for (size_t i = 0; i < n_embd_; ++i) {
            row_[i] = static_cast<float>(sum_[i] * scale);
        }
    }
    return row_.data();
}

bool all_finite(const float *row, size_t n) noexcept {
    int n_bad = 0; // counted to the end, which compilers turn into vectors
    for (size_t i = 0; i < n; ++i) {
        n_bad += std::isfinite(row[i]) ? 0 : 1;
    }
    return n_bad == 0;
}

void normalize(const float *row, size_t n, float *out) noexcept {
    const double sum = dot(row, row, n);
    const double scale = sum > 0.0 ? 1.0 / std::sqrt(sum) : 1.0;
    for (size_t i = 0; i < n; ++i) {
        out[i] = static_cast<float>(static_cast<double>(row[i]) * scale);
    }
}

size_t element_bytes(gge_output_type type) noexcept {
    return type == GGE_OUTPUT_FLOAT32 ? 4 : type == GGE_OUTPUT_FLOAT16 ? 2 : 1;
}

size_t n_elements(gge_output_type type, size_t n) noexcept {
    return type == GGE_OUTPUT_BINARY || type == GGE_OUTPUT_UBINARY ? (n + 7) / 8 : n;
}

namespace {

constexpr uint16_t half_nan = 0x7E00;

// IEEE 754 binary32 -> binary16, to nearest, ties to even.
uint16_t to_half(float value) noexcept {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
    const uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) {
        return sign | half_nan;
    }
    if (magnitude >= 0x47800000U) { // 65536 and more
        return sign | 0x7C00U;
    }
    const auto round = [](uint32_t mantissa, uint32_t n_dropped) {
        const uint32_t half = 1U << (n_dropped - 1);
        return (mantissa + half - 1 + (mantissa >> n_dropped & 1U)) >> n_dropped;
    };
    if (magnitude >= 0x38800000U) { // 2^-14: normal; a carry out of the mantissa belongs in the exponent
        return sign | static_cast<uint16_t>(round(magnitude - 0x38000000U, 13));
    }
    const uint32_t exponent = magnitude >> 23;
    if (exponent < 102) { // less than half of the smallest subnormal
        return sign;
    }
    return sign | static_cast<uint16_t>(round((magnitude & 0x7FFFFFU) | 0x800000U, 126 - exponent));
}

} // namespace

void check_out(const RowsOut &out, int64_t n_rows, gge_output_type type, size_t n) {
    const auto n_needed = static_cast<int64_t>(n_elements(type, n));
    if (out.n_rows != n_rows) {
        throw Error(GGE_E_INVALID,
                    "out has " + std::to_string(out.n_rows) + " rows, " + std::to_string(n_rows) + " are needed");
    }
    if (out.row_stride < n_needed) {
        throw Error(GGE_E_INVALID, "row_stride is " + std::to_string(out.row_stride) + ", a row has " +
                                       std::to_string(n_needed) + " elements");
    }
    if (out.data == nullptr && n_rows > 0) {
        throw Error(GGE_E_INVALID, "out is NULL");
    }
}

RowConverter::RowConverter(gge_output_type type, const float *ranges, size_t n) : type_(type), n_(n), ranges_(ranges) {
    if (type != GGE_OUTPUT_INT8 && type != GGE_OUTPUT_UINT8) {
        return;
    }
    if (ranges == nullptr) {
        throw Error(GGE_E_INVALID, "the 8-bit output types need ranges, which is NULL");
    }
    for (size_t i = 0; i < n; ++i) {
        if (!std::isfinite(ranges[n + i] - ranges[i]) || ranges[i] > ranges[n + i]) {
            throw Error(GGE_E_INVALID, "the range of value " + std::to_string(i) + " is " + std::to_string(ranges[i]) +
                                           " to " + std::to_string(ranges[n + i]) +
                                           ", it must be finite and not decreasing");
        }
    }
}

void RowConverter::convert(const float *row, void *out) const noexcept {
    auto *bytes = static_cast<unsigned char *>(out);
    switch (type_) {
    case GGE_OUTPUT_FLOAT16:
        for (size_t i = 0; i < n_; ++i) {
            const uint16_t half = to_half(row[i]);
            std::memcpy(bytes + 2 * i, &half, sizeof(half));
        }
        break;
    case GGE_OUTPUT_INT8:
    case GGE_OUTPUT_UINT8: to_bytes(row, bytes); break;
    case GGE_OUTPUT_BINARY:
    case GGE_OUTPUT_UBINARY: {
        const unsigned char flip = type_ == GGE_OUTPUT_BINARY ? 0x80 : 0; // minus 128
        for (size_t b = 0; b < n_elements(type_, n_); ++b) {
            unsigned bits = 0;
            for (size_t i = 8 * b; i < std::min(8 * b + 8, n_); ++i) {
                bits |= (row[i] > 0.0F ? 1U : 0U) << (7 - i % 8);
            }
            bytes[b] = static_cast<unsigned char>(bits ^ flip);
        }
        break;
    }
    default: std::memcpy(out, row, n_ * sizeof(float)); break;
    }
}

// The operations and their order are those of numpy's float32 arithmetic in quantize_embeddings.
void RowConverter::to_bytes(const float *row, unsigned char *out) const noexcept {
    const unsigned char flip = type_ == GGE_OUTPUT_INT8 ? 0x80 : 0; // minus 128
    for (size_t i = 0; i < n_; ++i) {
        const float min = ranges_[i];
        const float step = (ranges_[n_ + i] - min) / 255.0F;
        const float value = std::floor((row[i] - min) / (step == 0.0F ? 1.0F : step));
        const float clamped = std::min(std::max(value, 0.0F), 255.0F);
        out[i] = static_cast<unsigned char>(static_cast<unsigned char>(clamped) ^ flip);
    }
}

void RowConverter::fill_failed(void *out) const noexcept {
    if (type_ == GGE_OUTPUT_FLOAT32) {
        std::fill_n(static_cast<float *>(out), n_, std::numeric_limits<float>::quiet_NaN());
    } else if (type_ == GGE_OUTPUT_FLOAT16) {
        std::fill_n(static_cast<uint16_t *>(out), n_, half_nan);
    } else {
        std::memset(out, 0, n_elements(type_, n_));
    }
}

void convert_rows(const RowsIn &rows, int64_t width, gge_output_type type, const float *ranges, const RowsOut &out) {
    if (rows.n_rows < 0 || width < 1 || rows.row_stride < width) {
        throw Error(GGE_E_INVALID, "rows have n_rows " + std::to_string(rows.n_rows) + ", width " +
                                       std::to_string(width) + " and row_stride " + std::to_string(rows.row_stride));
    }
    if (rows.data == nullptr && rows.n_rows > 0) {
        throw Error(GGE_E_INVALID, "rows is NULL");
    }
    const auto n = static_cast<size_t>(width);
    check_out(out, rows.n_rows, type, n);
    const RowConverter converter(type, ranges, n);
    const auto stride = out.row_stride * static_cast<int64_t>(element_bytes(type));
    for (int64_t i = 0; i < rows.n_rows; ++i) {
        const float *row = rows.data + i * rows.row_stride;
        void *to = static_cast<char *>(out.data) + i * stride;
        const bool keeps_nan = type == GGE_OUTPUT_FLOAT32 || type == GGE_OUTPUT_FLOAT16;
        if (keeps_nan || all_finite(row, n)) {
            converter.convert(row, to);
        } else {
            converter.fill_failed(to);
        }
    }
}

RowWriter::RowWriter(const RowFormat &format)
    : format_(format), converter_(format.type, format.ranges, format.n_out), row_(format.n_out) {}

bool RowWriter::write(const float *row, void *out) {
    const RowFormat &f = format_;
    const float *values = row;
    if (f.projection != nullptr) {
        for (size_t p = 0; p < f.n_out; ++p) {
            const double bias = f.projection_bias == nullptr ? 0.0 : static_cast<double>(f.projection_bias[p]);
            row_[p] = static_cast<float>(bias + dot(f.projection + p * f.n_embd, row, f.n_embd));
        }
        values = row_.data();
    }
    if (!all_finite(values, f.n_out)) {
        fill_failed(out);
        return false;
    }
    if (f.normalize) {
        normalize(values, f.n_out, row_.data());
        values = row_.data();
    }
    converter_.convert(values, out);
    return true;
}

} // namespace gge
