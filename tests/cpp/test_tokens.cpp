#include "check.h"
#include "fake_backend.h"
#include "tokens.h"

#include <tuple>

using namespace gge;

namespace {

struct Flat {
    explicit Flat(const std::vector<std::string> &texts) : offsets{0} {
        for (const auto &text : texts) {
            bytes += text;
            offsets.push_back(static_cast<int64_t>(bytes.size()));
        }
    }
    Texts view() const {
        return {reinterpret_cast<const uint8_t *>(bytes.data()), offsets.data(),
                static_cast<int64_t>(offsets.size()) - 1};
    }
    std::string bytes;
    std::vector<int64_t> offsets;
};

std::vector<int32_t> ids_of(const Tokens &t, int64_t i) {
    const auto begin = t.ids.begin() + t.offsets[static_cast<size_t>(i)];
    return {begin, begin + t.n_tokens(i)};
}

} // namespace

TEST(special_tokens_go_around_every_text) {
    fake::Log log;
    auto backend = std::make_unique<fake::Model>(log);
    backend->facts().token_bos = 1;
    backend->facts().token_eos = 2;
    const auto model = fake::wrap(std::move(backend));
    const Tokens t = tokenize(model, Flat({"ab", "", "c"}).view(), {});
    CHECK(ids_of(t, 0) == std::vector<int32_t>({1, 'a', 'b', 2}));
    CHECK(ids_of(t, 1) == std::vector<int32_t>({1, 2}));
    CHECK(ids_of(t, 2) == std::vector<int32_t>({1, 'c', 2}));
    TokenizeOptions bare;
    bare.add_special = false;
    CHECK(ids_of(tokenize(model, Flat({"ab"}).view(), bare), 0) == std::vector<int32_t>({'a', 'b'}));
    CHECK_EQ(model->info().add_bos, 1);
    CHECK_EQ(model->info().add_eos, 1);
    CHECK_EQ(model->info().add_eos_in_file, 1);
}

TEST(prompt_stands_before_every_text) {
    fake::Log log;
    const auto model = fake::wrap(std::make_unique<fake::Model>(log));
    TokenizeOptions options;
    options.prompt = "q:";
    const Tokens t = tokenize(model, Flat({"a", ""}).view(), options);
    CHECK(ids_of(t, 0) == std::vector<int32_t>({'q', ':', 'a'}));
    CHECK(ids_of(t, 1) == std::vector<int32_t>({'q', ':'}));
    options.prompt = "\xFF";
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, tokenize(model, Flat({"a"}).view(), options)), "prompt"));
}

TEST(eurobert_with_last_pooling_gets_its_missing_end_token) {
    fake::Log log;
    auto backend = std::make_unique<fake::Model>(log);
    backend->facts().architecture = "eurobert";
    backend->facts().pooling = GGE_POOLING_LAST;
    backend->facts().token_eos = 9;
    auto model = fake::wrap(std::move(backend));
    CHECK(ids_of(tokenize(model, Flat({"a"}).view(), {}), 0) == std::vector<int32_t>({'a', 9}));
    CHECK_EQ(model->info().add_eos, 1);
    CHECK_EQ(model->info().add_eos_in_file, 0);

    backend = std::make_unique<fake::Model>(log);
    backend->facts().architecture = "eurobert";
    backend->facts().pooling = GGE_POOLING_MEAN;
    backend->facts().token_eos = 9;
    model = fake::wrap(std::move(backend));
    CHECK(ids_of(tokenize(model, Flat({"a"}).view(), {}), 0) == std::vector<int32_t>({'a'}));
}

TEST(bad_utf8_fails_the_call_or_only_its_text) {
    fake::Log log;
    const auto model = fake::wrap(std::make_unique<fake::Model>(log));
    const Flat flat({"ok", "x\xFF", "also ok"});
    const std::string message = CHECK_THROWS(GGE_E_INVALID, tokenize(model, flat.view(), {}));
    CHECK(check::contains(message, "text 1") && check::contains(message, "byte 1"));
    int32_t status[3] = {-1, -1, -1};
    TokenizeOptions options;
    options.report.status = status;
    const Tokens t = tokenize(model, flat.view(), options);
    CHECK(status[0] == GGE_OK && status[1] == GGE_E_INVALID && status[2] == GGE_OK);
    CHECK_EQ(t.n_tokens(0), 2);
    CHECK_EQ(t.n_tokens(1), 0);
    CHECK_EQ(t.n_tokens(2), 7);
}

TEST(model_without_tokenizer_takes_ids_only) {
    fake::Log log;
    auto backend = std::make_unique<fake::Model>(log);
    backend->facts().has_tokenizer = false;
    const auto model = fake::wrap(std::move(backend));
    CHECK_THROWS(GGE_E_UNSUPPORTED, tokenize(model, Flat({"a"}).view(), {}));
    const int32_t ids[] = {5, 6, 7};
    const int64_t offsets[] = {1, 1, 3};
    const Tokens t = take_ids(model, ids, offsets, 2);
    CHECK_EQ(t.n_tokens(0), 0);
    CHECK(ids_of(t, 1) == std::vector<int32_t>({6, 7}));
}

TEST(ids_outside_the_vocabulary_are_refused) {
    fake::Log log;
    const auto model = fake::wrap(std::make_unique<fake::Model>(log));
    const int64_t offsets[] = {0, 2};
    const int32_t high[] = {0, 256};
    const int32_t low[] = {0, -1};
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, take_ids(model, high, offsets, 1)), "256"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, take_ids(model, low, offsets, 1)), "-1"));
    CHECK_THROWS(GGE_E_INVALID, take_ids(model, nullptr, offsets, 1));
    const int64_t with_empty[] = {0, 1, 1, 2};
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, take_ids(model, high, with_empty, 3)), "text 2"));
}

TEST(abort_is_asked_between_texts) {
    fake::Log log;
    const auto model = fake::wrap(std::make_unique<fake::Model>(log));
    TokenizeOptions options;
    int n_asked = 0;
    options.callbacks.user_data = &n_asked;
    options.callbacks.abort = [](void *data) -> int32_t { return ++*static_cast<int *>(data) >= 2; };
    const Flat flat(std::vector<std::string>(4000, std::string(20000, 'a')));
    CHECK_THROWS(GGE_E_ABORTED, tokenize(model, flat.view(), options));
    CHECK(n_asked == 2 || n_asked == 3); // once more by a thread that was about to
}

namespace {

// Every place is a seam of a tokenizer that takes bytes.
class AnyPlace final : public Seams {
public:
    std::vector<size_t> near_end(std::string_view head) const override { return {head.size()}; }
    std::vector<size_t> near_begin(std::string_view, size_t) const override { return {0}; }
    std::string_view lead(std::string_view) const override { return ""; }
};

std::unique_ptr<fake::Model> backend_with_ends(fake::Log &log) {
    auto backend = std::make_unique<fake::Model>(log);
    backend->facts().token_bos = 1;
    backend->facts().token_eos = 2;
    backend->known_seams = std::make_unique<AnyPlace>();
    return backend;
}

TokenizeOptions limit(int64_t max_tokens, Overflow overflow, const std::string &prompt = "") {
    TokenizeOptions options;
    options.max_tokens = max_tokens;
    options.overflow = overflow;
    options.prompt = prompt;
    return options;
}

std::string text_of(const Tokens &t, int64_t i) {
    const std::vector<int32_t> ids = ids_of(t, i);
    std::string text;
    for (const int32_t id : ids) {
        text += id == 1 ? '<' : id == 2 ? '>' : static_cast<char>(id);
    }
    return text;
}

} // namespace

TEST(special_tokens_and_prompt_stay_when_a_text_is_cut) {
    fake::Log log;
    const auto model = fake::wrap(backend_with_ends(log));
    const Flat flat({"abcdef", "abc", "", "q:abcdef"});
    int32_t truncated[4] = {7, 7, 7, 7};
    int64_t n_original[4] = {7, 7, 7, 7};
    TokenizeOptions options = limit(7, Overflow::truncate, "q:");
    options.truncated = truncated;
    options.n_tokens_original = n_original;
    Tokens t = tokenize(model, flat.view(), options);
    CHECK_EQ(text_of(t, 0), std::string("<q:abc>"));
    CHECK_EQ(text_of(t, 1), std::string("<q:abc>"));
    CHECK_EQ(text_of(t, 2), std::string("<q:>"));
    CHECK_EQ(text_of(t, 3), std::string("<q:abc>"));
    CHECK(truncated[0] == 1 && truncated[1] == 0 && truncated[2] == 0 && truncated[3] == 1);
    CHECK(n_original[0] == 10 && n_original[1] == 7 && n_original[2] == 4 && n_original[3] == 10);
    options.overflow = Overflow::truncate_start;
    t = tokenize(model, flat.view(), options);
    CHECK_EQ(text_of(t, 0), std::string("<q:def>"));
    CHECK_EQ(text_of(t, 3), std::string("<q:def>"));
    options.add_special = false;
    CHECK_EQ(text_of(tokenize(model, flat.view(), options), 0), std::string("q:bcdef"));
}

TEST(cutting_ten_megabytes_tokenises_a_window) {
    fake::Log log;
    auto backend = backend_with_ends(log);
    const std::atomic<size_t> &n_bytes = backend->n_bytes_tokenized;
    const auto model = fake::wrap(std::move(backend));
    const Flat flat({std::string(5'000'000, 'a') + std::string(5'000'000, 'b')});
    const auto cost = [&](const TokenizeOptions &options) {
        const size_t before = n_bytes;
        static_cast<void>(tokenize(model, flat.view(), options));
        return n_bytes - before;
    };
    CHECK(cost(limit(512, Overflow::truncate, "q:")) < 10'000);
    CHECK(cost(limit(512, Overflow::truncate_start, "q:")) < 20'000);
    CHECK_EQ(text_of(tokenize(model, flat.view(), limit(6, Overflow::truncate, "q:")), 0), std::string("<q:aa>"));
    CHECK_EQ(text_of(tokenize(model, flat.view(), limit(6, Overflow::truncate_start, "q:")), 0), std::string("<q:bb>"));
    int64_t n_original = 0;
    TokenizeOptions counted = limit(512, Overflow::truncate);
    counted.n_tokens_original = &n_original;
    CHECK(cost(counted) >= 10'000'000);
    CHECK_EQ(n_original, int64_t{10'000'002});
}

TEST(a_text_that_is_too_long_has_no_tokens_and_a_message) {
    fake::Log log;
    const auto model = fake::wrap(backend_with_ends(log));
    const Flat flat({"abc", "abcdef", "x\xFF", "ab"});
    const std::string message = CHECK_THROWS(GGE_E_TOO_LONG, tokenize(model, flat.view(), limit(5, Overflow::error)));
    CHECK_EQ(message, std::string("text 1 has 8 tokens, max_tokens is 5"));

    using Report = std::vector<std::pair<int64_t, gge_status>>;
    Report report;
    int32_t truncated[4] = {7, 7, 7, 7};
    TokenizeOptions options = limit(5, Overflow::error);
    options.truncated = truncated;
    options.callbacks.user_data = &report;
    options.report.on_error = [](void *data, int64_t i, gge_status status, const char *why) {
        CHECK(check::contains(why, "text " + std::to_string(i)));
        static_cast<Report *>(data)->emplace_back(i, status);
    };
    const Tokens t = tokenize(model, flat.view(), options);
    CHECK(report == Report({{1, GGE_E_TOO_LONG}, {2, GGE_E_INVALID}}));
    CHECK(t.status == std::vector<gge_status>({GGE_OK, GGE_E_TOO_LONG, GGE_E_INVALID, GGE_OK}));
    CHECK_EQ(t.messages.at(1), message);
    CHECK(t.n_tokens(0) == 5 && t.n_tokens(1) == 0 && t.n_tokens(2) == 0 && t.n_tokens(3) == 4);
    CHECK(truncated[0] == 0 && truncated[1] == 0 && truncated[2] == 0 && truncated[3] == 0);
}

TEST(no_room_for_text_fails_the_call) {
    fake::Log log;
    const auto model = fake::wrap(backend_with_ends(log));
    const Flat flat({"", "abc"});
    for (const Overflow overflow : {Overflow::error, Overflow::truncate, Overflow::truncate_start}) {
        int32_t status[2] = {};
        TokenizeOptions options = limit(4, overflow, "q:");
        options.report.status = status; // also where errors are collected
        const std::string why = CHECK_THROWS(GGE_E_INVALID, tokenize(model, flat.view(), options));
        CHECK(check::contains(why, "the prompt has 4 tokens") && check::contains(why, "max_tokens is 4"));
        CHECK_EQ(text_of(tokenize(model, Flat({""}).view(), options), 0), std::string("<q:>"));
        CHECK_THROWS(GGE_E_INVALID, tokenize(model, flat.view(), limit(2, overflow)));
        CHECK_EQ(tokenize(model, Flat({"a"}).view(), limit(3, overflow)).n_tokens(0), int64_t{3});
    }
}

namespace {

using Report = std::vector<std::tuple<int64_t, gge_status, std::string>>;

// What a call gives, whose texts may be bad, too long or empty.
struct Outcome {
    explicit Outcome(size_t n) : truncated(n, 7), status(n, 7), n_original(n, 7) {}

    bool operator==(const Outcome &other) const {
        return tokens.ids == other.tokens.ids && tokens.offsets == other.tokens.offsets &&
               tokens.status == other.tokens.status && tokens.messages == other.tokens.messages &&
               truncated == other.truncated && status == other.status && n_original == other.n_original &&
               report == other.report;
    }

    Tokens tokens;
    std::vector<int32_t> truncated;
    std::vector<int32_t> status;
    std::vector<int64_t> n_original;
    Report report;
};

Outcome outcome(const std::shared_ptr<const Model> &model, const Flat &flat, TokenizeOptions options,
                int32_t n_threads) {
    Outcome o(flat.offsets.size() - 1);
    options.n_threads = n_threads;
    options.truncated = o.truncated.data();
    options.n_tokens_original = o.n_original.data();
    options.report.status = o.status.data();
    options.report.on_error = [](void *data, int64_t i, gge_status status, const char *why) {
        static_cast<Report *>(data)->emplace_back(i, status, why);
    };
    options.callbacks.user_data = &o.report;
    o.tokens = tokenize(model, flat.view(), options);
    return o;
}

std::vector<std::string> varied_texts() {
    std::vector<std::string> texts;
    for (size_t i = 0; i < 3000; ++i) {
        texts.push_back((i % 50 == 7 ? "q:" : "") + std::string(i * 37 % 300, static_cast<char>('a' + i % 26)));
        if (i % 70 == 3) {
            texts.back() += '\xFF';
        }
    }
    return texts;
}

} // namespace

TEST(the_number_of_threads_changes_nothing) {
    fake::Log log;
    const auto model = fake::wrap(backend_with_ends(log));
    const Flat flat(varied_texts());
    TokenizeOptions bare;
    bare.add_special = false;
    for (const TokenizeOptions &options :
         {TokenizeOptions(), bare, limit(0, Overflow::error, "q:"), limit(100, Overflow::error, "q:"),
          limit(100, Overflow::truncate, "q:"), limit(100, Overflow::truncate_start, "q:")}) {
        const Outcome serial = outcome(model, flat, options, 1);
        CHECK_EQ(serial.tokens.n_texts(), int64_t{3000});
        CHECK(serial.report.size() >= 43);
        for (const int32_t n_threads : {0, 2, 3, 7}) {
            CHECK(outcome(model, flat, options, n_threads) == serial);
        }
    }
}

TEST(the_first_bad_text_is_named_on_any_number_of_threads) {
    fake::Log log;
    const auto model = fake::wrap(backend_with_ends(log));
    const Flat flat(varied_texts());
    for (const int32_t n_threads : {1, 2, 5}) {
        TokenizeOptions options;
        options.n_threads = n_threads;
        CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, tokenize(model, flat.view(), options)), "text 3 "));
        options = limit(290, Overflow::error);
        options.n_threads = n_threads;
        std::string text;
        try {
            static_cast<void>(
                tokenize(model, Flat(std::vector<std::string>(1000, std::string(290, 'a'))).view(), options));
        } catch (const Error &e) {
            CHECK_EQ(e.input_index(), int64_t{0});
            text = e.what();
        }
        CHECK_EQ(text, "text 0 has 292 tokens, max_tokens is 290");
    }
}
