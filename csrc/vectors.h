// Vectors of floats, as wide as those of the CPU that the including file is compiled for; GCC's and Clang's extension,
// which any other CPU has too. For files with compile options of their own: everything is internal to the file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

// Before a loop that must not stay one, so that what it computes can stay in registers.
#if defined(__clang__)
#define GGE_UNROLLED _Pragma("clang loop unroll(full)")
#else
#define GGE_UNROLLED _Pragma("GCC unroll 16")
#endif

namespace gge {

namespace { // NOLINT(cert-dcl59-cpp)

#if defined(__AVX512F__)
constexpr size_t width = 16; // floats of a vector
#elif defined(__AVX__)
constexpr size_t width = 8;
#else
constexpr size_t width = 4;
#endif

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

inline Vector larger(Vector a, Vector b) {
    return a > b ? a : b;
}

// 2^x for x <= 0, within 2 ulp; 0 where that is below the normal numbers.
inline Vector exp2_of(Vector x) {
    constexpr float shift = 12582912.0F; // 1.5 * 2^23: the lowest bits of a sum with it are the other number, rounded
    const Vector shifted = x + shift;
    const Vector f = x - (shifted - shift);
    Vector p = f * 0.00132647273F + 0.00967151299F; // minimax for (2^f - 1) / f, |f| <= 1/2
    p = p * f + 0.0555073358F;
    p = p * f + 0.240222424F;
    p = p * f + 0.693147004F;
    p = p * f + 1.0F;
    const auto scaled = bits_as<Vector>(bits_as<Bits>(p) + (bits_as<Bits>(shifted) << 23));
    return x >= -126.0F ? scaled : (x < 0.0F ? Vector{} : x); // NaN stays
}

inline Vector tanh_of(Vector x) {
    constexpr float log2_e = 1.44269504F;
    const Vector e = exp2_of((x < 0.0F ? x : -x) * (2.0F * log2_e));
    const Vector t = (1.0F - e) / (1.0F + e);
    return x < 0.0F ? -t : t;
}

// The values of two vectors by turns: those of their first halves, or of their second.
template <size_t half, size_t... i> Vector zip(Vector a, Vector b, std::index_sequence<i...> /*values*/) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (half * (width / 2) + i / 2 + i % 2 * width)...);
#else
    return __builtin_shuffle(a, b, Integers{(half * (width / 2) + i / 2 + i % 2 * width)...});
#endif
}

inline void transpose(Vector (&rows)[width]) {
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

} // namespace

} // namespace gge
