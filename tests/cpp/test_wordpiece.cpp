#include "check.h"
#include "wordpiece.h"

#include <chrono>

using namespace gge;

namespace {

constexpr int32_t unknown = 0;

// Words have U+2581 in front, as in GGUF.
const std::vector<std::string_view> vocabulary = {
    "",
    "▁un",
    "aff",
    "able",
    "▁!",
    "▁a",
    "▁the",
    "a",
    "▁中",
    "▁ᄒ",
    "ᅡ",
    "ᆫ",
    "▁▁",
    "▁İ",
    "▁É",
    "▁fé",
    "▁e",
    "é",
    "▁"
    "A",
    "▁$",
    "▁\x7F",
    "▁क्",
};

std::vector<int32_t> ids_of(std::string_view text, bool lowercase = true, bool strip_accents = true) {
    std::vector<int32_t> ids;
    WordPiece(vocabulary, unknown, {lowercase, strip_accents}).tokenize(text, ids);
    return ids;
}

using Ids = std::vector<int32_t>;

} // namespace

TEST(longest_match_from_the_left) {
    CHECK(ids_of("unaffable") == Ids({1, 2, 3}));
    CHECK(ids_of("UNAFFABLE Un") == Ids({1, 2, 3, 1}));
    CHECK(ids_of("aaa") == Ids({5, 7, 7}));
}

TEST(word_that_cannot_be_spelled_is_one_unknown) {
    CHECK(ids_of("unaffablex") == Ids({unknown}));
    CHECK(ids_of("xyz unaff") == Ids({unknown, 1, 2}));
    CHECK(ids_of("able") == Ids({unknown})); // only a continuation
}

TEST(nothing_gives_no_tokens) {
    CHECK(ids_of("").empty());
    CHECK(ids_of(" \t\r\n\xC2\xA0\xE3\x80\x80").empty());
    CHECK(ids_of("\xE2\x80\x8B\x01\xC2\x85\x0B\xEF\xBF\xBD").empty()); // format and control characters, U+FFFD
}

TEST(ids_are_appended) {
    Ids ids = {42};
    WordPiece(vocabulary, unknown, {}).tokenize("x the", ids);
    CHECK(ids == Ids({42, unknown, 6}));
}

TEST(control_characters_do_not_end_words) {
    CHECK(ids_of("th\x0C\x0B\xC2\x85"
                 "e") == Ids({6}));
    CHECK(ids_of("a\ta\na\xE2\x80\xA8"
                 "a") == Ids({5, 5, 5, 5}));
}

TEST(punctuation_and_chinese_stand_alone) {
    CHECK(ids_of("a!a$the") == Ids({5, 4, 5, 19, 6}));
    CHECK(ids_of("a中the") == Ids({5, 8, 6}));
    CHECK(ids_of("中中") == Ids({8, 8}));
    CHECK(ids_of("≠") == Ids({unknown})); // "=", once the stroke is off
}

TEST(hangul_is_decomposed_with_the_accents) {
    CHECK(ids_of("한") == Ids({9, 10, 11}));
    CHECK(ids_of("하") == Ids({9, 10}));
    CHECK(ids_of("한", true, false) == Ids({unknown}));
}

TEST(accents_go_only_if_told) {
    CHECK(ids_of("É e\xCC\x81") == Ids({16, 16}));
    CHECK(ids_of("fé", true, false) == Ids({15}));
    CHECK(ids_of("İ A É", false, false) == Ids({13, 18, 14}));
    CHECK(ids_of("İ A É", false, true) == Ids({unknown, 18, unknown}));
    CHECK(ids_of("É", true, false) == Ids({unknown}));
}

TEST(spacing_marks_stay) {
    CHECK(ids_of("का") == Ids({unknown}));
    CHECK(ids_of("के") == ids_of("क"));
}

TEST(word_mark_in_a_text_is_a_character) {
    CHECK(ids_of("▁") == Ids({12}));
    CHECK(ids_of("▁the") == Ids({unknown}));
    CHECK(ids_of("the▁") == Ids({unknown}));
}

TEST(words_of_more_than_100_characters_are_unknown) {
    CHECK_EQ(ids_of(std::string(100, 'a')).size(), 100U);
    CHECK(ids_of(std::string(101, 'a')) == Ids({unknown}));
    CHECK(ids_of(std::string(101, 'a') + " a") == Ids({unknown, 5}));
    std::string accents;
    for (int i = 0; i < 60; ++i) {
        accents += "a\xCC\x81"; // 120 characters, 60 without accents
    }
    CHECK_EQ(ids_of(accents).size(), 60U);
}

TEST(time_is_linear_in_one_word) {
    const auto start = std::chrono::steady_clock::now();
    CHECK(ids_of(std::string(10'000'000, 'a')) == Ids({unknown}));
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
}

TEST(vocabulary_without_tokens_knows_nothing) {
    Ids ids;
    WordPiece({}, 7, {}).tokenize("a b!", ids);
    CHECK(ids == Ids({7, 7, 7}));
}

TEST(large_vocabulary_is_found_whole) {
    std::vector<std::string> texts;
    for (int i = 0; i < 50000; ++i) {
        texts.push_back("▁w" + std::to_string(i));
    }
    const WordPiece pieces({texts.begin(), texts.end()}, -7, {});
    Ids ids;
    for (int i = 0; i < 50000; ++i) {
        pieces.tokenize("w" + std::to_string(i), ids);
    }
    CHECK_EQ(ids.size(), 50000U);
    for (int i = 0; i < static_cast<int>(ids.size()); ++i) {
        if (ids[static_cast<size_t>(i)] != i) {
            CHECK_EQ(ids[static_cast<size_t>(i)], i);
            break;
        }
    }
}
