#include "check.h"
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <random>

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
    const float *out = pooler.finish();
    return {out, out + n_embd};
}

std::vector<float> random_values(size_t n) {
    std::mt19937 random(5);
    std::vector<float> values(n);
    for (float &value : values) {
        value = static_cast<float>(static_cast<double>(random()) / 4294967296.0 - 0.5);
    }
    return values;
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

TEST(a_mean_has_the_bits_of_a_sum_in_the_order_of_the_rows) {
    const size_t n_embd = 37;
    const std::vector<float> rows = random_values(100 * n_embd);
    for (const size_t n_rows : std::initializer_list<size_t>{1, 2, 3, 4, 5, 7, 8, 99, 100}) {
        std::vector<float> expected;
        for (size_t i = 0; i < n_embd; ++i) {
            double sum = 0.0;
            for (size_t r = 0; r < n_rows; ++r) {
                sum += static_cast<double>(rows[r * n_embd + i]);
            }
            expected.push_back(static_cast<float>(sum * (1.0 / static_cast<double>(n_rows))));
        }
        CHECK(pool(GGE_POOLING_MEAN, rows, n_embd, {n_rows}) == expected);
        CHECK(pool(GGE_POOLING_MEAN, rows, n_embd, {n_rows / 2, n_rows - n_rows / 2}) == expected);
    }
}

TEST(start_forgets_the_input_before) {
    Pooler pooler(GGE_POOLING_MEAN, 1);
    const float first = 100;
    const float second = 3;
    pooler.start();
    pooler.add(&first, 1);
    pooler.start();
    pooler.add(&second, 1);
    CHECK_EQ(*pooler.finish(), 3.0F);
}

TEST(mean_does_not_lose_small_values_beside_large_ones) {
    const size_t n = 1 << 20;
    std::vector<float> rows(n, 1.0F);
    rows[0] = 3e8F; // in single precision, adding 1 to this changes nothing
    const auto out = pool(GGE_POOLING_MEAN, rows, 1, {n});
    const double exact = (3e8 + static_cast<double>(n - 1)) / static_cast<double>(n);
    CHECK(std::abs(static_cast<double>(out[0]) - exact) < 1e-5 * exact);
}

TEST(normalize_gives_unit_length_and_keeps_zero) {
    float row[2] = {3, 4};
    normalize(row, 2, row);
    CHECK(std::abs(row[0] - 0.6F) < 1e-7F && std::abs(row[1] - 0.8F) < 1e-7F);
    float zero[2] = {0, 0};
    normalize(zero, 2, zero);
    CHECK(zero[0] == 0 && zero[1] == 0);
    float large[2] = {3e38F, 3e38F}; // the sum of squares overflows a float
    normalize(large, 2, large);
    CHECK(std::abs(large[0] - 0.70710678F) < 1e-6F);
    float tiny[2] = {1e-30F, 0}; // and here it underflows
    normalize(tiny, 2, tiny);
    CHECK_EQ(tiny[0], 1.0F);
}

TEST(normalize_is_right_to_the_last_place) {
    for (const size_t n : std::initializer_list<size_t>{1, 7, 8, 9, 384, 1023}) {
        const std::vector<float> row = random_values(n);
        double sum = 0.0;
        for (const float value : row) {
            sum += static_cast<double>(value) * static_cast<double>(value);
        }
        std::vector<float> unit(n);
        normalize(row.data(), n, unit.data());
        for (size_t i = 0; i < n; ++i) {
            const auto exact = static_cast<float>(static_cast<double>(row[i]) / std::sqrt(sum));
            CHECK(std::nextafter(exact, -2.0F) <= unit[i] && unit[i] <= std::nextafter(exact, 2.0F));
        }
    }
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

namespace {

RowFormat format_of(size_t n_embd, size_t n_out, gge_output_type type = GGE_OUTPUT_FLOAT32) {
    RowFormat f;
    f.n_embd = n_embd;
    f.n_out = n_out;
    f.normalize = false;
    f.type = type;
    return f;
}

float from_half(uint16_t half) {
    const int exponent = half >> 10 & 31;
    const auto mantissa = static_cast<float>(half & 1023);
    const float value = exponent == 31  ? (mantissa != 0 ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(mantissa, -24)
                                        : std::ldexp(mantissa + 1024, exponent - 25);
    return (half & 0x8000) != 0 ? -value : value;
}

} // namespace

TEST(writer_cuts_first_and_scales_then) {
    RowFormat f = format_of(3, 2);
    f.normalize = true;
    RowWriter writer(f);
    const float row[3] = {3, 4, 12};
    float out[3] = {-1, -1, -1};
    CHECK(writer.write(row, out));
    CHECK(std::abs(out[0] - 0.6F) < 1e-7F && std::abs(out[1] - 0.8F) < 1e-7F);
    CHECK_EQ(out[2], -1.0F);
}

TEST(writer_projects_before_it_cuts) {
    std::vector<float> weights(3 * 9);
    for (size_t i = 0; i < weights.size(); ++i) {
        weights[i] = static_cast<float>(i);
    }
    const float bias[3] = {10, 20, 30};
    RowFormat f = format_of(9, 2);
    f.projection = weights.data();
    f.projection_bias = bias;
    f.n_projection = 3;
    const float row[9] = {1, 0, 0, 0, 0, 0, 0, 0, 2};
    float out[3] = {-1, -1, -1};
    CHECK(RowWriter(f).write(row, out));
    CHECK_EQ(out[0], 0.0F + 2 * 8 + 10);
    CHECK_EQ(out[1], 9.0F + 2 * 17 + 20);
    CHECK_EQ(out[2], -1.0F);
}

TEST(row_that_is_not_finite_is_written_as_failed) {
    const float row[3] = {1, NAN, 2};
    float out[3] = {5, 5, 5};
    CHECK(!RowWriter(format_of(3, 2)).write(row, out));
    CHECK(std::isnan(out[0]) && std::isnan(out[1]));
    CHECK_EQ(out[2], 5.0F);
    CHECK(RowWriter(format_of(3, 1)).write(row, out)); // what is cut away does not count
    uint16_t half = 0;
    RowWriter(format_of(1, 1, GGE_OUTPUT_FLOAT16)).fill_failed(&half);
    CHECK(std::isnan(from_half(half)));
    unsigned char byte = 7;
    RowWriter(format_of(1, 1, GGE_OUTPUT_BINARY)).fill_failed(&byte);
    CHECK_EQ(static_cast<int>(byte), 0);
}

TEST(every_half_survives_and_what_lies_between_goes_to_the_even_neighbour) {
    const RowConverter converter(GGE_OUTPUT_FLOAT16, nullptr, 1);
    const auto convert = [&](float value) {
        uint16_t half = 0;
        converter.convert(&value, &half);
        return half;
    };
    for (uint32_t h = 0; h < 0x7C00; ++h) {
        const auto half = static_cast<uint16_t>(h);
        CHECK_EQ(convert(from_half(half)), half);
        CHECK_EQ(convert(-from_half(half)), static_cast<uint16_t>(half | 0x8000));
        if (h + 1 < 0x7C00) {
            const float next = from_half(static_cast<uint16_t>(h + 1));
            const float middle = (from_half(half) + next) / 2; // exact in a float
            CHECK_EQ(convert(middle), static_cast<uint16_t>(h + (h & 1)));
            CHECK_EQ(convert(std::nextafter(middle, 0.0F)), half);
            CHECK_EQ(convert(std::nextafter(middle, 1e9F)), static_cast<uint16_t>(h + 1));
        }
    }
    CHECK_EQ(convert(65519.0F), 0x7BFF);
    CHECK_EQ(convert(65520.0F), 0x7C00);
    CHECK_EQ(convert(3e38F), 0x7C00);
    CHECK_EQ(convert(-INFINITY), 0xFC00);
    CHECK(std::isnan(from_half(convert(NAN))));
}

TEST(bytes_drop_the_fraction_and_stay_in_their_type) {
    const float ranges[10] = {0, -1, 0, 2, 0, 255, 1, 510, 2, 255}; // value 3 has the empty range 2 to 2
    const float row[5] = {3.9F, -5, 2.5F, 2, 0};
    unsigned char u[5];
    signed char s[5];
    RowConverter(GGE_OUTPUT_UINT8, ranges, 5).convert(row, u);
    CHECK(u[0] == 3 && u[1] == 0 && u[2] == 1 && u[3] == 0);
    RowConverter(GGE_OUTPUT_INT8, ranges, 5).convert(row, s);
    CHECK(s[0] == -125 && s[1] == -128 && s[2] == -127 && s[3] == -128 && s[4] == -128);
    const float above[5] = {1e9F, 1e9F, 1e9F, 1e9F, 1e9F};
    RowConverter(GGE_OUTPUT_UINT8, ranges, 5).convert(above, u);
    CHECK(u[0] == 255 && u[1] == 255 && u[4] == 255);
    RowConverter(GGE_OUTPUT_INT8, ranges, 5).convert(above, s);
    CHECK(s[0] == 127 && s[2] == 127);
}

TEST(bytes_need_ranges_that_make_sense) {
    CHECK_THROWS(GGE_E_INVALID, RowConverter(GGE_OUTPUT_INT8, nullptr, 1));
    const float falling[2] = {1, 0};
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, RowConverter(GGE_OUTPUT_UINT8, falling, 1)), "value 0"));
    const float nan[2] = {NAN, 0};
    CHECK_THROWS(GGE_E_INVALID, RowConverter(GGE_OUTPUT_UINT8, nan, 1));
    const float wide[2] = {-3e38F, 3e38F}; // the width overflows a float
    CHECK_THROWS(GGE_E_INVALID, RowConverter(GGE_OUTPUT_UINT8, wide, 1));
}

TEST(bits_are_packed_from_the_highest) {
    const float row[10] = {1, 0, -1, 1e-30F, -3, 0, 0, 5, -0.0F, 7};
    unsigned char u[2];
    RowConverter(GGE_OUTPUT_UBINARY, nullptr, 10).convert(row, u);
    CHECK(u[0] == 0x91 && u[1] == 0x40);
    signed char s[2];
    RowConverter(GGE_OUTPUT_BINARY, nullptr, 10).convert(row, s);
    CHECK(s[0] == 0x91 - 128 && s[1] == 0x40 - 128);
}

TEST(converted_rows_that_are_not_finite_are_those_of_failed_inputs) {
    const float rows[16] = {NAN, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, INFINITY};
    const float ranges[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    for (const gge_output_type type : {GGE_OUTPUT_INT8, GGE_OUTPUT_UINT8, GGE_OUTPUT_BINARY, GGE_OUTPUT_UBINARY}) {
        unsigned char out[16];
        std::fill_n(out, 16, 9);
        convert_rows({rows, 2, 8}, 8, type, ranges, {out, 2, 8});
        for (size_t i = 0; i < n_elements(type, 8); ++i) {
            CHECK(out[i] == 0 && out[8 + i] == 0);
        }
    }
}

TEST(convert_rows_checks_its_shapes) {
    const float rows[4] = {1, -1, 2, -2};
    unsigned char out[2] = {0, 0};
    convert_rows({rows, 2, 2}, 2, GGE_OUTPUT_UBINARY, nullptr, {out, 2, 1});
    CHECK(out[0] == 0x80 && out[1] == 0x80);
    CHECK_THROWS(GGE_E_INVALID, convert_rows({rows, 2, 1}, 2, GGE_OUTPUT_UBINARY, nullptr, {out, 2, 1}));
    CHECK_THROWS(GGE_E_INVALID, convert_rows({rows, 2, 2}, 2, GGE_OUTPUT_UINT8, rows, {out, 2, 1}));
    CHECK_THROWS(GGE_E_INVALID, convert_rows({nullptr, 2, 2}, 2, GGE_OUTPUT_UBINARY, nullptr, {out, 2, 1}));
    CHECK_THROWS(GGE_E_INVALID, convert_rows({rows, 2, 2}, 2, GGE_OUTPUT_UBINARY, nullptr, {nullptr, 2, 1}));
}
