// A checked view over flat bytes + offsets.
#pragma once

#include "error.h"

#include <string_view>

namespace gge {

// Position of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7), or npos.
inline size_t find_invalid_utf8(std::string_view s) noexcept {
    const auto *p = reinterpret_cast<const unsigned char *>(s.data());
    const size_t n = s.size();
    const auto is_tail = [](unsigned char c) { return (c & 0xC0) == 0x80; };
    size_t i = 0;
    while (i < n) {
        const unsigned char c = p[i];
        if (c < 0x80) {
            ++i;
            for (uint64_t eight = 0; n - i >= sizeof(eight); i += sizeof(eight)) {
                std::memcpy(&eight, p + i, sizeof(eight));
                if ((eight & 0x8080808080808080U) != 0) {
                    break;
                }
            }
            continue;
        }
        const size_t len = c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
        if (len == 0 || n - i < len) {
            return i;
        }
        for (size_t k = 1; k < len; ++k) {
            if (!is_tail(p[i + k])) {
                return i;
            }
        }
        const unsigned char d = p[i + 1];
        if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) || (c == 0xF4 && d > 0x8F)) {
            return i; // overlong, surrogate, or beyond U+10FFFF
        }
        i += len;
    }
    return std::string_view::npos;
}

// What is wrong with a text that other_bytes of others come to stand beside, as the end of a sentence; empty if it is
// fine.
inline std::string find_fault(std::string_view text, size_t other_bytes) {
    constexpr size_t max_bytes = INT32_MAX; // the length that upstream's tokenizer takes
    if (text.size() > max_bytes - other_bytes) {
        return "has " + std::to_string(text.size()) + " bytes, at most " + std::to_string(max_bytes - other_bytes) +
               " are possible";
    }
    const size_t bad = find_invalid_utf8(text);
    return bad == std::string_view::npos ? "" : "is not valid UTF-8 at byte " + std::to_string(bad);
}

// Throws unless offsets are n_items + 1 numbers that start at 0 or later and do not decrease.
inline void check_offsets(const int64_t *offsets, int64_t n_items, const char *name = "n_texts") {
    if (n_items < 0) {
        throw Error(GGE_E_INVALID, std::string(name) + " is " + std::to_string(n_items) + ", it must not be negative");
    }
    if (offsets == nullptr) {
        throw Error(GGE_E_INVALID, "offsets is NULL");
    }
    if (offsets[0] < 0) {
        throw Error(GGE_E_INVALID, "offsets[0] is " + std::to_string(offsets[0]) + ", it must not be negative");
    }
    for (int64_t i = 0; i < n_items; ++i) {
        if (offsets[i + 1] < offsets[i]) {
            throw Error(GGE_E_INVALID,
                        "offsets decrease from " + std::to_string(offsets[i]) + " to " + std::to_string(offsets[i + 1]),
                        i);
        }
    }
}

class Texts {
public:
    Texts(const uint8_t *bytes, const int64_t *offsets, int64_t n_texts)
        : bytes_(reinterpret_cast<const char *>(bytes)), offsets_(offsets), n_texts_(n_texts) {
        check_offsets(offsets, n_texts);
        if (bytes == nullptr && offsets[n_texts] > 0) {
            throw Error(GGE_E_INVALID, "bytes is NULL, but offsets reach " + std::to_string(offsets[n_texts]));
        }
    }

    int64_t size() const noexcept { return n_texts_; }
    size_t n_bytes() const noexcept { return static_cast<size_t>(offsets_[n_texts_] - offsets_[0]); }

    std::string_view operator[](int64_t i) const noexcept {
        return bytes_ == nullptr
                   ? std::string_view()
                   : std::string_view(bytes_ + offsets_[i], static_cast<size_t>(offsets_[i + 1] - offsets_[i]));
    }

private:
    const char *bytes_;
    const int64_t *offsets_;
    int64_t n_texts_;
};

} // namespace gge
