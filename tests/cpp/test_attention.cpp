// Against softmax(scale * q k^T) v in double precision. Values are of size 1 and scores of size 1, so that what single
// precision loses is a few times 1e-7: about sqrt(n_dims) roundings in a score, 2 in a weight, sqrt(n_keys) in a sum.
// Where a test has scores of another size, a score loses that many times more, and a weight as much.
#include "attention.h"
#include "check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

using namespace gge;

namespace {

constexpr double tolerance = 4e-6;
const float not_a_number = std::numeric_limits<float>::quiet_NaN();
const float infinity = std::numeric_limits<float>::infinity();

struct Shape {
    int32_t n_heads = 1;
    int32_t n_heads_kv = 1;
    int32_t n_dims = 16;
    int32_t n_dims_v = 16;
    size_t gap = 0; // floats between heads and between tokens
};

enum class Sight { causal, bidirectional, window, window_both, blocks };

// A number of tokens or floats of a vector.
size_t count(int32_t n) {
    return static_cast<size_t>(n);
}

std::pair<int32_t, int32_t> seen(Sight sight, int32_t i, int32_t n) {
    switch (sight) {
    case Sight::causal: return {0, i + 1};
    case Sight::bidirectional: return {0, n};
    case Sight::window: return {std::max(0, i - 6), i + 1};
    case Sight::window_both: return {std::max(0, i - 9), std::min(n, i + 10)};
    default: return {i / 5 * 5, std::min(n, i / 5 * 5 + i % 5 + (i % 7 == 0 ? 0 : 1))};
    }
}

// Sequences, and what is computed of them.
struct Batch {
    Shape shape;
    std::vector<int32_t> ranges;
    std::vector<int32_t> starts;
    std::vector<float> q, k, v, sinks;
    AttentionInput input;

    explicit Batch(const Shape &of_shape) : shape(of_shape) {
        input.n_heads = shape.n_heads;
        input.n_heads_kv = shape.n_heads_kv;
        input.n_dims = shape.n_dims;
        input.n_dims_v = shape.n_dims_v;
        input.scale = 1.0F / std::sqrt(static_cast<float>(shape.n_dims));
    }

    // seed: of the values; the same one gives the same sequence
    void add(int32_t n, Sight sight, unsigned seed) {
        const auto start = static_cast<int32_t>(starts.size());
        for (int32_t i = 0; i < n; ++i) {
            const auto [begin, end] = seen(sight, i, n);
            starts.push_back(start);
            ranges.insert(ranges.end(), {start + begin, start + std::max(begin, end)});
        }
        std::mt19937 random(seed);
        for (auto [values, n_heads, n_dims] : {std::tuple(&q, shape.n_heads, shape.n_dims),
                                               {&k, shape.n_heads_kv, shape.n_dims},
                                               {&v, shape.n_heads_kv, shape.n_dims_v}}) {
            for (size_t i = 0; i < count(n) * stride(n_heads, n_dims); ++i) {
                values->push_back(std::normal_distribution<float>()(random));
            }
        }
    }

    size_t stride(int32_t n_heads, int32_t n_dims) const {
        return count(n_heads) * (count(n_dims) + shape.gap) + shape.gap;
    }

    HeadsView view(const std::vector<float> &values, int32_t n_heads, int32_t n_dims) const {
        return {values.data(), stride(n_heads, n_dims), count(n_dims) + shape.gap};
    }

    size_t row_size() const { return count(shape.n_heads) * count(shape.n_dims_v); }

    std::vector<float> attend(int32_t n_threads = 1) {
        std::vector<float> out(starts.size() * row_size(), not_a_number);
        input.q = view(q, shape.n_heads, shape.n_dims);
        input.k = view(k, shape.n_heads_kv, shape.n_dims);
        input.v = view(v, shape.n_heads_kv, shape.n_dims_v);
        input.n_tokens = static_cast<int32_t>(starts.size());
        input.ranges = ranges.data();
        input.starts = starts.data();
        input.sinks = sinks.empty() ? nullptr : sinks.data();
        input.out = out.data();
        for (int32_t i = n_threads; i-- > 0;) {
            gge::attend(input, i, n_threads);
        }
        return out;
    }
};

double slope(const AttentionInput &in, int32_t i_head) {
    const double n = std::exp2(std::floor(std::log2(in.n_heads)));
    return i_head < n ? std::exp2(-in.max_bias / n * (i_head + 1))
                      : std::exp2(-in.max_bias / 2 / n * (2 * (i_head - n) + 1));
}

double score(const AttentionInput &in, int32_t i, int32_t i_key, int32_t i_head) {
    const float *q = in.q.data + count(i) * in.q.token_stride + count(i_head) * in.q.head_stride;
    const float *k =
        in.k.data + count(i_key) * in.k.token_stride + count(i_head / (in.n_heads / in.n_heads_kv)) * in.k.head_stride;
    double sum = 0;
    for (int32_t d = 0; d < in.n_dims; ++d) {
        sum += static_cast<double>(q[d]) * k[d];
    }
    sum *= in.scale;
    if (in.softcap > 0) {
        sum = in.softcap * std::tanh(sum / in.softcap);
    }
    return in.max_bias > 0 ? sum - slope(in, i_head) * std::abs(i - i_key) : sum;
}

// Row of token i and a head, in double precision.
std::vector<double> expected(const AttentionInput &in, int32_t i, int32_t i_head) {
    std::vector<double> row(count(in.n_dims_v));
    const int32_t begin = in.ranges[2 * i];
    const int32_t end = in.ranges[2 * i + 1];
    if (begin == end) {
        return row;
    }
    std::vector<double> scores;
    for (int32_t j = begin; j < end; ++j) {
        scores.push_back(score(in, i, j, i_head));
    }
    double maximum = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    if (in.sinks != nullptr) {
        maximum = std::max<double>(maximum, in.sinks[i_head]);
        total = std::exp(in.sinks[i_head] - maximum);
    }
    for (size_t j = 0; j < scores.size(); ++j) {
        const double weight = std::exp(scores[j] - maximum);
        total += weight;
        const float *v = in.v.data + (count(begin) + j) * in.v.token_stride +
                         count(i_head / (in.n_heads / in.n_heads_kv)) * in.v.head_stride;
        for (size_t d = 0; d < row.size(); ++d) {
            row[d] += weight * v[d];
        }
    }
    for (double &value : row) {
        value /= total;
    }
    return row;
}

double largest_error(Batch &batch) {
    const std::vector<float> out = batch.attend();
    const AttentionInput &in = batch.input;
    double worst = 0;
    const float *found = out.data();
    for (int32_t i = 0; i < in.n_tokens; ++i) {
        for (int32_t i_head = 0; i_head < in.n_heads; ++i_head) {
            for (const double value : expected(in, i, i_head)) {
                const double error = std::abs(*found++ - value);
                worst = error <= worst ? worst : error; // NaN counts
            }
        }
    }
    return worst;
}

double error_of(const Shape &shape, const std::vector<int32_t> &lengths, Sight sight) {
    Batch batch(shape);
    unsigned seed = 0;
    for (const int32_t n : lengths) {
        batch.add(n, sight, ++seed);
    }
    return largest_error(batch);
}

const std::vector<Sight> all_sights = {Sight::causal, Sight::bidirectional, Sight::window, Sight::window_both,
                                       Sight::blocks};

// Rows of the sequence that was added as number i_sequence, each of lengths tokens.
std::vector<float> rows_of(const Batch &batch, const std::vector<float> &out, const std::vector<int32_t> &lengths,
                           size_t i_sequence) {
    size_t first = 0;
    for (size_t i = 0; i < i_sequence; ++i) {
        first += count(lengths[i]) * batch.row_size();
    }
    const auto begin = out.begin() + static_cast<std::ptrdiff_t>(first);
    return {begin, begin + static_cast<std::ptrdiff_t>(count(lengths[i_sequence]) * batch.row_size())};
}

} // namespace

TEST(every_length_is_right) {
    for (const Sight sight : all_sights) {
        for (int32_t n = 1; n < 70; ++n) {
            CHECK(error_of({1, 1, 16, 16}, {n}, sight) < tolerance);
        }
    }
}

TEST(long_sequences_are_right) {
    for (const Sight sight : all_sights) {
        CHECK(error_of({2, 1, 8, 8}, {129}, sight) < tolerance);
        CHECK(error_of({1, 1, 8, 8}, {700}, sight) < tolerance);
        CHECK(error_of({1, 1, 4, 4}, {1601}, sight) < tolerance);
    }
}

TEST(every_number_of_dimensions_is_right) {
    for (int32_t n = 1; n < 70; ++n) {
        CHECK(error_of({2, 1, n, 16}, {19, 5}, Sight::causal) < tolerance);
        CHECK(error_of({2, 1, 16, n}, {19, 5}, Sight::causal) < tolerance);
    }
    for (const int32_t n : {72, 80, 96, 112, 128, 192, 255, 256, 257, 512, 576}) {
        CHECK(error_of({2, 2, n, n}, {21, 40}, Sight::causal) < tolerance);
        CHECK(error_of({4, 1, n, 64}, {21, 40}, Sight::bidirectional) < tolerance);
        CHECK(error_of({1, 1, n, 3}, {300}, Sight::window) < tolerance);
    }
}

TEST(heads_share_keys) {
    for (const auto &[n_heads, n_heads_kv] :
         {std::pair(2, 1), {3, 1}, {7, 1}, {14, 2}, {16, 8}, {20, 1}, {71, 1}, {5, 5}}) {
        for (const Sight sight : all_sights) {
            CHECK(error_of({n_heads, n_heads_kv, 8, 8}, {1, 9, 33}, sight) < tolerance);
        }
    }
}

TEST(strides_may_leave_gaps) {
    for (const size_t gap : {1U, 7U, 100U}) {
        CHECK(error_of({4, 2, 24, 40, gap}, {3, 18, 50}, Sight::causal) < tolerance);
    }
}

TEST(packed_sequences_do_not_see_each_other) {
    CHECK(error_of({4, 2, 32, 32}, {1, 8, 8, 1, 1, 30, 130, 2, 64, 3}, Sight::causal) < tolerance);
    CHECK(error_of({4, 2, 32, 32}, {1, 8, 8, 1, 1, 30, 130, 2, 64, 3}, Sight::bidirectional) < tolerance);
}

TEST(scores_are_capped) {
    for (const float cap : {0.1F, 1.0F, 50.0F}) {
        Batch batch({4, 2, 32, 32});
        batch.add(40, Sight::causal, 1);
        batch.input.softcap = cap;
        batch.input.scale = 1.0F; // scores of size 6
        CHECK(largest_error(batch) < 10 * tolerance);
    }
}

TEST(distance_lowers_scores) {
    for (const int32_t n_heads : {1, 2, 3, 6, 8, 12}) {
        for (const Sight sight : all_sights) {
            Batch batch({n_heads, n_heads, 16, 16});
            batch.add(5, sight, 1);
            batch.add(60, sight, 2);
            batch.input.max_bias = 8.0F;
            CHECK(largest_error(batch) < tolerance);
            batch.input.softcap = 2.0F;
            CHECK(largest_error(batch) < tolerance);
        }
    }
}

TEST(sinks_take_their_share) {
    for (const Sight sight : all_sights) {
        Batch batch({4, 2, 16, 16});
        batch.sinks = {-100.0F, 0.5F, 3.0F, 100.0F};
        batch.add(5, sight, 1);
        batch.add(300, sight, 2);
        CHECK(largest_error(batch) < tolerance);
    }
}

TEST(empty_ranges_give_zeros) {
    for (const bool has_sinks : {false, true}) {
        Batch batch({2, 1, 16, 20});
        batch.add(60, Sight::causal, 1);
        std::fill_n(batch.ranges.begin(), 2 * 50, 0); // all of the first tile
        if (has_sinks) {
            batch.sinks = {1.0F, 2.0F};
        }
        CHECK(largest_error(batch) < tolerance);
        CHECK_EQ(batch.attend()[0], 0.0F);
        std::fill(batch.ranges.begin(), batch.ranges.end(), 0);
        CHECK(batch.attend() == std::vector<float>(60 * batch.row_size()));
    }
}

TEST(one_key_gives_its_value_exactly) {
    Batch batch({3, 1, 40, 24});
    batch.add(1, Sight::causal, 1);
    const std::vector<float> out = batch.attend();
    for (size_t i = 0; i < out.size(); ++i) {
        CHECK_EQ(out[i], batch.v[i % 24]);
    }
}

TEST(no_tokens_is_nothing_to_do) {
    Batch batch({2, 1, 16, 16});
    CHECK(batch.attend(3).empty());
}

TEST(a_row_has_the_same_bits_alone_and_in_any_company_and_on_any_number_of_threads) {
    const std::vector<int32_t> lengths = {8, 1, 130, 17, 64, 33, 8, 5};
    for (const Shape &shape : {Shape{4, 2, 32, 32}, {3, 3, 80, 24, 5}, {6, 1, 20, 21}}) {
        for (const Sight sight : all_sights) {
            Batch packed(shape);
            for (size_t i = 0; i < lengths.size(); ++i) {
                packed.add(lengths[i], sight, static_cast<unsigned>(i));
            }
            const std::vector<float> out = packed.attend();
            for (const int32_t n_threads : {2, 3, 7, 64, 1000}) {
                CHECK(packed.attend(n_threads) == out);
            }
            for (size_t i = 0; i < lengths.size(); ++i) {
                Batch alone(shape);
                alone.add(lengths[i], sight, static_cast<unsigned>(i));
                CHECK(alone.attend() == rows_of(packed, out, lengths, i));
            }
        }
    }
}

TEST(threads_at_once_fill_the_result) {
    Batch batch({8, 4, 32, 32});
    for (unsigned i = 0; i < 12; ++i) {
        batch.add(static_cast<int32_t>(5 * i + 1), Sight::causal, i);
    }
    const std::vector<float> out = batch.attend();
    std::vector<float> found(out.size(), not_a_number);
    batch.input.out = found.data();
    std::vector<std::thread> threads;
    for (int32_t i = 0; i < 4; ++i) {
        threads.emplace_back([&batch, i] { gge::attend(batch.input, i, 4); });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    CHECK(found == out);
}

// 1e4 times the size of a score is 1e4 times its error, 1e-3, and the weights have it in full.
TEST(extreme_scores_lose_no_more_than_their_own_rounding) {
    for (const float size : {1e4F, -1e4F}) {
        Batch batch({2, 1, 16, 16});
        batch.add(50, Sight::bidirectional, 1);
        batch.input.scale = size;
        CHECK(largest_error(batch) < 2e-2);
    }
    Batch batch({1, 1, 1, 1}); // products are exact
    batch.add(3, Sight::bidirectional, 1);
    batch.input.scale = 1.0F;
    batch.q = {1e4F, -1e4F, 1e30F};
    batch.k = {1.0F, -1.0F, 1.0F};
    batch.v = {1.0F, 2.0F, 5.0F};
    CHECK(batch.attend() == std::vector<float>({3.0F, 2.0F, 3.0F}));
}

TEST(what_is_not_finite_stays_in_its_sequence) {
    const std::vector<int32_t> lengths = {20, 20, 20};
    for (const float value : {not_a_number, infinity, -infinity}) {
        for (const Sight sight : all_sights) {
            Batch batch({2, 1, 16, 16});
            for (unsigned i = 0; i < 3; ++i) {
                batch.add(20, sight, i);
            }
            const std::vector<float> clean = batch.attend();
            for (std::vector<float> *values : {&batch.q, &batch.k, &batch.v}) {
                std::vector<float> kept = *values;
                (*values)[values->size() / 2] = value; // a token of the second sequence
                const std::vector<float> out = batch.attend();
                CHECK(rows_of(batch, out, lengths, 0) == rows_of(batch, clean, lengths, 0));
                CHECK(rows_of(batch, out, lengths, 2) == rows_of(batch, clean, lengths, 2));
                *values = kept;
            }
        }
    }
}

// Any NaN: the exponential computes with the bits of its argument.
TEST(nan_reaches_the_rows_that_see_it) {
    for (const uint32_t bits : {0x7FC00000U, 0x7FC00001U, 0xFFFFFFFFU, 0x7FFFFFFFU, 0xFFC00100U}) {
        float value;
        std::memcpy(&value, &bits, sizeof value);
        for (const int which : {0, 1, 2}) {
            Batch batch({1, 1, 16, 16});
            batch.add(40, Sight::bidirectional, 1);
            (which == 0 ? batch.q : which == 1 ? batch.k : batch.v)[16 * 17 + 3] = value;
            const std::vector<float> out = batch.attend();
            for (size_t i = 0; i < 40; ++i) {
                CHECK(std::isnan(out[i * 16 + 3]) == (which != 0 || i == 17));
            }
        }
    }
}
