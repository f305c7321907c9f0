#include "check.h"
#include "resize.h"

#include <numeric>

using namespace gge;

namespace {

constexpr SizeRule omni{32, 262144, 1310720};
constexpr SizeRule omni_video{32, 262144, 12845056};

std::string text(ImageSize size) {
    return std::to_string(size.width) + " x " + std::to_string(size.height);
}

struct Image {
    int32_t width;
    int32_t height;
    int64_t row_bytes;
    std::vector<uint8_t> bytes;

    Image(int32_t w, int32_t h, int64_t padding = 0)
        : width(w), height(h), row_bytes(3 * w + padding), bytes(static_cast<size_t>(row_bytes * h)) {
        std::iota(bytes.begin(), bytes.end(), uint8_t{1});
    }

    Pixels pixels() const { return {bytes.data(), width, height, row_bytes}; }
};

} // namespace

TEST(sides_become_multiples_within_the_limits) {
    CHECK_EQ(text(image_size({640, 480}, omni)), "640 x 480");
    CHECK_EQ(text(image_size({100, 100}, omni)), "512 x 512");
    CHECK_EQ(text(image_size({4000, 3000}, omni)), "1312 x 960");
    CHECK_EQ(text(image_size({1240, 1754}, omni)), "960 x 1344");
}

TEST(ties_go_to_the_even_multiple) {
    constexpr SizeRule wide{32, 1, 1 << 30};
    CHECK_EQ(text(image_size({48, 80}, wide)), "64 x 64");
    CHECK_EQ(text(image_size({112, 144}, wide)), "128 x 128");
}

TEST(no_size_is_less_than_a_cell) {
    CHECK_EQ(text(image_size({1, 1}, {32, 1, 1})), "32 x 32");
    CHECK_EQ(text(image_size({1, 1}, {32, 0, 0})), "32 x 32");
    CHECK_EQ(text(image_size({5000, 25}, {32, 0, 100})), "128 x 32");
    CHECK_EQ(text(video_size({5000, 25}, 7, {32, 0, 100})), "32 x 32");
}

TEST(the_aspect_ratio_is_limited) {
    CHECK_EQ(text(image_size({200, 1}, omni)), "7264 x 64");
    const std::string message = CHECK_THROWS(GGE_E_INVALID, image_size({201, 1}, omni));
    CHECK_EQ(message, "image is 201 x 1 pixels, one side may be at most 200 times the other");
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, video_size({3, 601}, 2, omni_video)),
             "video frame is 3 x 601 pixels, one side may be at most 200 times the other");
}

TEST(sides_that_make_no_sense_are_named) {
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, image_size({0, 5}, omni)),
             "image is 0 x 5 pixels, both sides must be at least 1");
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, image_size({5, -7}, omni)),
             "image is 5 x -7 pixels, both sides must be at least 1");
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, image_size({65537, 5000}, omni)),
             "image is 65537 x 5000 pixels, a side may have 65536");
    CHECK_THROWS(GGE_E_INVALID, image_size({INT32_MAX, INT32_MAX}, omni));
    CHECK_THROWS(GGE_E_INVALID, image_size({INT32_MIN, INT32_MAX}, omni));
}

TEST(huge_targets_are_refused) {
    const std::string message = CHECK_THROWS(GGE_E_INVALID, image_size({10, 10}, {32, INT64_MAX, INT64_MAX}));
    CHECK(check::contains(message, "image of 10 x 10 pixels would become one of 3037000512 x 3037000512 pixels"));
    CHECK(check::contains(message, "more than 2147483648 bytes"));
    CHECK_THROWS(GGE_E_INVALID, image_size({65536, 65536}, {32, 0, INT64_MAX}));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, video_size({1000, 1000}, 1000, {32, 0, INT64_MAX})),
                          "and 1000 frames"));
}

TEST(numbers_of_frames_are_checked) {
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, video_size({10, 10}, 0, omni_video)),
             "video has 0 frames, it needs at least 1");
    CHECK_THROWS(GGE_E_INVALID, video_size({10, 10}, INT32_MIN, omni_video));
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, video_size({10, 10}, INT32_MAX, omni_video)),
             "video has 2147483647 frames, the limit is 1048576");
}

TEST(limits_of_a_video_are_for_all_frames) {
    CHECK_EQ(text(video_size({640, 480}, 2, omni_video)), "640 x 480");
    CHECK_EQ(text(video_size({1920, 1080}, 32, omni_video)), "832 x 448");
    CHECK_EQ(text(video_size({1920, 1080}, 8, omni_video)), "1664 x 928");
    CHECK_EQ(text(video_size({64, 64}, 2, omni_video)), "384 x 384");
}

TEST(padding_between_rows_is_not_read) {
    const Image wide(5, 4, 7);
    const std::vector<uint8_t> same = resize_bicubic(wide.pixels(), {5, 4});
    CHECK_EQ(same.size(), 60U);
    CHECK(std::equal(same.begin(), same.begin() + 15, wide.bytes.begin()));
    CHECK(std::equal(same.begin() + 15, same.begin() + 30, wide.bytes.begin() + 22));
    const Pixels packed{same.data(), 5, 4, 15};
    for (const ImageSize size : {ImageSize{5, 9}, {9, 4}, {3, 2}, {64, 1}, {1, 64}, {11, 13}}) {
        CHECK(resize_bicubic(wide.pixels(), size) == resize_bicubic(packed, size));
    }
}

TEST(one_colour_stays_that_colour) {
    for (const uint8_t value : std::initializer_list<uint8_t>{0, 1, 127, 255}) {
        const std::vector<uint8_t> bytes(7 * 3 * 3, value);
        for (const ImageSize size : {ImageSize{1, 1}, {2, 5}, {7, 40}, {100, 3}, {33, 65}}) {
            const std::vector<uint8_t> out = resize_bicubic({bytes.data(), 7, 3, 21}, size);
            CHECK(out == std::vector<uint8_t>(static_cast<size_t>(3 * size.width * size.height), value));
        }
    }
}

TEST(every_size_around_a_block_is_resized_within_bounds) {
    for (const int32_t n : {1, 2, 10, 11, 31, 32, 33, 63, 64, 65}) {
        const Image image(n, n + 1);
        for (const int32_t m : {1, 10, 11, 32, 33, 65}) {
            CHECK_EQ(resize_bicubic(image.pixels(), {m, 2 * m}).size(), static_cast<size_t>(6 * m * m));
        }
    }
}

TEST(overshoot_is_clipped) {
    const std::vector<uint8_t> edge = {0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255}; // black, black, white, white
    const std::vector<uint8_t> out = resize_bicubic({edge.data(), 4, 1, 12}, {16, 1});
    CHECK_EQ(out.front(), 0);
    CHECK_EQ(out.back(), 255);
    CHECK_EQ(out[3 * 5], 0);    // below 0 before
    CHECK_EQ(out[3 * 10], 255); // above 255 before
}
