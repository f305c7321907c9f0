// The version of the library as a string; the numbers stand in the public header.
#pragma once

#include "include/ggembed.h"

namespace gge {

#define GGE_TEXT_OF(x) #x
#define GGE_TEXT(x) GGE_TEXT_OF(x)
constexpr const char *version =
    GGE_TEXT(GGE_VERSION_MAJOR) "." GGE_TEXT(GGE_VERSION_MINOR) "." GGE_TEXT(GGE_VERSION_PATCH);
#undef GGE_TEXT
#undef GGE_TEXT_OF

} // namespace gge
