// Sizes of images and video, and Pillow's bicubic filter. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>
