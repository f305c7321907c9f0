// The one exception that our code throws, and the guard that turns whatever is thrown into a gge_error.
#pragma once

#include "include/ggembed.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <utility>

namespace gge {

inline const char *status_name(gge_status status) noexcept {
    switch (status) {
    case GGE_OK: return "GGE_OK";
    case GGE_E_INVALID: return "GGE_E_INVALID";
    case GGE_E_UNSUPPORTED: return "GGE_E_UNSUPPORTED";
    case GGE_E_IO: return "GGE_E_IO";
    case GGE_E_FORMAT: return "GGE_E_FORMAT";
    case GGE_E_MEMORY: return "GGE_E_MEMORY";
    case GGE_E_DEVICE: return "GGE_E_DEVICE";
    case GGE_E_TOO_LONG: return "GGE_E_TOO_LONG";
    case GGE_E_EMPTY: return "GGE_E_EMPTY";
    case GGE_E_NOT_FINITE: return "GGE_E_NOT_FINITE";
    case GGE_E_ABORTED: return "GGE_E_ABORTED";
    case GGE_E_CLOSED: return "GGE_E_CLOSED";
    case GGE_E_INTERNAL: return "GGE_E_INTERNAL";
    case GGE_E_BUSY: return "GGE_E_BUSY";
    default: return "unknown";
    }
}

class Error : public std::exception {
public:
    Error(gge_status status, std::string message, int64_t input_index = -1)
        : status_(status), input_index_(input_index), message_(std::move(message)) {}

    const char *what() const noexcept override { return message_.c_str(); }
    gge_status status() const noexcept { return status_; }
    int64_t input_index() const noexcept { return input_index_; }

private:
    gge_status status_;
    int64_t input_index_;
    std::string message_;
};

// Writes one line into err, cut at a UTF-8 boundary if it is too long. err may be NULL.
inline void set_error(gge_error *err, gge_status status, const char *message, int64_t input_index = -1) noexcept {
    if (err == nullptr) {
        return;
    }
    *err = gge_error{};
    err->status = status;
    err->input_index = input_index;
    size_t n = std::min(std::strlen(message), sizeof(err->message) - 1);
    if (message[n] != '\0') {
        while (n > 0 && (static_cast<unsigned char>(message[n]) & 0xC0) == 0x80) {
            --n;
        }
    }
    std::transform(message, message + n, err->message, [](char c) { return c == '\n' || c == '\r' ? ' ' : c; });
    err->message[n] = '\0';
}

// Runs body and reports how it went. Every exported function that can fail consists of one call of it.
template <typename Body> gge_status guard(gge_error *err, Body &&body) noexcept {
    try {
        body();
        set_error(err, GGE_OK, "");
        return GGE_OK;
    } catch (const Error &e) {
        set_error(err, e.status(), e.what(), e.input_index());
        return e.status();
    } catch (const std::bad_alloc &) {
        set_error(err, GGE_E_MEMORY, "out of memory");
        return GGE_E_MEMORY;
    } catch (const std::exception &e) {
        set_error(err, GGE_E_INTERNAL, e.what());
        return GGE_E_INTERNAL;
    } catch (...) {
        set_error(err, GGE_E_INTERNAL, "unknown exception");
        return GGE_E_INTERNAL;
    }
}

} // namespace gge
