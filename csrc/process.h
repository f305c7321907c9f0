// The process that something belongs to. A forked child has a copy of its parent's memory, but none of its threads, and
// drivers of GPUs do not work in it.
#pragma once

#include <cstdint>

namespace gge {

int64_t process_id() noexcept;

class Owner {
public:
    explicit Owner(int64_t process) noexcept : process_(process) {}

    int64_t process() const noexcept { return process_; }
    bool is_here() const noexcept { return process_ == process_id(); }

    // Throws Error in a forked child. what: "engine"
    void check(const char *what) const;

private:
    int64_t process_;
};

inline Owner this_process() noexcept {
    return Owner(process_id());
}

} // namespace gge
