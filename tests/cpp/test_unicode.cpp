#include "check.h"
#include "texts.h"
#include "unicode.h"

using namespace gge;

namespace {

std::string text_of(const CodePoints &points) {
    std::string s;
    for (const char32_t c : points) {
        append_utf8(s, c);
    }
    return s;
}

} // namespace

TEST(every_code_point_survives_utf8) {
    for (char32_t c = 0; c < 0x110000; ++c) {
        if (c >= 0xD800 && c <= 0xDFFF) {
            continue;
        }
        std::string s;
        append_utf8(s, c);
        size_t i = 0;
        const bool ok = find_invalid_utf8(s) == std::string_view::npos && next_code_point(s, i) == c && i == s.size();
        if (!ok) {
            CHECK_EQ(static_cast<uint32_t>(c), 0U);
            return;
        }
    }
}

TEST(normal_form_c) {
    CHECK_EQ(to_nfc(""), "");
    CHECK_EQ(to_nfc("plain, größer"), "plain, größer");
    CHECK_EQ(to_nfc("e\u0301"), "\u00E9");
    CHECK_EQ(to_nfc("\u0301e"), "\u0301e");
    CHECK_EQ(to_nfc("a\u0301\u0323"), "\u1EA1\u0301");             // marks are sorted before they join
    CHECK_EQ(to_nfc("a\u0334\u0301\u0301"), "\u00E1\u0334\u0301"); // over one of another class
    CHECK_EQ(to_nfc("\u212B\u2126"), "\u00C5\u03A9");              // singletons
    CHECK_EQ(to_nfc("\u0958"), "\u0915\u093C");                    // excluded from composition
    CHECK_EQ(to_nfc("\u1F82"), "\u1F82");                          // the longest decomposition
    CHECK_EQ(to_nfc("\u03B1\u0313\u0300\u0345"), "\u1F82");
    CHECK_EQ(to_nfc("\U0002F800"), "\u4E3D");
}

TEST(hangul_composes_by_arithmetic) {
    CHECK_EQ(to_nfc("\u1112\u1161\u11AB"), "\uD55C");
    CHECK_EQ(to_nfc("\uD558\u11AB"), "\uD55C");
    CHECK_EQ(to_nfc("\uD55C\u11AB"), "\uD55C\u11AB"); // has its end already
    CHECK_EQ(to_nfc("\u1161\u11A8"), "\u1161\u11A8");
    CHECK_EQ(to_nfc("\u1112\u1161\u11A7"), "\uD558\u11A7");
}

TEST(what_is_normalised_needs_no_work) {
    CHECK(is_nfc(""));
    CHECK(is_nfc("größer \u4E2D\uD55C\u0334\u05B0\u0316"));
    CHECK(!is_nfc("e\u0301") && !is_nfc("q\u0301")); // only work would tell that nothing joins
    CHECK_EQ(to_nfc("q\u0301"), "q\u0301");
    CHECK(!is_nfc("\u0958"));
    CHECK(!is_nfc("x\u0334\u0301\u0323"));
}

TEST(long_run_of_marks_is_sorted) {
    std::string text = "q";
    std::string sorted = "q";
    for (int i = 0; i < 20000; ++i) {
        text += "\u0301\u0323";
        sorted += "\u0323";
    }
    for (int i = 0; i < 20000; ++i) {
        sorted += "\u0301";
    }
    CHECK(to_nfc(text) == sorted);
}

TEST(bert_facts) {
    CHECK(is_bert_removed(0) && is_bert_removed(0x0B) && is_bert_removed(0x85) && is_bert_removed(0xFFFD));
    CHECK(!is_bert_removed('\n') && !is_bert_removed('a'));
    CHECK(is_bert_space('\n') && is_bert_space(' ') && is_bert_space(0x3000) && !is_bert_space(0x0B));
    CHECK(is_bert_chinese(0x4E2D) && !is_bert_chinese(0x3042) && !is_bert_chinese(0xAC00));
    CHECK(is_bert_punctuation('$') && is_bert_punctuation(0x3001) && !is_bert_punctuation(0x20AC));
    CHECK_EQ(text_of(bert_strip_accents(0xE9)), "e");
    CHECK_EQ(text_of(bert_strip_accents(0x301)), "");
    CHECK_EQ(text_of(bert_strip_accents(0x93F)), "\u093F"); // a spacing mark
    CHECK_EQ(text_of(bert_strip_accents(0xD55C)), "\u1112\u1161\u11AB");
    CHECK_EQ(text_of(bert_lower('A')), "a");
    CHECK_EQ(text_of(bert_lower(0x101)), "\u0101");
    CHECK_EQ(text_of(bert_lower(0x100)), "\u0101");
    CHECK_EQ(text_of(bert_lower(0x130)), "i\u0307");
}
