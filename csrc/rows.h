// Token rows -> the caller's rows: pooling, projecting, cutting, scaling, converting. Pure functions on floats.
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
    // The pooled row: [n_embd], valid until the next input starts.
    const float *finish() noexcept;

private:
    gge_pooling pooling_;
    size_t n_embd_;
    size_t n_rows_ = 0;
    std::vector<double> sum_; // mean
    std::vector<float> row_;
};

bool all_finite(const float *row, size_t n) noexcept;

// Scales to unit length, computed in double precision; an all-zero row stays zero. out may be row.
void normalize(const float *row, size_t n, float *out) noexcept;

// Bytes of one element of a row: a value, or eight bits.
size_t element_bytes(gge_output_type type) noexcept;

// Elements of a row of n values.
size_t n_elements(gge_output_type type, size_t n) noexcept;

// A caller's rows of floats, and a caller's place for rows of any type. Strides count elements.
struct RowsIn {
    const float *data = nullptr;
    int64_t n_rows = 0;
    int64_t row_stride = 0;
};
struct RowsOut {
    void *data = nullptr;
    int64_t n_rows = 0;
    int64_t row_stride = 0;
};

// Throws Error unless out has that many rows, each with room for n values.
void check_out(const RowsOut &out, int64_t n_rows, gge_output_type type, size_t n);

// What a finished row of floats becomes. The definitions are at gge_output_type.
class RowConverter {
public:
    // ranges: [2, n] for the 8-bit types, borrowed; throws Error if they are missing or not usable.
    RowConverter(gge_output_type type, const float *ranges, size_t n);

    // row: [n], finite for the 8-bit types and the bits.
    void convert(const float *row, void *out) const noexcept;
    // The row of an input that failed: NaN, or 0.
    void fill_failed(void *out) const noexcept;

private:
    void to_bytes(const float *row, unsigned char *out) const noexcept;

    gge_output_type type_;
    size_t n_;
    const float *ranges_;
};

// Converts rows of width values. Throws Error.
void convert_rows(const RowsIn &rows, int64_t width, gge_output_type type, const float *ranges, const RowsOut &out);

// How pooled rows, or token rows, are brought to what the caller asked for.
struct RowFormat {
    size_t n_embd = 0;
    const float *projection = nullptr;      // [n_projection, n_embd]
    const float *projection_bias = nullptr; // [n_projection]
    size_t n_projection = 0;
    size_t n_out = 0; // values that are kept
    bool normalize = true;
    gge_output_type type = GGE_OUTPUT_FLOAT32;
    const float *ranges = nullptr; // [2, n_out]
};

// Writes rows in a format. Used by one thread at a time.
class RowWriter {
public:
    explicit RowWriter(const RowFormat &format);

    // row: [n_embd]. Returns whether all values that are kept are finite; if not, the row is written as failed.
    bool write(const float *row, void *out);
    void fill_failed(void *out) const noexcept { converter_.fill_failed(out); }

private:
    RowFormat format_;
    RowConverter converter_;
    std::vector<float> row_;
};

} // namespace gge
