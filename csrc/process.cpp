#include "process.h"

#include "error.h"

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <unistd.h>
#endif

namespace gge {

int64_t process_id() noexcept {
#if defined(_WIN32)
    return static_cast<int64_t>(GetCurrentProcessId());
#else
    return getpid();
#endif
}

void Owner::check(const char *what) const {
    if (!is_here()) {
        throw Error(GGE_E_CLOSED, std::string("the ") + what + " belongs to process " + std::to_string(process_) +
                                      " and cannot be used in its forked child " + std::to_string(process_id()) +
                                      "; make one after the fork, or start processes with spawn");
    }
}

} // namespace gge
