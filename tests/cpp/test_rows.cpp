#include "check.h"
#include "rows.h"

#include <cmath>

using namespace gge;

namespace {

std::vector<float> pool(gge_pooling pooling, const std::vector<float> &rows, size_t n_embd,
                        const std::vector<size_t> &pieces) {
    Pooler pooler(pooling, n_embd);
    pooler.start();
    size_t done = 0;
    for (const size_t n : pieces) {
        pooler.add(rows.data() + done * n_embd, n);
        done += n;
    }
    std::vector<float> out(n_embd);
    pooler.finish(out.data(), n_embd);
    return out;
}

const std::vector<float> four_rows = {1, 2, 3, 5, 8, 13, 21, 34};

} // namespace

TEST(poolings_of_one_piece) {
    CHECK(pool(GGE_POOLING_MEAN, four_rows, 2, {4}) == std::vector<float>({8.25F, 13.5F}));
    CHECK(pool(GGE_POOLING_CLS, four_rows, 2, {4}) == std::vector<float>({1, 2}));
    CHECK(pool(GGE_POOLING_LAST, four_rows, 2, {4}) == std::vector<float>({21, 34}));
}

TEST(pieces_do_not_change_the_result) {
    for (const gge_pooling pooling : {GGE_POOLING_MEAN, GGE_POOLING_CLS, GGE_POOLING_LAST}) {
        const auto whole = pool(pooling, four_rows, 2, {4});
        CHECK(pool(pooling, four_rows, 2, {1, 3}) == whole);
        CHECK(pool(pooling, four_rows, 2, {2, 0, 1, 1}) == whole);
    }
}

TEST(start_forgets_the_input_before) {
    Pooler pooler(GGE_POOLING_MEAN, 1);
    const float first = 100;
    const float second = 3;
    float out = 0;
    pooler.start();
    pooler.add(&first, 1);
    pooler.start();
    pooler.add(&second, 1);
    pooler.finish(&out, 1);
    CHECK_EQ(out, 3.0F);
}

TEST(mean_does_not_lose_small_values_beside_large_ones) {
    const size_t n = 1 << 20;
    std::vector<float> rows(n, 1.0F);
    rows[0] = 3e8F; // in single precision, adding 1 to this changes nothing
    const auto out = pool(GGE_POOLING_MEAN, rows, 1, {n});
    const double exact = (3e8 + static_cast<double>(n - 1)) / static_cast<double>(n);
    CHECK(std::abs(static_cast<double>(out[0]) - exact) < 1e-5 * exact);
}

TEST(finish_writes_only_what_is_asked_for) {
    Pooler pooler(GGE_POOLING_LAST, 3);
    const float row[3] = {1, 2, 3};
    float out[3] = {-1, -1, -1};
    pooler.start();
    pooler.add(row, 1);
    pooler.finish(out, 2);
    CHECK_EQ(out[0], 1.0F);
    CHECK_EQ(out[1], 2.0F);
    CHECK_EQ(out[2], -1.0F);
}

TEST(normalize_gives_unit_length_and_keeps_zero) {
    float row[2] = {3, 4};
    normalize(row, 2);
    CHECK(std::abs(row[0] - 0.6F) < 1e-7F && std::abs(row[1] - 0.8F) < 1e-7F);
    float zero[2] = {0, 0};
    normalize(zero, 2);
    CHECK(zero[0] == 0 && zero[1] == 0);
    float large[2] = {3e38F, 3e38F}; // the sum of squares overflows a float
    normalize(large, 2);
    CHECK(std::abs(large[0] - 0.70710678F) < 1e-6F);
    float tiny[2] = {1e-30F, 0}; // and here it underflows
    normalize(tiny, 2);
    CHECK_EQ(tiny[0], 1.0F);
}

TEST(all_finite_finds_nan_and_infinity) {
    const float ok[3] = {0, -1, 3e38F};
    const float nan[3] = {0, NAN, 0};
    const float inf[3] = {0, 0, -INFINITY};
    CHECK(all_finite(ok, 3));
    CHECK(!all_finite(nan, 3));
    CHECK(!all_finite(inf, 3));
    CHECK(all_finite(inf, 2));
}

TEST(fill_nan_fills) {
    float row[3] = {1, 2, 3};
    fill_nan(row, 2);
    CHECK(std::isnan(row[0]) && std::isnan(row[1]));
    CHECK_EQ(row[2], 3.0F);
}
