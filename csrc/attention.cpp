// Softmax over tiles of keys with a running maximum (Milakov and Gimelshein 2018, Dao et al. 2022). The rows of a tile
// are queries that share keys: tokens of one sequence x the query heads of one key head. They lie across the vectors of
// the scores, so that one value of a key meets many queries: K needs no other order, and maxima and sums no shuffles.
// Only the queries are transposed, once. The rows of the result hold the sums between tiles; all else has a fixed size
// and lies on the stack.
#include "attention.h"

#include "vectors.h"

#include <array>
#include <cmath>
#include <limits>

namespace gge {

namespace {

// As many sums as the registers hold, of 32 or of 16: keys x vectors of queries, and queries x two vectors of values.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr size_t score_rows = 8;
constexpr size_t score_vectors = 3;
constexpr size_t value_rows = 12;
#else
constexpr size_t score_rows = 6;
constexpr size_t score_vectors = 2;
constexpr size_t value_rows = 6;
#endif

constexpr size_t n_lanes = 48; // rows of a tile
constexpr size_t n_tile_vectors = n_lanes / width;
constexpr size_t n_tile_keys = 128; // 24 KiB of scores
constexpr size_t n_tile_dims = 256;
constexpr size_t panel_width = 2 * width; // columns of V

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float log2_e = 1.44269504F;

// step: floats of a vector
template <size_t step, size_t n_rows, size_t n_vectors> struct Block {
    using V = typename VectorOf<step>::Type;
    V sums[n_rows][n_vectors] = {};

    // Adds a[i * a_row + k * a_step] * b[k * b_step + j * step ...] for all k < n; puts what it reads of b into copy.
    template <bool copies>
    [[gnu::always_inline]] void add_products(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_step,
                                             size_t n, float *copy) {
        for (size_t k = 0; k < n; ++k) {
            V factors[n_vectors];
            GGE_UNROLLED
            for (size_t j = 0; j < n_vectors; ++j) {
                factors[j] = load<V>(b + j * step);
                if constexpr (copies) {
                    store(copy + k * panel_width + j * step, factors[j]);
                }
            }
            GGE_UNROLLED
            for (size_t i = 0; i < n_rows; ++i) {
                GGE_UNROLLED
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
    Block<width, n_rows, n_vectors> block;
    block.template add_products<false>(s.k, s.k_stride, 1, s.q, n_lanes, s.n_dims, nullptr);
    GGE_UNROLLED
    for (size_t i = 0; i < n_rows; ++i) {
        GGE_UNROLLED
        for (size_t j = 0; j < n_vectors; ++j) {
            float *scores = s.scores + i * n_lanes + j * width;
            store(scores, s.add ? load<Vector>(scores) + block.sums[i][j] : block.sums[i][j]);
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
    float *panel; // [n_keys][panel_width], for a copy of the columns
};

template <size_t step, size_t n_rows, size_t n_vectors, bool copies> void value_block(const ValueBlock &s) {
    using V = typename VectorOf<step>::Type;
    Block<step, n_rows, n_vectors> block;
    block.template add_products<copies>(s.weights, 1, n_lanes, s.v, s.v_stride, s.n_keys, s.panel);
    GGE_UNROLLED
    for (size_t i = 0; i < n_rows; ++i) {
        GGE_UNROLLED
        for (size_t j = 0; j < n_vectors; ++j) {
            float *out = s.out[i] + s.column + j * step;
            V sum = block.sums[i][j];
            if (s.before != nullptr) {
                sum += load<V>(out) * s.before[i];
            }
            store(out, sum * s.after[i]);
        }
    }
}

// By n_rows - 1.
using ScoreKernels = std::array<void (*)(const ScoreBlock &), score_rows>;
using ValueKernels = std::array<void (*)(const ValueBlock &), value_rows>;

template <size_t n_vectors, size_t... i> constexpr ScoreKernels score_kernels_of(std::index_sequence<i...> /*rows*/) {
    return {&score_block<i + 1, n_vectors>...};
}

template <size_t... j>
constexpr std::array<ScoreKernels, score_vectors> score_kernels_up_to(std::index_sequence<j...> /*vectors*/) {
    return {score_kernels_of<j + 1>(std::make_index_sequence<score_rows>())...};
}

template <size_t step, size_t n_vectors, bool copies, size_t... i>
constexpr ValueKernels value_kernels_of(std::index_sequence<i...> /*rows*/) {
    return {&value_block<step, i + 1, n_vectors, copies>...};
}

constexpr auto score_kernels = score_kernels_up_to(std::make_index_sequence<score_vectors>()); // by n_vectors - 1

template <size_t step, size_t n_vectors, bool copies>
constexpr ValueKernels value_kernels =
    value_kernels_of<step, n_vectors, copies>(std::make_index_sequence<value_rows>());

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

// A range of keys, in tokens of the batch.
struct Span {
    size_t begin;
    size_t end;

    size_t size() const { return end > begin ? end - begin : 0; }
    Span within(Span other) const { return {std::max(begin, other.begin), std::min(end, other.end)}; }
};

// Rows of a sequence: token by token the query heads of one key head.
struct Rows {
    size_t start; // token of the sequence
    size_t i_head_kv;
    size_t first;
    size_t n;
};

class Tile {
public:
    Tile(const AttentionInput &input, const Rows &rows);

    void compute();

private:
    void transpose_queries(size_t i_dim, size_t n_dims);
    void compute_scores(Span keys);
    void compute_scores(Span keys, size_t i_dim, size_t n_dims, bool add);
    void softmax(Span keys);
    Vector change(float *scores, size_t j, Span keys, Vector maximum) const;
    Vector changed(Vector score, size_t j, size_t i_key) const;
    void add_values(Span keys, bool is_first, bool is_last);
    template <size_t step, size_t n_vectors> void add_columns(Span keys, bool is_first, size_t column);

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
    float query_scale_; // makes scores to the base 2
    float score_scale_; // after the softcap

    // Lanes without a row are as the last row, but for out_.
    const float *queries_[n_lanes];
    float *out_[n_lanes];
    int32_t begins_[n_lanes] = {};
    int32_t ends_[n_lanes] = {};
    float positions_[n_lanes];
    float slopes_[n_lanes];
    float maxima_[n_lanes];
    float totals_[n_lanes];
    float before_[n_lanes]; // what the sums in out_ are worth after a larger maximum
    float after_[n_lanes];
    alignas(64) float q_[n_tile_dims * n_lanes];
    alignas(64) float scores_[n_tile_keys * n_lanes];
    alignas(64) float panel_[n_tile_keys * panel_width];
};

// As ggml's: a geometric series, and for a number of heads that is no power of two also numbers between its own.
float alibi_slope(float max_bias, size_t i_head, size_t n_heads) {
    const auto n = static_cast<float>(size_t{1} << static_cast<size_t>(std::log2(n_heads)));
    const auto i = static_cast<float>(i_head);
    return std::exp2(i < n ? -max_bias / n * (i + 1.0F) : -max_bias / 2.0F / n * (2.0F * (i - n) + 1.0F));
}

// The rows of a head are too far apart and too short for the CPU to foresee them. Measured on 128 tokens of 16 and 32
// heads: 7 and 13 % of the time.
template <int for_writing> void fetch(const float *row, size_t n) {
    constexpr size_t line = 64 / sizeof(float);
    for (size_t i = 0; i < n; i += line) {
        __builtin_prefetch(row + i, for_writing);
    }
}

Tile::Tile(const AttentionInput &input, const Rows &rows)
    : in_(input), k_(input.k.data + rows.i_head_kv * input.k.head_stride),
      v_(input.v.data + rows.i_head_kv * input.v.head_stride), n_rows_(rows.n),
      n_vectors_((rows.n + width - 1) / width), plain_(!(input.softcap > 0.0F) && !(input.max_bias > 0.0F)),
      query_scale_(input.softcap > 0.0F ? input.scale / input.softcap : input.scale * log2_e),
      score_scale_(input.softcap * log2_e) {
    const auto n_heads = static_cast<size_t>(input.n_heads);
    const size_t n_group = n_heads / static_cast<size_t>(input.n_heads_kv);
    size_t i_token = rows.start + rows.first / n_group;
    size_t i_head = rows.i_head_kv * n_group + rows.first % n_group;
    for (size_t i = 0; i < n_vectors_ * width; ++i) {
        queries_[i] = input.q.data + i_token * input.q.token_stride + i_head * input.q.head_stride;
        out_[i] = input.out + (i_token * n_heads + i_head) * static_cast<size_t>(input.n_dims_v);
        begins_[i] = input.ranges[2 * i_token];
        ends_[i] = input.ranges[2 * i_token + 1];
        positions_[i] = static_cast<float>(i_token);
        slopes_[i] = input.max_bias > 0.0F ? log2_e * alibi_slope(input.max_bias, i_head, n_heads) : 0.0F;
        maxima_[i] = input.sinks != nullptr ? log2_e * input.sinks[i_head] : -infinity;
        totals_[i] = input.sinks != nullptr ? 1.0F : 0.0F;
        fetch<0>(queries_[i], static_cast<size_t>(input.n_dims));
        fetch<1>(out_[i], static_cast<size_t>(input.n_dims_v));
        if (i + 1 < n_rows_ && ++i_head == (rows.i_head_kv + 1) * n_group) {
            i_head -= n_group;
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
        const float *const *queries = queries_ + j * width;
        float *column = q_ + j * width;
        size_t i = 0;
        for (; i + width <= n_dims; i += width) {
            Vector rows[width];
            for (size_t row = 0; row < width; ++row) {
                rows[row] = load<Vector>(queries[row] + i_dim + i) * query_scale_;
            }
            transpose(rows);
            for (size_t row = 0; row < width; ++row) {
                store(column + (i + row) * n_lanes, rows[row]);
            }
        }
        for (; i < n_dims; ++i) {
            for (size_t row = 0; row < width; ++row) {
                column[i * n_lanes + row] = queries[row][i_dim + i] * query_scale_;
            }
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

// All vectors of which some row sees some key of a block: since ranges do not decrease, they stand together.
void Tile::compute_scores(Span keys, size_t i_dim, size_t n_dims, bool add) {
    size_t first = 0;
    size_t last = 0;
    in_parts(keys.begin, keys.end, score_rows, [&](size_t i_key, size_t n_keys) {
        while (first < n_vectors_ && seen(first).end <= i_key) {
            ++first;
        }
        while (last < n_vectors_ && seen(last).begin < i_key + n_keys) {
            ++last;
        }
        in_parts(first, std::max(first, last), score_vectors, [&](size_t j, size_t n_vectors) {
            score_kernels[n_vectors - 1][n_keys - 1]({k_ + i_key * in_.k.token_stride + i_dim, in_.k.token_stride,
                                                      q_ + j * width, n_dims,
                                                      scores_ + (i_key - keys.begin) * n_lanes + j * width, add});
        });
    });
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
    const auto begins = load<Integers>(begins_ + j * width);
    const auto ends = load<Integers>(ends_ + j * width);
    return ((begins <= key) & (ends > key)) ? score : Vector{} - infinity;
}

// Changes what vector j has of the scores; returns the new maximum.
Vector Tile::change(float *scores, size_t j, Span keys, Vector maximum) const {
    for (size_t i = keys.begin; i < keys.end; ++i, scores += n_lanes) {
        const Vector score = changed(load<Vector>(scores), j, i);
        store(scores, score);
        maximum = larger(maximum, score);
    }
    return maximum;
}

// Scores of the keys -> weights, 0 where a row does not see the key.
void Tile::softmax(Span keys) {
    for (size_t j = 0; j < n_vectors_; ++j) {
        const auto at = [&](size_t i_key) { return scores_ + (i_key - keys.begin) * n_lanes + j * width; };
        const Span some = seen(j).within(keys);
        const Span seen = {std::min(some.begin, keys.end), std::max(some.begin, some.end)};
        const Span all = seen_by_all(j).within(seen);
        const Span plain = plain_ && all.size() > 0 ? all : Span{seen.end, seen.end};

        const auto maximum = load<Vector>(maxima_ + j * width);
        Vector next = change(at(seen.begin), j, {seen.begin, plain.begin}, maximum);
        for (size_t i = plain.begin; i < plain.end; ++i) {
            next = larger(next, load<Vector>(at(i)));
        }
        next = change(at(plain.end), j, {plain.end, seen.end}, next);

        const Vector zero = next == -infinity ? Vector{} : next; // where no key was seen yet
        const Vector before = exp2_of(maximum - zero);
        Vector total = {};
        for (size_t i = keys.begin; i < seen.begin; ++i) {
            store(at(i), Vector{});
        }
        for (size_t i = seen.begin; i < seen.end; ++i) {
            const Vector weight = exp2_of(load<Vector>(at(i)) - zero);
            store(at(i), weight);
            total += weight;
        }
        for (size_t i = seen.end; i < keys.end; ++i) {
            store(at(i), Vector{});
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
    const auto n_dims = static_cast<size_t>(in_.n_dims_v);
    size_t i = 0;
    for (; i + 2 * width <= n_dims; i += 2 * width) {
        add_columns<width, 2>(keys, is_first, i);
    }
    for (; i + width <= n_dims; i += width) {
        add_columns<width, 1>(keys, is_first, i);
    }
    for (; i + width / 2 <= n_dims; i += width / 2) {
        add_columns<width / 2, 1>(keys, is_first, i);
    }
    for (; i < n_dims; ++i) {
        add_columns<1, 1>(keys, is_first, i);
    }
}

// The values of a head are often a multiple of 4096 bytes apart and fall upon each other in the first cache. So the
// first block of rows puts them side by side for the others.
template <size_t step, size_t n_vectors> void Tile::add_columns(Span keys, bool is_first, size_t column) {
    const size_t n_parts = (n_rows_ + value_rows - 1) / value_rows;
    const float *v = v_ + keys.begin * in_.v.token_stride + column;
    size_t v_stride = in_.v.token_stride;
    for (size_t i_part = n_parts; i_part-- > 0;) { // from the last rows, which see the last keys
        const size_t row = n_rows_ * i_part / n_parts;
        const size_t n_rows = n_rows_ * (i_part + 1) / n_parts - row;
        const bool copies = n_vectors == 2 && n_parts > 2 && i_part == n_parts - 1;
        const Span part = copies ? keys : span(row, row + n_rows - 1).within(keys);
        const size_t first = part.size() > 0 ? part.begin - keys.begin : 0;
        const ValueKernels &kernels =
            copies ? value_kernels<step, n_vectors, n_vectors == 2> : value_kernels<step, n_vectors, false>;
        kernels[n_rows - 1]({scores_ + first * n_lanes + row, v + first * v_stride, v_stride, part.size(), out_ + row,
                             column, is_first ? nullptr : before_ + row, after_ + row, panel_});
        if (copies) {
            v = panel_;
            v_stride = panel_width;
        }
    }
}

// The rows of a sequence and one key head in tiles of as many vectors, or one more.
class Sequence {
public:
    Sequence(const AttentionInput &input, size_t start)
        : in_(input), start_(start), end_(start + 1),
          n_group_(static_cast<size_t>(input.n_heads) / static_cast<size_t>(input.n_heads_kv)) {
        while (end_ < static_cast<size_t>(in_.n_tokens) && in_.starts[end_] == in_.starts[start_]) {
            ++end_;
        }
        n_rows_ = (end_ - start_) * n_group_;
        n_vectors_ = (n_rows_ + width - 1) / width;
        n_tiles_ = (n_vectors_ + n_tile_vectors - 1) / n_tile_vectors;
    }

    size_t end() const { return end_; }
    size_t n_tiles() const { return n_tiles_; }

    Rows rows(size_t i_tile, size_t i_head_kv) const {
        const size_t first = n_vectors_ * i_tile / n_tiles_ * width;
        const size_t end = std::min(n_vectors_ * (i_tile + 1) / n_tiles_ * width, n_rows_);
        return {start_, i_head_kv, first, end - first};
    }

    // In vectors of scores; what a tile costs beside them is about 8.
    int64_t cost(size_t i_tile) const {
        const Rows r = rows(i_tile, 0);
        const int32_t begin = in_.ranges[2 * (start_ + r.first / n_group_)];
        const int32_t end = in_.ranges[2 * (start_ + (r.first + r.n - 1) / n_group_) + 1];
        return 8 + static_cast<int64_t>((r.n + width - 1) / width) * std::max(end - begin, 0);
    }

    int64_t cost() const {
        int64_t sum = 0;
        for (size_t i = 0; i < n_tiles_; ++i) {
            sum += cost(i);
        }
        return sum;
    }

private:
    const AttentionInput &in_;
    size_t start_; // tokens
    size_t end_;
    size_t n_group_;
    size_t n_rows_;
    size_t n_vectors_;
    size_t n_tiles_;
};

// Calls body for each sequence and key head, with the cost of one head and of all before this one.
template <typename Body> int64_t for_each_head(const AttentionInput &input, const Body &body) {
    int64_t done = 0;
    for (size_t i = 0; i < static_cast<size_t>(input.n_tokens);) {
        const Sequence sequence(input, i);
        const int64_t cost = sequence.cost();
        for (size_t i_head = 0; i_head < static_cast<size_t>(input.n_heads_kv); ++i_head) {
            body(sequence, i_head, cost, done);
            done += cost;
        }
        i = sequence.end();
    }
    return done;
}

} // namespace

// A thread has the tiles that begin in its share of the cost.
void attend(const AttentionInput &input, int32_t i_thread, int32_t n_threads) {
    const int64_t total = for_each_head(input, [](const Sequence &, size_t, int64_t, int64_t) {});
    const int64_t begin = total * i_thread / n_threads;
    const int64_t end = total * (i_thread + 1) / n_threads;
    for_each_head(input, [&](const Sequence &sequence, size_t i_head, int64_t cost, int64_t done) {
        if (done >= end || done + cost <= begin) {
            return;
        }
        for (size_t i = 0; i < sequence.n_tiles(); ++i) {
            if (done >= begin && done < end) {
                Tile(input, sequence.rows(i, i_head)).compute();
            }
            done += sequence.cost(i);
        }
    });
}

} // namespace gge
