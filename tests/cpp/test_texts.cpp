#include "check.h"
#include "texts.h"

using namespace gge;
using std::string_view;

namespace {

size_t bad_at(const std::string &s) {
    return find_invalid_utf8(s);
}

} // namespace

TEST(valid_utf8_of_all_lengths) {
    for (const string_view s : {"", "ascii", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                                "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a\xC3\xA9z"}) {
        CHECK_EQ(find_invalid_utf8(s), string_view::npos);
    }
    CHECK_EQ(find_invalid_utf8(string_view("a\0b", 3)), string_view::npos);
}

TEST(invalid_utf8_is_found_where_it_begins) {
    CHECK_EQ(bad_at("ab\x80"), size_t{2});           // lone continuation
    CHECK_EQ(bad_at("\xC0\x80"), size_t{0});         // overlong
    CHECK_EQ(bad_at("\xC1\xBF"), size_t{0});         // overlong
    CHECK_EQ(bad_at("\xE0\x9F\xBF"), size_t{0});     // overlong
    CHECK_EQ(bad_at("\xF0\x8F\xBF\xBF"), size_t{0}); // overlong
    CHECK_EQ(bad_at("x\xED\xA0\x80"), size_t{1});    // surrogate
    CHECK_EQ(bad_at("\xF4\x90\x80\x80"), size_t{0}); // beyond U+10FFFF
    CHECK_EQ(bad_at("\xF5\x80\x80\x80"), size_t{0});
    CHECK_EQ(bad_at("abc\xE2\x82"), size_t{3}); // cut off
    CHECK_EQ(bad_at("\xE2\x28\xA1"), size_t{0});
    CHECK_EQ(bad_at("\xFF"), size_t{0});
}

TEST(texts_are_views_of_the_bytes) {
    const uint8_t bytes[] = {'x', 'a', 'b', 0, 'c'};
    const int64_t offsets[] = {1, 3, 3, 5};
    const Texts texts(bytes, offsets, 3);
    CHECK_EQ(texts.size(), 3);
    CHECK_EQ(texts[0], string_view("ab"));
    CHECK_EQ(texts[1], string_view(""));
    CHECK_EQ(texts[2], string_view("\0c", 2));
}

TEST(no_texts_need_no_bytes) {
    const int64_t offsets[] = {0};
    CHECK_EQ(Texts(nullptr, offsets, 0).size(), 0);
    const int64_t empty[] = {0, 0};
    CHECK_EQ(Texts(nullptr, empty, 1)[0], string_view(""));
}

TEST(bad_offsets_are_refused) {
    const uint8_t bytes[] = {'a', 'b'};
    const int64_t falling[] = {0, 2, 1};
    const int64_t negative[] = {-1, 2};
    const int64_t reach[] = {0, 2};
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Texts(bytes, falling, 2)), "decrease from 2 to 1"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Texts(bytes, negative, 1)), "-1"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Texts(bytes, nullptr, 1)), "offsets is NULL"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Texts(nullptr, reach, 1)), "bytes is NULL"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Texts(bytes, reach, -1)), "n_texts is -1"));
}
