#include "check.h"
#include "fake_backend.h"
#include "pairs.h"

using namespace gge;

namespace {

using Ids = std::vector<int32_t>;

// A reranker over the fake model, with a list of texts that stand in pairs.
struct Setup {
    explicit Setup(const std::function<void(ModelFacts &)> &change = {}) {
        auto backend = std::make_unique<fake::Model>(log);
        backend->facts().n_cls_out = fake::n_cls_out;
        if (change) {
            change(backend->facts());
        }
        model = fake::wrap(std::move(backend));
    }

    Tokens run(const std::vector<std::string> &texts, const TokenizeOptions &options = {}) const {
        std::string bytes;
        std::vector<int64_t> offsets = {0};
        for (const auto &text : texts) {
            bytes += text;
            offsets.push_back(static_cast<int64_t>(bytes.size()));
        }
        const Texts view(reinterpret_cast<const uint8_t *>(bytes.data()), offsets.data(),
                         static_cast<int64_t>(texts.size()));
        return tokenize_pairs(model, view, options);
    }

    fake::Log log;
    std::shared_ptr<const Model> model;
};

Ids ids_of(const Tokens &t, int64_t i) {
    const auto begin = t.ids.begin() + t.offsets[static_cast<size_t>(i)];
    return {begin, begin + t.n_tokens(i)};
}

// Bytes as tokens, with control characters for the special ones.
Ids bytes(const std::string &text) {
    return {text.begin(), text.end()};
}

void bert(ModelFacts &f) {
    f.token_bos = 1;
    f.token_eos = 2;
    f.token_sep = 3;
}

void with_template(ModelFacts &f, const std::string &text) {
    bert(f);
    f.pair_template = text;
}

TokenizeOptions limit(int64_t max_tokens, Overflow overflow) {
    TokenizeOptions options;
    options.max_tokens = max_tokens;
    options.overflow = overflow;
    return options;
}

} // namespace

TEST(without_a_template_the_end_token_stands_between_query_and_document) {
    const Setup s(bert);
    const Tokens t = s.run({"q", "doc", "", "d", "q", ""});
    CHECK_EQ(t.n_texts(), 3);
    CHECK(ids_of(t, 0) == bytes("\x01q\x02"
                                "doc\x02"));
    CHECK(ids_of(t, 1) == bytes("\x01\x02"
                                "d\x02"));
    CHECK(ids_of(t, 2) == bytes("\x01q\x02\x02"));
}

TEST(roberta_has_a_second_token_between) {
    const Setup s([](ModelFacts &f) {
        bert(f);
        f.pair_has_sep = true;
    });
    CHECK(ids_of(s.run({"q", "d"}), 0) == bytes("\x01q\x02\x03"
                                                "d\x02"));
}

TEST(a_vocabulary_that_ends_no_text_needs_a_template) {
    CHECK(check::contains(CHECK_THROWS(GGE_E_UNSUPPORTED, Setup().run({"q", "d"})), "no template for pairs"));
}

TEST(a_template_is_read_for_special_tokens_and_texts_are_not) {
    const Setup s([](ModelFacts &f) { with_template(f, "<s>Q: {query}\n</s>D: {document}<sep>!"); });
    CHECK(ids_of(s.run({"<s>", "a</s>b"}), 0) == bytes("\x01Q: <s>\n\x02"
                                                       "D: a</s>b\x03!"));
}

TEST(marks_in_texts_stay_as_they_are) {
    const Setup s([](ModelFacts &f) { with_template(f, "{document}</s>{query}"); });
    CHECK(ids_of(s.run({"{document}", "{query}"}), 0) == bytes("{query}\x02{document}"));
}

TEST(a_template_needs_both_marks_once) {
    for (const char *text : {"{query}", "{document}", "{query}{document}{document}", "{query}{query}{document}", "x"}) {
        const Setup s([&](ModelFacts &f) { with_template(f, text); });
        CHECK(check::contains(CHECK_THROWS(GGE_E_FORMAT, s.run({"q", "d"})), "once each"));
    }
}

TEST(only_the_document_is_cut) {
    const Setup s(bert);
    int32_t truncated = -1;
    int64_t n_original = -1;
    TokenizeOptions options = limit(7, Overflow::truncate);
    options.truncated = &truncated;
    options.n_tokens_original = &n_original;
    CHECK(ids_of(s.run({"qq", "abcdef"}, options), 0) == bytes("\x01qq\x02"
                                                               "ab\x02"));
    CHECK_EQ(truncated, 1);
    CHECK_EQ(n_original, 11);
    options.overflow = Overflow::truncate_start;
    CHECK(ids_of(s.run({"qq", "abcdef"}, options), 0) == bytes("\x01qq\x02"
                                                               "ef\x02"));
    options.max_tokens = 11;
    CHECK_EQ(s.run({"qq", "abcdef"}, options).n_tokens(0), 11);
    CHECK_EQ(truncated, 0);
}

TEST(a_template_is_kept_when_the_document_is_cut) {
    const Setup s([](ModelFacts &f) { with_template(f, "<s>{query}: {document}.\n</s>"); });
    CHECK(ids_of(s.run({"q", "abcdef"}, limit(9, Overflow::truncate)), 0) == bytes("\x01q: ab.\n\x02"));
    CHECK(ids_of(s.run({"q", "abcdef"}, limit(9, Overflow::truncate_start)), 0) == bytes("\x01q: ef.\n\x02"));
    // a document that looks like what stands around it
    CHECK(ids_of(s.run({"q", "....q: "}, limit(8, Overflow::truncate)), 0) == bytes("\x01q: ..\n\x02"));
    CHECK(ids_of(s.run({"q", "....q: "}, limit(8, Overflow::truncate_start)), 0) == bytes("\x01q:  .\n\x02"));
}

TEST(a_pair_that_does_not_fit_is_too_long) {
    const Setup s(bert);
    CHECK(check::contains(CHECK_THROWS(GGE_E_TOO_LONG, s.run({"qq", "abcdef"}, limit(7, Overflow::error))),
                          "pair 0 has 11 tokens, max_tokens is 7"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_TOO_LONG, s.run({"qq", "abcdef"}, limit(5, Overflow::truncate))),
                          "pair 0 has 5 tokens without its document, which leaves none of max_tokens 5 for it"));
}

TEST(bad_pairs_are_named_and_the_others_come_through) {
    const Setup s(bert);
    const std::vector<std::string> texts = {"q", "d", "\xFF", "d", "q", "d\xFF", "qqqqqqqq", "d", "q", "e"};
    std::array<int32_t, 5> status{};
    std::array<int32_t, 5> truncated{};
    std::vector<std::string> messages;
    TokenizeOptions options = limit(8, Overflow::truncate);
    options.truncated = truncated.data();
    options.report.status = status.data();
    options.report.on_error = [](void *data, int64_t i, gge_status, const char *message) {
        static_cast<std::vector<std::string> *>(data)->push_back(std::to_string(i) + ": " + message);
    };
    options.callbacks.user_data = &messages;
    const Tokens t = s.run(texts, options);
    CHECK(status == (std::array<int32_t, 5>{GGE_OK, GGE_E_INVALID, GGE_E_INVALID, GGE_E_TOO_LONG, GGE_OK}));
    CHECK(truncated == (std::array<int32_t, 5>{}));
    CHECK_EQ(messages.size(), 3U);
    CHECK_EQ(messages[0], "1: pair 1 has a query that is not valid UTF-8 at byte 0");
    CHECK_EQ(messages[1], "2: pair 2 has a document that is not valid UTF-8 at byte 1");
    CHECK(check::contains(messages[2], "3: pair 3 has 11 tokens without its document"));
    CHECK_EQ(t.n_tokens(3), 0);
    CHECK(ids_of(t, 4) == bytes("\x01q\x02"
                                "e\x02"));
}

TEST(pairs_need_a_model_that_can_rank_and_has_a_tokenizer) {
    const Setup no_head([](ModelFacts &f) {
        f.n_cls_out = 0;
        f.cannot_rank = "the model has no classification head, so it cannot rank";
    });
    CHECK(check::contains(CHECK_THROWS(GGE_E_UNSUPPORTED, no_head.run({"q", "d"})), "no classification head"));
    const Setup no_tokenizer([](ModelFacts &f) { f.has_tokenizer = false; });
    CHECK(check::contains(CHECK_THROWS(GGE_E_UNSUPPORTED, no_tokenizer.run({"q", "d"})), "no tokenizer"));
}

TEST(tokenising_pairs_can_be_aborted) {
    const Setup s(bert);
    TokenizeOptions options;
    options.callbacks.abort = [](void *) { return 1; };
    CHECK_THROWS(GGE_E_ABORTED, s.run(std::vector<std::string>(4000, std::string(20000, 'x')), options));
}

TEST(the_number_of_threads_changes_nothing) {
    const Setup setup(bert);
    std::vector<std::string> texts;
    for (size_t i = 0; i < 1500; ++i) {
        texts.insert(texts.end(), {"query", std::string(i * 37 % 200, 'a') + (i % 90 == 4 ? "\xFF" : "")});
    }
    const auto run = [&](int32_t n_threads, std::vector<int32_t> &truncated) {
        std::vector<int32_t> status(texts.size() / 2);
        TokenizeOptions options = limit(120, Overflow::truncate);
        options.n_threads = n_threads;
        options.truncated = truncated.data();
        options.report.status = status.data();
        return setup.run(texts, options);
    };
    std::vector<int32_t> serial_truncated(texts.size() / 2);
    const Tokens serial = run(1, serial_truncated);
    CHECK_EQ(serial.messages.size(), size_t{17});
    for (const int32_t n_threads : {2, 5}) {
        std::vector<int32_t> truncated(texts.size() / 2);
        const Tokens t = run(n_threads, truncated);
        CHECK(t.ids == serial.ids && t.offsets == serial.offsets && t.status == serial.status);
        CHECK(t.messages == serial.messages && truncated == serial_truncated);
    }
}
