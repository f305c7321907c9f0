// A test program is a list of TEST(name) { ... } blocks; every failed check prints where and what, and main returns 1.
#pragma once

#include "error.h"

#include <atomic>
#include <cstdio>
#include <functional>
#include <sstream>
#include <vector>

namespace check {

struct Test {
    const char *name;
    void (*run)();
};

inline std::vector<Test> &tests() {
    static std::vector<Test> list;
    return list;
}

inline std::atomic<int> &n_failed() { // checks may run on several threads
    static std::atomic<int> n{0};
    return n;
}

inline std::atomic<int> &n_checks() {
    static std::atomic<int> n{0};
    return n;
}

inline void fail(const char *file, int line, const std::string &what) {
    std::printf("%s:%d: %s\n", file, line, what.c_str());
    ++n_failed();
}

inline void that(bool ok, const char *file, int line, const char *text) {
    ++n_checks();
    if (!ok) {
        fail(file, line, std::string("not true: ") + text);
    }
}

template <typename A, typename B> void equal(const A &a, const B &b, const char *file, int line, const char *text) {
    ++n_checks();
    if (!(a == b)) {
        std::ostringstream out;
        out << text << ": " << a << " is not " << b;
        fail(file, line, out.str());
    }
}

// Runs body, which must throw a gge::Error with that status; returns its message.
inline std::string throws(gge_status status, const std::function<void()> &body, const char *file, int line) {
    ++n_checks();
    try {
        body();
    } catch (const gge::Error &e) {
        if (e.status() != status) {
            fail(file, line, std::string("threw ") + gge::status_name(e.status()) + ": " + e.what());
        }
        return e.what();
    }
    fail(file, line, std::string("did not throw ") + gge::status_name(status));
    return "";
}

inline bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

struct Registration {
    Registration(const char *name, void (*run)()) { tests().push_back({name, run}); }
};

inline int run_all() {
    for (const Test &test : tests()) {
        const int before = n_failed();
        try {
            test.run();
        } catch (const std::exception &e) {
            fail(test.name, 0, std::string("unexpected exception: ") + e.what());
        }
        std::printf("%s %s\n", n_failed() == before ? "ok    " : "FAILED", test.name);
    }
    std::printf("%zu tests, %d checks, %d failed\n", tests().size(), n_checks().load(), n_failed().load());
    return n_failed() == 0 && n_checks() > 0 ? 0 : 1;
}

} // namespace check

#define TEST(name)                                                                                                     \
    static void test_##name();                                                                                         \
    static const check::Registration registration_##name(#name, test_##name);                                          \
    static void test_##name()
#define CHECK(expr) check::that((expr), __FILE__, __LINE__, #expr)
#define CHECK_EQ(a, b) check::equal((a), (b), __FILE__, __LINE__, #a)
#define CHECK_THROWS(status, body) check::throws((status), [&] { body; }, __FILE__, __LINE__)

int main() {
    return check::run_all();
}
