// Softmax over tiles of keys with a running maximum (Milakov and Gimelshein 2018, Dao et al. 2022). The rows of a tile
// are queries that share keys: tokens of one sequence x the query heads of one key head. They lie across the vectors of
// the scores, so that a key is a value for all of them: nothing of K and V is packed, and maxima and sums need no
// shuffles. Only the queries are transposed, once. The rows of the result hold the sums between tiles; all else has a
// fixed size and lies on the stack.
#include "attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace gge {

namespace {

#if defined(__AVX512F__)
constexpr size_t width = 16; // floats of a vector
#elif defined(__AVX__)
constexpr size_t width = 8;
#else
constexpr size_t width = 4;
#endif

// As many sums as the registers hold: block_rows x block_vectors.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr size_t block_rows = 8;
constexpr size_t block_vectors = 3;
#else
constexpr size_t block_rows = 6;
constexpr size_t block_vectors = 2;
#endif

constexpr size_t n_lanes = width * block_vectors; // rows of a tile
constexpr size_t n_tile_keys = 6144 / n_lanes;    // 24 KiB of scores
constexpr size_t n_tile_dims = 256;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float log2_e = 1.44269504F;

template <size_t n> struct VectorOf {
    using Type [[gnu::vector_size(n * sizeof(float))]] = float;
};
template <> struct VectorOf<1> {
    using Type = float;
};
using Vector = VectorOf<width>::Type;
using Integers [[gnu::vector_size(width * sizeof(int32_t))]] = int32_t;
using Bits [[gnu::vector_size(width * sizeof(uint32_t))]] = uint32_t;

template <typename V> V load(const void *data) {
    V v;
    std::memcpy(&v, data, sizeof v);
    return v;
}

template <typename V> void store(float *data, V v) {
    std::memcpy(data, &v, sizeof v);
}

template <typename To, typename From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    return load<To>(&from);
}

Vector larger(Vector a, Vector b) {
    return a > b ? a : b;
}

// 2^x for x <= 0, within 2 ulp; 0 where that is below the normal numbers.
Vector exp2_of(Vector x) {
    constexpr float shift = 12582912.0F; // 1.5 * 2^23: in a sum with it the lowest bits are the other, rounded
    const Vector shifted = x + shift;
    const Vector f = x - (shifted - shift);
    Vector p = f * 0.00132647273F + 0.00967151299F;
    p = p * f + 0.0555073358F;
    p = p * f + 0.240222424F;
    p = p * f + 0.693147004F;
    p = p * f + 1.0F;
    const auto scaled = bits_as<Vector>(bits_as<Bits>(p) + (bits_as<Bits>(shifted) << 23));
    return x >= -126.0F ? scaled : (x < 0.0F ? Vector{} : x); // NaN stays
}

Vector tanh_of(Vector x) {
    const Vector e = exp2_of((x < 0.0F ? x : -x) * (2.0F * log2_e));
    const Vector t = (1.0F - e) / (1.0F + e);
    return x < 0.0F ? -t : t;
}

template <typename V, size_t n_rows, size_t n_vectors> struct Block {
    static constexpr size_t step = sizeof(V) / sizeof(float);
    V sums[n_rows][n_vectors] = {};

    // Adds a[i * a_row + k * a_step] * b[k * b_step + j * step ...] for all k < n.
    [[gnu::always_inline]] void add_products(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_step,
                                             size_t n) {
        for (size_t k = 0; k < n; ++k) {
            V factors[n_vectors];
            for (size_t j = 0; j < n_vectors; ++j) {
                factors[j] = load<V>(b + j * step);
            }
            for (size_t i = 0; i < n_rows; ++i) {
                for (size_t j = 0; j < n_vectors; ++j) {
                    sums[i][j] += factors[j] * a[i * a_row];
                }
            }
            a += a_step;
            b += b_step;
        }
    }
};

// Products of keys and queries: scores[n_rows][n_lanes], of which n_vectors vectors are computed.
struct ScoreBlock {
    const float *k;
    size_t k_stride;
    const float *q; // [n_dims][n_lanes]
    size_t n_dims;
    float *scores;
    bool add; // to what is there
};

template <size_t n_rows, size_t n_vectors> void score_block(const ScoreBlock &s) {
    Block<Vector, n_rows, n_vectors> block;
    if (s.add) {
        for (size_t i = 0; i < n_rows; ++i) {
            for (size_t j = 0; j < n_vectors; ++j) {
                block.sums[i][j] = load<Vector>(s.scores + i * n_lanes + j * width);
            }
        }
    }
    block.add_products(s.k, s.k_stride, 1, s.q, n_lanes, s.n_dims);
    for (size_t i = 0; i < n_rows; ++i) {
        for (size_t j = 0; j < n_vectors; ++j) {
            store(s.scores + i * n_lanes + j * width, block.sums[i][j]);
        }
    }
}

// Weighted sums of values, some columns of some rows: out = (out * before + sum) * after.
struct ValueBlock {
    const float *weights; // [n_keys][n_lanes]
    const float *v;
    size_t v_stride;
    size_t n_keys;
    float *const *out; // a pointer per row
    size_t column;
    const float *before; // one per row; NULL: out holds nothing yet
    const float *after;
};

template <typename V, size_t n_rows, size_t n_vectors> void value_block(const ValueBlock &s) {
    Block<V, n_rows, n_vectors> block;
    if (s.before != nullptr) {
        for (size_t i = 0; i < n_rows; ++i) {
            for (size_t j = 0; j < n_vectors; ++j) {
                block.sums[i][j] = load<V>(s.out[i] + s.column + j * block.step) * s.before[i];
            }
        }
    }
    block.add_products(s.weights, 1, n_lanes, s.v + s.column, s.v_stride, s.n_keys);
    for (size_t i = 0; i < n_rows; ++i) {
        for (size_t j = 0; j < n_vectors; ++j) {
            store(s.out[i] + s.column + j * block.step, block.sums[i][j] * s.after[i]);
        }
    }
}

// The kernels by n_rows - 1.
using ScoreKernels = std::array<void (*)(const ScoreBlock &), block_rows>;
using ValueKernels = std::array<void (*)(const ValueBlock &), block_rows>;

template <size_t n_vectors, size_t... i> constexpr ScoreKernels score_kernels_of(std::index_sequence<i...> /*rows*/) {
    return {&score_block<i + 1, n_vectors>...};
}

template <typename V, size_t n_vectors, size_t... i>
constexpr ValueKernels value_kernels_of(std::index_sequence<i...> /*rows*/) {
    return {&value_block<V, i + 1, n_vectors>...};
}

template <size_t... j>
constexpr std::array<ScoreKernels, block_vectors> all_score_kernels(std::index_sequence<j...> /*vectors*/) {
    return {score_kernels_of<j + 1>(std::make_index_sequence<block_rows>())...};
}

template <size_t... j>
constexpr std::array<ValueKernels, block_vectors> all_value_kernels(std::index_sequence<j...> /*vectors*/) {
    return {value_kernels_of<Vector, j + 1>(std::make_index_sequence<block_rows>())...};
}

// By n_vectors - 1.
constexpr auto score_kernels = all_score_kernels(std::make_index_sequence<block_vectors>());
constexpr auto value_kernels = all_value_kernels(std::make_index_sequence<block_vectors>());

// Calls body(begin, n) for parts of begin .. end - 1 that are at most n_max long and differ by one at most.
template <typename Body> void in_parts(size_t begin, size_t end, size_t n_max, const Body &body) {
    const size_t n = end - begin;
    const size_t n_parts = (n + n_max - 1) / n_max;
    for (size_t i = 0; i < n_parts; ++i) {
        const size_t part_end = begin + (n * (i + 1)) / n_parts;
        const size_t part_begin = begin + (n * i) / n_parts;
        body(part_begin, part_end - part_begin);
    }
}

// The values of two vectors by turns: those of their first halves, or of their second.
template <size_t half, size_t... i> Vector zip(Vector a, Vector b, std::index_sequence<i...> /*values*/) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (half * (width / 2) + i / 2 + i % 2 * width)...);
#else
    return __builtin_shuffle(a, b, Integers{(half * (width / 2) + i / 2 + i % 2 * width)...});
#endif
}

// One vector of each of width rows -> their transpose.
void transpose(Vector (&rows)[width]) {
    constexpr auto values = std::make_index_sequence<width>();
    for (size_t n = 1; n < width; n *= 2) {
        Vector next[width];
        for (size_t i = 0; i < width / 2; ++i) {
            next[2 * i] = zip<0>(rows[i], rows[i + width / 2], values);
            next[2 * i + 1] = zip<1>(rows[i], rows[i + width / 2], values);
        }
        std::copy_n(next, width, rows);
    }
}

// A range of keys, in tokens of the batch.
struct Span {
    size_t begin;
    size_t end;

    size_t size() const { return end > begin ? end - begin : 0; }
    Span within(Span other) const { return {std::max(begin, other.begin), std::min(end, other.end)}; }
};

// Some rows of a sequence and a key head.
class Tile {
public:
    // Rows first ... of the sequence that begins at token start, in vectors; n_rows of them are rows.
    Tile(const AttentionInput &input, size_t start, size_t i_head_kv, size_t first, size_t n_rows);

    void compute();

private:
    void transpose_queries(size_t i_dim, size_t n_dims);
    void compute_scores(Span keys);
    void compute_scores(Span keys, size_t i_dim, size_t n_dims, bool add);
    void softmax(Span keys);
    Vector changed(Vector score, size_t j, size_t i_key) const;
    void add_values(Span keys, bool is_first, bool is_last);
    void add_values(ValueBlock block, size_t n_rows) const;

    Span span(size_t i_first, size_t i_last) const {
        return {static_cast<size_t>(begins_[i_first]), static_cast<size_t>(ends_[i_last])};
    }
    // What some row of vector j sees, and what all of them see.
    Span seen(size_t j) const { return span(j * width, (j + 1) * width - 1); }
    Span seen_by_all(size_t j) const { return span((j + 1) * width - 1, j * width); }

    const AttentionInput &in_;
    const float *k_; // of the head, token 0
    const float *v_;
    size_t n_rows_;
    size_t n_vectors_;
    bool plain_;        // no softcap, no ALiBi
    float query_scale_; // scores are of base 2
    float score_scale_;

    alignas(64) int32_t begins_[n_lanes] = {};
    int32_t ends_[n_lanes] = {};
    float positions_[n_lanes];
    float slopes_[n_lanes];
    float maxima_[n_lanes];
    float totals_[n_lanes];
    float before_[n_lanes];
    float after_[n_lanes];
    const float *queries_[n_lanes];
    float *out_[n_lanes];
    alignas(64) float q_[n_tile_dims * n_lanes];
    alignas(64) float scores_[n_tile_keys * n_lanes];
};

// As ggml's: a geometric series, with the ones between for a number of heads that is no power of two.
float alibi_slope(float max_bias, size_t i_head, size_t n_heads) {
    const auto n = static_cast<float>(size_t{1} << static_cast<size_t>(std::floor(std::log2(n_heads))));
    const auto i = static_cast<float>(i_head);
    return i < n ? std::pow(std::pow(2.0F, -max_bias / n), i + 1.0F)
                 : std::pow(std::pow(2.0F, -max_bias / 2.0F / n), 2.0F * (i - n) + 1.0F);
}

Tile::Tile(const AttentionInput &input, size_t start, size_t i_head_kv, size_t first, size_t n_rows)
    : in_(input), k_(input.k.data + i_head_kv * input.k.head_stride),
      v_(input.v.data + i_head_kv * input.v.head_stride), n_rows_(n_rows), n_vectors_((n_rows + width - 1) / width),
      plain_(!(input.softcap > 0.0F) && !(input.max_bias > 0.0F)) {
    query_scale_ = input.softcap > 0.0F ? input.scale / input.softcap : input.scale * log2_e;
    score_scale_ = input.softcap * log2_e;
    const auto n_heads = static_cast<size_t>(input.n_heads);
    const size_t n_group = n_heads / static_cast<size_t>(input.n_heads_kv);
    size_t i_token = start + first / n_group;
    size_t i_in_group = first % n_group;
    for (size_t i = 0; i < n_vectors_ * width; ++i) {
        if (i >= n_rows) { // as the last row, so that it asks for no mask
            begins_[i] = begins_[n_rows - 1];
            ends_[i] = ends_[n_rows - 1];
            positions_[i] = slopes_[i] = totals_[i] = 0.0F;
            maxima_[i] = -infinity;
            continue;
        }
        const size_t i_head = i_head_kv * n_group + i_in_group;
        queries_[i] = input.q.data + i_token * input.q.token_stride + i_head * input.q.head_stride;
        out_[i] = input.out + (i_token * n_heads + i_head) * static_cast<size_t>(input.n_dims_v);
        begins_[i] = input.ranges[2 * i_token];
        ends_[i] = input.ranges[2 * i_token + 1];
        positions_[i] = static_cast<float>(i_token);
        slopes_[i] = input.max_bias > 0.0F ? log2_e * alibi_slope(input.max_bias, i_head, n_heads) : 0.0F;
        maxima_[i] = input.sinks != nullptr ? input.sinks[i_head] * log2_e : -infinity;
        totals_[i] = input.sinks != nullptr ? 1.0F : 0.0F;
        if (++i_in_group == n_group) {
            i_in_group = 0;
            ++i_token;
        }
    }
}

void Tile::compute() {
    const Span keys = span(0, n_rows_ - 1);
    if (keys.size() == 0) {
        for (size_t i = 0; i < n_rows_; ++i) {
            std::fill_n(out_[i], in_.n_dims_v, 0.0F);
        }
        return;
    }
    const auto n_dims = static_cast<size_t>(in_.n_dims);
    if (n_dims <= n_tile_dims) {
        transpose_queries(0, n_dims);
    }
    for (size_t begin = keys.begin; begin < keys.end; begin += n_tile_keys) {
        const Span part = {begin, std::min(begin + n_tile_keys, keys.end)};
        compute_scores(part);
        softmax(part);
        add_values(part, begin == keys.begin, part.end == keys.end);
    }
}

// q_[i][...] = value i_dim + i of all queries, scaled
void Tile::transpose_queries(size_t i_dim, size_t n_dims) {
    for (size_t j = 0; j < n_vectors_; ++j) {
        const size_t first = j * width;
        const size_t n = std::min(width, n_rows_ - first);
        size_t i = 0;
        for (; i + width <= n_dims; i += width) {
            Vector rows[width] = {};
            for (size_t row = 0; row < n; ++row) {
                rows[row] = load<Vector>(queries_[first + row] + i_dim + i) * query_scale_;
            }
            transpose(rows);
            for (size_t row = 0; row < width; ++row) {
                store(q_ + (i + row) * n_lanes + first, rows[row]);
            }
        }
        for (; i < n_dims; ++i) {
            Vector values = {};
            for (size_t row = 0; row < n; ++row) {
                values[row] = queries_[first + row][i_dim + i] * query_scale_;
            }
            store(q_ + i * n_lanes + first, values);
        }
    }
}

void Tile::compute_scores(Span keys) {
    const auto n_dims = static_cast<size_t>(in_.n_dims);
    if (n_dims <= n_tile_dims) {
        compute_scores(keys, 0, n_dims, false);
        return;
    }
    for (size_t i = 0; i < n_dims; i += n_tile_dims) {
        const size_t n = std::min(n_tile_dims, n_dims - i);
        transpose_queries(i, n);
        compute_scores(keys, i, n, i > 0);
    }
}

// For each run of keys the vectors whose rows see some of it: since ranges do not decrease, they stand together.
void Tile::compute_scores(Span keys, size_t i_dim, size_t n_dims, bool add) {
    size_t first = 0; // vector
    size_t last = 0;
    for (size_t begin = keys.begin; begin < keys.end;) {
        while (first < n_vectors_ && seen(first).end <= begin) {
            ++first;
        }
        last = std::max(last, first);
        while (last < n_vectors_ && seen(last).begin <= begin) {
            ++last;
        }
        size_t end = keys.end;
        if (first < last) {
            end = std::min(end, seen(first).end);
        }
        if (last < n_vectors_) {
            end = std::min(end, seen(last).begin);
        }
        if (first < last) {
            const ScoreKernels &kernels = score_kernels[last - first - 1];
            in_parts(begin, end, block_rows, [&](size_t i_key, size_t n) {
                kernels[n - 1]({k_ + i_key * in_.k.token_stride + i_dim, in_.k.token_stride, q_ + first * width, n_dims,
                                scores_ + (i_key - keys.begin) * n_lanes + first * width, add});
            });
        }
        begin = end;
    }
}

Vector Tile::changed(Vector score, size_t j, size_t i_key) const {
    if (in_.softcap > 0.0F) {
        score = tanh_of(score) * score_scale_;
    }
    if (in_.max_bias > 0.0F) {
        const Vector distance = load<Vector>(positions_ + j * width) - static_cast<float>(i_key);
        score -= load<Vector>(slopes_ + j * width) * (distance < 0.0F ? -distance : distance);
    }
    const auto key = static_cast<int32_t>(i_key);
    const Integers begins = load<Integers>(begins_ + j * width);
    const Integers ends = load<Integers>(ends_ + j * width);
    return ((begins <= key) & (ends > key)) ? score : Vector{} - infinity;
}

// Scores of the keys -> weights, 0 where a row does not see the key; before_: what earlier sums are worth now.
void Tile::softmax(Span keys) {
    for (size_t j = 0; j < n_vectors_; ++j) {
        float *column = scores_ + j * width;
        const auto at = [&](size_t i_key) { return column + (i_key - keys.begin) * n_lanes; };
        const Span span = seen(j).within(keys);
        const Span plain = seen_by_all(j).within(span);
        const Vector maximum = load<Vector>(maxima_ + j * width);
        Vector next = maximum;
        for (size_t i = span.begin; i < span.end; ++i) {
            Vector score = load<Vector>(at(i));
            if (!plain_ || i < plain.begin || i >= plain.end) {
                score = changed(score, j, i);
                store(at(i), score);
            }
            next = larger(next, score);
        }
        const Vector zero = next == -infinity ? Vector{} : next; // no key seen yet
        const Vector before = exp2_of(maximum - zero);
        Vector total = {};
        for (size_t i = span.begin; i < span.end; ++i) {
            const Vector weight = exp2_of(load<Vector>(at(i)) - zero);
            store(at(i), weight);
            total += weight;
        }
        for (size_t i = keys.begin; i < keys.end; ++i) {
            if (i < span.begin || i >= span.end) {
                store(at(i), Vector{});
            }
        }
        total += load<Vector>(totals_ + j * width) * before;
        store(maxima_ + j * width, next);
        store(totals_ + j * width, total);
        store(before_ + j * width, before);
        store(after_ + j * width, total == 0.0F ? Vector{} : 1.0F / total);
    }
}

void Tile::add_values(Span keys, bool is_first, bool is_last) {
    if (!is_last) {
        std::fill_n(after_, n_rows_, 1.0F);
    }
    in_parts(0, n_rows_, block_rows, [&](size_t i, size_t n) {
        const Span part = span(i, i + n - 1).within(keys);
        const size_t begin = std::min(part.begin, keys.end);
        add_values({scores_ + (begin - keys.begin) * n_lanes + i, v_ + begin * in_.v.token_stride, in_.v.token_stride,
                    part.size(), out_ + i, 0, is_first ? nullptr : before_ + i, after_ + i},
                   n);
    });
}

void Tile::add_values(ValueBlock block, size_t n_rows) const {
    const auto n_dims = static_cast<size_t>(in_.n_dims_v);
    in_parts(0, n_dims / width, block_vectors, [&](size_t j, size_t n) {
        block.column = j * width;
        value_kernels[n - 1][n_rows - 1](block);
    });
    for (size_t i = n_dims / width * width; i < n_dims; ++i) {
        static constexpr auto kernels = value_kernels_of<float, 1>(std::make_index_sequence<block_rows>());
        block.column = i;
        kernels[n_rows - 1](block);
    }
}

// The tiles of a sequence and a key head.
struct Sequence {
    size_t start;
    size_t n_rows;
    size_t n_tiles;

    Sequence(const AttentionInput &input, size_t first) : start(first) {
        const auto n_tokens = static_cast<size_t>(input.n_tokens);
        size_t end = first + 1;
        while (end < n_tokens && input.starts[end] == input.starts[first]) {
            ++end;
        }
        n_tokens_ = end - first;
        n_group_ = static_cast<size_t>(input.n_heads / input.n_heads_kv);
        n_rows = n_tokens_ * n_group_;
        const size_t n_vectors = (n_rows + width - 1) / width;
        n_tiles = (n_vectors + block_vectors - 1) / block_vectors;
    }

    size_t end() const { return start + n_tokens_; }

    // Rows of a tile: as many vectors in each, or one more.
    size_t row(size_t i_tile) const {
        const size_t n_vectors = (n_rows + width - 1) / width;
        return std::min(n_vectors * i_tile / n_tiles * width, n_rows);
    }

    // In products of vectors, about.
    int64_t cost(const AttentionInput &input, size_t i_tile) const {
        const size_t first = row(i_tile);
        const size_t last = row(i_tile + 1) - 1;
        const int32_t n_keys =
            input.ranges[2 * (start + last / n_group_) + 1] - input.ranges[2 * (start + first / n_group_)];
        return 8 + static_cast<int64_t>((last - first) / width + 1) * std::max(n_keys, 0);
    }

    int64_t cost(const AttentionInput &input) const {
        int64_t sum = 0;
        for (size_t i = 0; i < n_tiles; ++i) {
            sum += cost(input, i);
        }
        return sum;
    }

private:
    size_t n_tokens_;
    size_t n_group_;
};

} // namespace

void attend(const AttentionInput &input, int32_t i_thread, int32_t n_threads) {
    const auto n_tokens = static_cast<size_t>(input.n_tokens);
    const auto n_heads = static_cast<size_t>(input.n_heads_kv);
    int64_t total = 0;
    for (size_t i = 0; i < n_tokens;) {
        const Sequence sequence(input, i);
        total += sequence.cost(input) * input.n_heads_kv;
        i = sequence.end();
    }
    const int64_t begin = total * i_thread / n_threads;
    const int64_t end = total * (i_thread + 1) / n_threads;
    int64_t done = 0;
    for (size_t i = 0; i < n_tokens && done < end;) {
        const Sequence sequence(input, i);
        i = sequence.end();
        for (size_t i_head = 0; i_head < n_heads; ++i_head) {
            for (size_t i_tile = 0; i_tile < sequence.n_tiles; ++i_tile) {
                if (done >= begin && done < end) {
                    const size_t row = sequence.row(i_tile);
                    Tile(input, sequence.start, i_head, row, sequence.row(i_tile + 1) - row).compute();
                }
                done += sequence.cost(input, i_tile);
            }
        }
    }
}

} // namespace gge
