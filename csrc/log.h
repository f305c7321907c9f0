// The process-wide log callback, and a way to keep upstream's last complaint for an error message.
#pragma once

#include "include/ggembed.h"

#include <string>

namespace gge {

void set_log(gge_log_fn log, void *user_data, gge_log_level min_level);

// text may hold several lines or end in a newline. Never throws.
void log_line(gge_log_level level, const char *text) noexcept;

// While it lives, collects the error lines that are logged on this thread.
class ErrorLines {
public:
    ErrorLines() noexcept;
    ~ErrorLines();
    ErrorLines(const ErrorLines &) = delete;
    ErrorLines &operator=(const ErrorLines &) = delete;

    // The lines so far, joined by "; ", or fallback if there were none.
    std::string text(const char *fallback) const;

    void add(const char *line);

private:
    std::string lines_;
    ErrorLines *outer_;
};

} // namespace gge
