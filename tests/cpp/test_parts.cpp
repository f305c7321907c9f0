#include "check.h"
#include "fake_media.h"

#include <array>
#include <locale>

using namespace gge;
using fake::medium;
using fake::own_text;
using fake::text;

namespace {

using Ids = std::vector<int32_t>;

struct Setup {
    explicit Setup(const std::function<void(fake::Model &)> &change = fake::small) {
        auto backend = std::make_unique<fake::Model>(log);
        fake::add_towers(*backend, tower_log);
        change(*backend);
        model = fake::wrap(std::move(backend));
    }

    Tokens run(const fake::Inputs &inputs, const TokenizeOptions &options = {}) const {
        return fake::tokenize(model, inputs, options);
    }
    Ids ids(const std::vector<InputPart> &input, const TokenizeOptions &options = {}) const {
        return run({input}, options).ids;
    }
    InputPart image(int32_t wide = 2, int32_t high = 2) const { return medium(fake::image(*model, wide, high)); }
    InputPart sound() const { return medium(fake::sound(*model, 16 * 160)); }

    fake::Log log;
    fake::TowerLog tower_log;
    std::shared_ptr<const Model> model;
};

Ids join(const std::vector<Ids> &parts) {
    Ids all;
    for (const Ids &part : parts) {
        all.insert(all.end(), part.begin(), part.end());
    }
    return all;
}

Ids bytes(const std::string &text) {
    return {text.begin(), text.end()};
}

Ids rows(size_t n) {
    return Ids(n, -1);
}

Ids wrapped(size_t n) {
    return join({{fake::vision_start}, rows(n), {fake::vision_end}});
}

Ids ids_of(const Tokens &t, int64_t i) {
    const auto begin = t.ids.begin() + t.offsets[static_cast<size_t>(i)];
    return {begin, begin + t.n_tokens(i)};
}

TokenizeOptions with_prompt(const std::string &prompt) {
    TokenizeOptions options;
    options.prompt = prompt;
    return options;
}

// What a call says of each input when it collects.
struct Report {
    explicit Report(size_t n) : status(n, -1) {
        options.report.status = status.data();
        options.report.on_error = [](void *self, int64_t i, gge_status, const char *message) {
            static_cast<Report *>(self)->messages[i] = message;
        };
        options.callbacks.user_data = this;
    }
    std::vector<int32_t> status;
    std::map<int64_t, std::string> messages;
    TokenizeOptions options;
};

} // namespace

TEST(media_stand_between_their_tokens) {
    const Setup s;
    CHECK(s.ids({s.image()}) == wrapped(4));
    CHECK(s.ids({s.image(3, 2)}, with_prompt("P: ")) == join({bytes("P: "), wrapped(6)}));
    CHECK(s.ids({text("a"), s.image(), s.image(3, 2), text("b")}) ==
          join({bytes("a"), wrapped(4), wrapped(6), bytes("b")}));
    CHECK(s.ids({s.sound()}) == join({{fake::audio_start}, rows(4), {fake::audio_end}}));
}

TEST(images_without_tokens_of_their_own_stand_bare) {
    const Setup s(fake::nano);
    CHECK(s.ids({s.image()}, with_prompt("P: ")) == join({bytes("P: "), rows(4), {9}}));
    CHECK(s.ids({medium(fake::video(*s.model, {0, 1, 2, 3}))}) == join({rows(8), {9}}));
    CHECK(s.ids({s.sound()}) == join({{fake::audio_start}, rows(4), {fake::audio_end, 9}}));
    const Setup half([](fake::Model &model) { model.known_special = {{"<|vision_start|>", 10}}; });
    CHECK(half.ids({half.image()}) == rows(4));
}

TEST(pairs_of_a_video_are_announced_by_their_time) {
    const Setup s;
    const auto video = medium(fake::video(*s.model, {0.0, 1 / 24.0, 2 / 24.0, 3 / 24.0, 4.2}));
    CHECK(s.ids({video}, with_prompt("P: ")) == join({bytes("P: <0.0 seconds>"), wrapped(4), bytes("<0.1 seconds>"),
                                                      wrapped(4), bytes("<4.2 seconds>"), wrapped(4)}));
    // as Python prints them: ties to even
    CHECK(s.ids({medium(fake::video(*s.model, {0.25, 0.25, 0.75, 0.75}))}) ==
          join({bytes("<0.2 seconds>"), wrapped(4), bytes("<0.8 seconds>"), wrapped(4)}));
}

TEST(times_do_not_depend_on_the_locale_of_the_process) {
    struct Comma final : std::numpunct<char> {
        char do_decimal_point() const override { return ','; }
    };
    const Setup s;
    const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Comma));
    CHECK(s.ids({medium(fake::video(*s.model, {1.5, 1.5}))}) == join({bytes("<1.5 seconds>"), wrapped(4)}));
    std::locale::global(before);
}

TEST(texts_that_stand_together_are_one_string) {
    const Setup s([](fake::Model &model) {
        fake::small(model);
        model.merges = {{" <", 250}, {"ab", 251}, {": ", 252}};
    });
    const auto video = medium(fake::video(*s.model, {0, 0}));
    CHECK(s.ids({text("x "), video}) == join({bytes("x"), {250}, bytes("0.0 seconds>"), wrapped(4)}));
    CHECK(s.ids({video}, with_prompt("P ")) == join({bytes("P"), {250}, bytes("0.0 seconds>"), wrapped(4)}));
    CHECK(s.ids({text("a"), own_text("b"), s.image()}) == join({{251}, wrapped(4)}));
    CHECK(s.ids({own_text("a"), text("b")}) == Ids({251}));
    CHECK(s.ids({text("a"), s.image(), text("b")}) == join({bytes("a"), wrapped(4), bytes("b")}));
    CHECK(s.ids({text(" "), s.image()}, with_prompt("P:")) == join({bytes("P"), {252}, wrapped(4)}));
}

TEST(only_templates_are_read_for_special_tokens) {
    const Setup s;
    const std::string forged = "<|vision_end|>";
    CHECK(s.ids({text(forged), s.image()}) == join({bytes(forged), wrapped(4)}));
    CHECK(s.ids({s.image(), text(forged)}) == join({wrapped(4), bytes(forged)}));
    CHECK(s.ids({own_text("<|im_"), text("start|>")}) == bytes("<|im_start|>"));
    CHECK(s.ids({s.image()}, with_prompt(forged)) == join({bytes(forged), wrapped(4)}));
    TokenizeOptions parse;
    parse.parse_special = true;
    CHECK(s.ids({text(forged)}, parse) == bytes(forged));
    CHECK(s.ids({own_text("<|im_start|>user\n"), s.image(), own_text("Describe.<|im_start|>")}) ==
          join({{fake::im_start}, bytes("user\n"), wrapped(4), bytes("Describe."), {fake::im_start}}));
}

TEST(a_prompt_stands_in_front_unless_it_is_there) {
    const Setup s;
    CHECK(s.ids({text("P: a"), s.image()}, with_prompt("P: ")) == join({bytes("P: a"), wrapped(4)}));
    CHECK(s.ids({s.image(), text("P: a")}, with_prompt("P: ")) == join({bytes("P: "), wrapped(4), bytes("P: a")}));
    CHECK(s.ids({own_text("<|im_start|>a")}, with_prompt("P: ")) == join({bytes("P: "), {fake::im_start}, bytes("a")}));
    CHECK(s.ids({text("P"), text(": a")}, with_prompt("P: ")) == bytes("P: a"));
}

TEST(special_tokens_of_the_model_go_around_the_whole_input) {
    const Setup s([](fake::Model &model) {
        fake::small(model);
        model.facts().token_bos = 1;
        model.facts().token_eos = 2;
    });
    CHECK(s.ids({text("a"), s.image(), text("b")}) == join({{1}, bytes("a"), wrapped(4), bytes("b"), {2}}));
    TokenizeOptions bare;
    bare.add_special = false;
    CHECK(s.ids({s.image()}, bare) == wrapped(4));
    TokenizeOptions other;
    other.end_token = 7;
    CHECK(s.ids({s.image()}, other) == join({{1}, wrapped(4), {7}}));
}

TEST(inputs_of_text_alone_become_what_tokenize_makes_of_them) {
    const Setup s(fake::nano);
    const std::vector<std::string> texts = {"some text", "", "P: longer text with many words", "ab"};
    std::string flat;
    std::vector<int64_t> offsets = {0};
    fake::Inputs inputs;
    fake::Inputs in_two;
    for (const std::string &each : texts) {
        flat += each;
        offsets.push_back(static_cast<int64_t>(flat.size()));
        const std::string_view view = each;
        inputs.push_back({text(view)});
        in_two.push_back({text(view.substr(0, view.size() / 2)), text(view.substr(view.size() / 2))});
    }
    inputs[1].clear();
    const Texts view(reinterpret_cast<const uint8_t *>(flat.data()), offsets.data(), 4);
    for (const Overflow overflow : {Overflow::truncate, Overflow::truncate_start}) {
        std::array<std::array<int32_t, 4>, 2> truncated{};
        std::array<std::array<int64_t, 4>, 2> originals{};
        TokenizeOptions options = with_prompt("P: ");
        options.max_tokens = 12;
        options.overflow = overflow;
        options.truncated = truncated[0].data();
        options.n_tokens_original = originals[0].data();
        const Tokens wanted = tokenize(s.model, view, options);
        options.truncated = truncated[1].data();
        options.n_tokens_original = originals[1].data();
        for (const fake::Inputs &found : {inputs, in_two}) {
            const Tokens tokens = s.run(found, options);
            CHECK(tokens.ids == wanted.ids);
            CHECK(tokens.offsets == wanted.offsets);
            CHECK(tokens.media.empty() && tokens.positions.empty());
            CHECK(truncated[0] == truncated[1]);
            CHECK(originals[0] == originals[1]);
        }
    }
    TokenizeOptions limit;
    limit.max_tokens = 12;
    CHECK_EQ(CHECK_THROWS(GGE_E_TOO_LONG, s.run(inputs, limit)), std::string("text 2 has 31 tokens, max_tokens is 12"));
}

TEST(media_are_not_cut) {
    const Setup s;
    for (const Overflow overflow : {Overflow::error, Overflow::truncate, Overflow::truncate_start}) {
        TokenizeOptions options;
        options.max_tokens = 8;
        options.overflow = overflow;
        CHECK(s.ids({text("ab"), s.image()}, options) == join({bytes("ab"), wrapped(4)}));
        CHECK_EQ(CHECK_THROWS(GGE_E_TOO_LONG, s.run({{}, {text("abc"), s.image()}}, options)),
                 std::string("input 1 has 9 tokens, max_tokens is 8"));
    }
}

TEST(places_of_media_are_kept) {
    const Setup s;
    const auto image = fake::image(*s.model, 3, 2);
    const auto video = fake::video(*s.model, {0, 0, 1, 1});
    const Tokens t = s.run({{text("ab")}, {text("c"), medium(image)}, {}, {medium(video), medium(image)}});
    CHECK(t.offsets == std::vector<int64_t>({0, 2, 11, 11, 11 + 2 * (13 + 6) + 8}));
    CHECK_EQ(t.media.size(), size_t{4});
    CHECK_EQ(t.media[0].begin, 4);
    CHECK_EQ(t.media[0].n_rows, 6);
    CHECK(t.media[0].media == image);
    CHECK_EQ(t.media[1].begin, 11 + 14);
    CHECK_EQ(t.media[2].begin, 11 + 19 + 14);
    CHECK_EQ(t.media[2].i_unit, size_t{1});
    CHECK_EQ(t.media[3].begin, 11 + 38 + 1);
    CHECK_EQ(t.n_media(0), 0);
    CHECK_EQ(t.n_media(1), 1);
    CHECK_EQ(t.n_media(3), 3);
    CHECK_EQ(t.name(0), std::string("text 0"));
    CHECK_EQ(t.name(3), std::string("input 3"));
    CHECK(t.positions.empty());
    CHECK(t.pooled.empty());
}

TEST(a_bad_input_fails_the_call_or_only_itself) {
    const Setup s;
    const fake::Inputs inputs = {{text("a"), text("\xFF"), s.image()},
                                 {s.image()},
                                 {own_text("\xC3")},
                                 {text("\xFF")},
                                 {text("\xC3"), text("\xA9")}};
    const std::string message = CHECK_THROWS(GGE_E_INVALID, s.run(inputs));
    CHECK_EQ(message, std::string("input 0 has a text that is not valid UTF-8 at byte 0"));
    Report report(inputs.size());
    const Tokens t = s.run(inputs, report.options);
    CHECK(report.status == std::vector<int32_t>({GGE_E_INVALID, GGE_OK, GGE_E_INVALID, GGE_E_INVALID, GGE_E_INVALID}));
    CHECK(t.offsets == std::vector<int64_t>({0, 0, 6, 6, 6, 6}));
    CHECK_EQ(report.messages[3], std::string("text 3 is not valid UTF-8 at byte 0"));
    CHECK_THROWS(GGE_E_INVALID, s.run({{s.image()}}, with_prompt("\xFF")));
}

TEST(media_need_a_model_that_takes_them) {
    const Setup s;
    const Setup rows([](fake::Model &model) {
        fake::small(model);
        model.facts().cannot_take_rows = "models of architecture fake take no media";
    });
    CHECK_EQ(CHECK_THROWS(GGE_E_UNSUPPORTED, rows.run({{s.image()}})),
             std::string("input 0 has an image, but models of architecture fake take no media"));
    CHECK(rows.ids({text("a")}) == bytes("a"));

    const Setup mute(
        [](fake::Model &model) { model.known_special = {{"<|audio_start|>", 12}, {"<|audio_eos|>", 13}}; });
    const std::string message = CHECK_THROWS(GGE_E_UNSUPPORTED, mute.run({{text("a")}, {mute.sound()}}));
    CHECK(check::contains(message, "input 1 has a sound, but"));
    CHECK(check::contains(message, "<|audio_start|> and <|audio_end|> nor <|audio_bos|> and <|audio_eos|>"));
    Report report(2);
    CHECK(mute.run({{mute.sound()}, {text("a")}}, report.options).ids == bytes("a"));
    CHECK(report.status == std::vector<int32_t>({GGE_E_UNSUPPORTED, GGE_OK}));
    const Setup stock([](fake::Model &model) { model.known_special = {{"<|audio_bos|>", 5}, {"<|audio_eos|>", 6}}; });
    CHECK(stock.ids({stock.sound()}) == join({{5}, Ids(4, -1), {6}}));

    const Setup none([](fake::Model &model) { model.known_towers.clear(); });
    CHECK_THROWS(GGE_E_INVALID, none.run({{s.image()}}));
    const Setup other([](fake::Model &model) {
        TowerFacts facts = fake::vision_facts();
        facts.patch_size = 4;
        static fake::TowerLog log;
        model.known_towers.clear();
        model.known_towers.push_back(std::make_unique<fake::Tower>(facts, log));
    });
    CHECK_EQ(CHECK_THROWS(GGE_E_INVALID, other.run({{text("a")}, {s.image()}})),
             std::string("input 1 has an image that was made for another encoder than the model's"));
    CHECK_THROWS(GGE_E_INVALID, other.run({{s.sound()}}));
}

TEST(the_number_of_threads_changes_nothing) {
    const Setup setup([](fake::Model &backend) {
        fake::small(backend);
        backend.facts().has_mrope = true;
        backend.facts().architecture = "qwen2vl";
    });
    const std::string long_text(500, 'x');
    fake::Inputs inputs;
    for (int i = 0; i < 400; ++i) {
        inputs.push_back({own_text(long_text), setup.image(2 + i % 3), text("and")});
        inputs.push_back(i % 5 == 0 ? std::vector<InputPart>{setup.image(), text("\xFF")}
                                    : std::vector<InputPart>{text("a"), text(long_text)});
    }
    const auto run = [&](int32_t n_threads) {
        std::vector<int32_t> status(inputs.size());
        TokenizeOptions options;
        options.prompt = "q:";
        options.n_threads = n_threads;
        options.report.status = status.data();
        return setup.run(inputs, options);
    };
    const Tokens serial = run(1);
    CHECK_EQ(serial.messages.size(), size_t{80});
    CHECK(serial.media.size() == 400 && serial.pooled.size() == 400 && !serial.positions.empty());
    for (const int32_t n_threads : {2, 5}) {
        const Tokens t = run(n_threads);
        CHECK(t.ids == serial.ids && t.offsets == serial.offsets && t.status == serial.status);
        CHECK(t.messages == serial.messages);
        CHECK(std::equal(t.media.begin(), t.media.end(), serial.media.begin(), serial.media.end(),
                         [](const MediaSpan &a, const MediaSpan &b) {
                             return a.begin == b.begin && a.n_rows == b.n_rows && a.media == b.media &&
                                    a.i_unit == b.i_unit;
                         }));
        CHECK(std::equal(t.pooled.begin(), t.pooled.end(), serial.pooled.begin(), serial.pooled.end(),
                         [](const auto &a, const auto &b) {
                             return a.first == b.first && a.second.begin == b.second.begin &&
                                    a.second.end == b.second.end;
                         }));
        CHECK(std::equal(t.positions.begin(), t.positions.end(), serial.positions.begin(), serial.positions.end(),
                         [](const GridPosition &a, const GridPosition &b) {
                             return a.t == b.t && a.height == b.height && a.width == b.width;
                         }));
    }
}

TEST(an_abort_callback_ends_the_call) {
    const Setup s;
    TokenizeOptions options;
    options.callbacks.abort = [](void *) { return 1; };
    std::string text_of_a_while(1 << 16, 'a');
    const fake::Inputs inputs(2000, {text(text_of_a_while), s.image()});
    CHECK_THROWS(GGE_E_ABORTED, s.run(inputs, options));
}

TEST(positions_of_images_have_three_parts) {
    const Setup s(fake::v4);
    const Tokens t = s.run({{text("ab"), s.image(3, 2), text("c"), s.image(2, 2)}, {text("de")}});
    CHECK(ids_of(t, 0) == join({bytes("ab"), wrapped(6), bytes("c"), wrapped(4)}));
    std::vector<std::array<int32_t, 3>> found;
    for (const GridPosition &p : t.positions) {
        found.push_back({p.t, p.height, p.width});
    }
    const std::vector<std::array<int32_t, 3>> wanted = {
        {0, 0, 0},    {1, 1, 1},  {2, 2, 2},                                     // a b V
        {3, 3, 3},    {3, 3, 4},  {3, 3, 5},  {3, 4, 3},   {3, 4, 4}, {3, 4, 5}, // 2 lines of 3
        {6, 6, 6},    {7, 7, 7},  {8, 8, 8},                                     // /V c V
        {9, 9, 9},    {9, 9, 10}, {9, 10, 9}, {9, 10, 10},                       // 2 lines of 2
        {11, 11, 11}, {0, 0, 0},  {1, 1, 1},                                     // /V, d e
    };
    CHECK(found == wanted);
    CHECK(s.run({{text("ab")}}).positions.empty());
    const Tokens sound = s.run({{s.sound(), text("a")}});
    CHECK_EQ(sound.positions.back().t, 6);
    CHECK_EQ(sound.positions.back().width, 6);
}

TEST(the_mean_of_an_image_is_over_its_rows_and_their_tokens) {
    const Setup s(fake::v4);
    const Tokens t = s.run({{text("a")},
                            {own_text("<|im_start|>"), s.image(), text("b"), s.image(3, 2), text("c")},
                            {s.sound()},
                            {s.image()}});
    CHECK_EQ(t.pooled.size(), size_t{2});
    CHECK_EQ(t.pooled.at(1).begin, 1);
    CHECK_EQ(t.pooled.at(1).end, 1 + 6 + 1 + 8);
    CHECK_EQ(t.pooled.at(3).begin, 0);
    CHECK_EQ(t.pooled.at(3).end, 6);
}
