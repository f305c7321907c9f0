#include "log.h"

#include <atomic>
#include <mutex>
#include <new>
#include <shared_mutex>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace gge {
namespace {

struct Sink {
    gge_log_fn log = nullptr;
    void *user_data = nullptr;
};

std::shared_mutex *make_sink_mutex() {
    static auto *mutex = new std::shared_mutex;
#if !defined(_WIN32)
    // A thread may hold it at the moment of a fork, and the child has no such thread. The parent cannot wait for it:
    // that thread may be in a callback that waits for a lock of the forking one, such as Python's.
    pthread_atfork(nullptr, nullptr, [] { new (mutex) std::shared_mutex; });
#endif
    return mutex;
}

// Never destroyed: a worker thread may still log while the process exits.
std::shared_mutex &sink_mutex() {
    static std::shared_mutex *mutex = make_sink_mutex();
    return *mutex;
}

Sink g_sink;
std::atomic<gge_log_level> g_min_level{GGE_LOG_ERROR + 1};

thread_local ErrorLines *t_error_lines = nullptr;

} // namespace

void set_log(gge_log_fn log, void *user_data, gge_log_level min_level) {
    const std::unique_lock<std::shared_mutex> lock(sink_mutex());
    g_sink = {log, user_data};
    g_min_level = log == nullptr ? GGE_LOG_ERROR + 1 : min_level;
}

void log_line(gge_log_level level, const char *text) noexcept {
    try {
        const bool collect = level >= GGE_LOG_ERROR && t_error_lines != nullptr;
        const bool emit = level >= g_min_level.load(std::memory_order_relaxed);
        if (!collect && !emit) {
            return;
        }
        const std::string all(text);
        for (size_t begin = 0; begin < all.size();) {
            const size_t end = std::min(all.find('\n', begin), all.size());
            const std::string line = all.substr(begin, end - begin);
            begin = end + 1;
            if (line.empty()) {
                continue;
            }
            if (collect) {
                t_error_lines->add(line.c_str());
            }
            if (emit) {
                const std::shared_lock<std::shared_mutex> lock(sink_mutex());
                if (g_sink.log != nullptr) {
                    g_sink.log(g_sink.user_data, level, line.c_str());
                }
            }
        }
    } catch (...) { // a lost log line must not become an error
    }
}

ErrorLines::ErrorLines() noexcept : outer_(t_error_lines) {
    t_error_lines = this;
}

ErrorLines::~ErrorLines() {
    t_error_lines = outer_;
}

void ErrorLines::add(const char *line) {
    if (!lines_.empty()) {
        lines_ += "; ";
    }
    lines_ += line;
}

std::string ErrorLines::text(const char *fallback) const {
    return lines_.empty() ? fallback : lines_;
}

} // namespace gge
