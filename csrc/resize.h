// Sizes of images and video, and Pillow's bicubic filter. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gge {

// 8-bit RGB pixels of one frame: [height, row_bytes], of which the first 3 * width bytes of a row are read.
struct Pixels {
    const uint8_t *data = nullptr;
    int32_t width = 0;
    int32_t height = 0;
    int64_t row_bytes = 0;
};

struct ImageSize {
    int32_t width = 0;
    int32_t height = 0;
};

struct SizeRule {
    int32_t factor = 1; // both sides become multiples of it
    int64_t min_pixels = 0;
    int64_t max_pixels = 0;
};

constexpr int32_t max_source_side = 1 << 16;
constexpr int32_t max_aspect_ratio = 200;
constexpr int32_t max_video_frames = 1 << 20;
constexpr int64_t max_target_bytes = int64_t{1} << 31; // of all frames of a medium

// The size that an image is brought to. Throws Error.
ImageSize image_size(ImageSize source, const SizeRule &rule);

// The same for each frame of a video, whose limits are for width x height x frames.
ImageSize video_size(ImageSize source, int32_t n_frames, const SizeRule &rule);

// [size.height, size.width, 3], what Pillow's Image.resize makes of an image with BICUBIC, bit for bit.
// pixels: checked by the caller
std::vector<uint8_t> resize_bicubic(const Pixels &pixels, ImageSize size);

} // namespace gge
