#include "check.h"
#include "threads.h"

#include <thread>

using namespace gge;

TEST(default_is_between_one_and_the_logical_cpus) {
    const int32_t n = default_n_threads();
    CHECK(n >= 1);
    CHECK(n <= static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency())));
}

TEST(cpu_quota_is_rounded_up) {
    CHECK_EQ(parse_cpu_max("200000 100000"), 2);
    CHECK_EQ(parse_cpu_max("150000 100000"), 2);
    CHECK_EQ(parse_cpu_max("50000 100000"), 1);
    CHECK_EQ(parse_cpu_max("1 100000\n"), 1);
}

TEST(no_quota_and_unreadable_lines_mean_no_limit) {
    CHECK_EQ(parse_cpu_max("max 100000"), 0);
    CHECK_EQ(parse_cpu_max(""), 0);
    CHECK_EQ(parse_cpu_max("200000"), 0);
    CHECK_EQ(parse_cpu_max("200000 0"), 0);
    CHECK_EQ(parse_cpu_max("-5 100000"), 0);
    CHECK_EQ(parse_cpu_max("abc 100000"), 0);
}
