#include "check.h"
#include "engine.h"
#include "fake_media.h"

#include <array>
#include <cmath>
#include <numeric>

using namespace gge;
using fake::medium;
using fake::text;

namespace {

using MediaHandle = std::shared_ptr<const Media>;
using Passes = std::vector<std::vector<int64_t>>;

EngineOptions small(int32_t n_tower_batch = 0) {
    EngineOptions o;
    o.n_ubatch = 16;
    o.n_seq_max = 4;
    o.n_threads = 1;
    o.n_tower_batch = n_tower_batch;
    return o;
}

EncodeOptions raw(gge_pooling pooling = GGE_POOLING_NONE) {
    EncodeOptions o;
    o.pooling = pooling;
    o.normalize = GGE_OFF;
    return o;
}

struct Setup {
    explicit Setup(EngineOptions options = small(), const std::function<void(fake::Model &)> &change = fake::small) {
        auto backend = std::make_unique<fake::Model>(log);
        fake::add_towers(*backend, tower_log);
        change(*backend);
        model = fake::wrap(std::move(backend));
        engine = std::make_unique<Engine>(model, options);
    }

    Tokens tokens(const fake::Inputs &inputs) const { return fake::tokenize(model, inputs); }

    MediaHandle image(int32_t wide = 2, int32_t high = 2, uint8_t grey = 0) const {
        return fake::image(*model, wide, high, grey);
    }

    std::vector<float> encode(const Tokens &t, const EncodeOptions &options = raw()) const {
        const size_t n_rows = options.pooling == GGE_POOLING_NONE ? t.ids.size() : static_cast<size_t>(t.n_texts());
        std::vector<float> out(n_rows * 4, -1.0F);
        engine->encode(t, options, {out.data(), static_cast<int64_t>(n_rows), 4});
        return out;
    }

    // What the tower makes of a unit, as the first value of each of its rows.
    float value_of(const Media &media, size_t i_unit = 0) const {
        const MediaUnit &unit = media.units()[i_unit];
        std::vector<float> values(n_tower_values(media.tower(), unit));
        const TowerInput input = tower_input(media.tower(), unit, values.data());
        const size_t n = fake::n_values(media.tower(), input);
        return static_cast<float>(std::accumulate(input.values, input.values + n, 0.0));
    }

    // The first value of the row of each token: its id, or what the tower made.
    std::vector<float> expected(const Tokens &t) const {
        std::vector<float> values(t.ids.begin(), t.ids.end());
        for (const MediaSpan &span : t.media) {
            std::fill_n(values.begin() + span.begin, span.n_rows, value_of(*span.media, span.i_unit));
        }
        return values;
    }

    void wait_for_slow_tower() {
        while (true) {
            const std::lock_guard<std::mutex> lock(tower_log.mutex);
            if (tower_log.slow_started) {
                return;
            }
        }
    }

    fake::Log log;
    fake::TowerLog tower_log;
    std::shared_ptr<const Model> model;
    std::unique_ptr<Engine> engine;
};

std::vector<float> first_values(const std::vector<float> &rows) {
    std::vector<float> values;
    for (size_t i = 0; i < rows.size(); i += 4) {
        values.push_back(rows[i]);
    }
    return values;
}

int64_t n_rows(const std::vector<int64_t> &pass) {
    return std::accumulate(pass.begin(), pass.end(), int64_t{0});
}

// A call that collects errors.
struct Collected {
    Collected(const Setup &s, const Tokens &t, EncodeOptions options = raw(GGE_POOLING_LAST))
        : status(static_cast<size_t>(t.n_texts()), -1) {
        options.report.status = status.data();
        options.report.on_error = [](void *self, int64_t i, gge_status, const char *message) {
            static_cast<Collected *>(self)->messages[i] = message;
        };
        options.callbacks.user_data = this;
        rows = s.encode(t, options);
    }
    std::vector<int32_t> status;
    std::map<int64_t, std::string> messages;
    std::vector<float> rows;
};

} // namespace

TEST(rows_of_media_stand_in_place_of_tokens) {
    const Setup s;
    const Tokens t = s.tokens({{text("a"), medium(s.image()), text("b")},
                               {text("text")},
                               {medium(fake::sound(*s.model, 16 * 160))},
                               {medium(fake::video(*s.model, {0, 0, 1, 1}))}});
    const std::vector<float> rows = s.encode(t);
    CHECK(first_values(rows) == s.expected(t));
    for (int64_t i = 0; i < t.n_texts(); ++i) {
        for (int64_t k = 0; k < t.n_tokens(i); ++k) {
            const auto at = static_cast<size_t>(4 * (t.offsets[static_cast<size_t>(i)] + k));
            CHECK_EQ(rows[at + 1], static_cast<float>(k));
            CHECK_EQ(rows[at + 2], static_cast<float>(k + 1));
        }
    }
}

TEST(only_micro_batches_with_media_are_computed_from_rows) {
    Setup s;
    const Tokens t =
        s.tokens({{text("0123456789-.,:")}, {medium(s.image())}, {text("abcdefghijklmno")}, {text("xyz")}});
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK_EQ(s.log.get_batches().size(), size_t{3});
    CHECK_EQ(s.log.batches_of_rows.size(), size_t{1});
    CHECK(s.log.batches_of_rows[0].ids ==
          std::vector<int32_t>({fake::vision_start, -1, -1, -1, -1, fake::vision_end, 'x', 'y', 'z'}));
    s.encode(s.tokens({{text("abc")}}));
    CHECK_EQ(s.log.batches_of_rows.size(), size_t{1});
}

TEST(media_of_several_micro_batches_are_encoded_together) {
    Setup s(small(10));
    fake::Inputs inputs;
    for (uint8_t i = 0; i < 9; ++i) {
        inputs.push_back({medium(s.image(2, 2, i))});
        inputs.push_back({text("some text")});
    }
    const Tokens t = s.tokens(inputs);
    CHECK(first_values(s.encode(t)) == s.expected(t));
    // two of 4 rows have room; nobody is encoded twice
    CHECK(s.tower_log.get_passes() == Passes({{4, 4}, {4, 4}, {4, 4}, {4, 4}, {4}}));
}

TEST(a_medium_beyond_the_bound_is_encoded_by_itself) {
    Setup s(small(10));
    const Tokens t = s.tokens({{medium(s.image())}, {medium(s.image(5, 5, 1))}, {medium(s.image(2, 2, 2))}});
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK(s.tower_log.get_passes() == Passes({{25}, {4, 4}}));
}

TEST(one_micro_batch_may_need_more_than_a_pass) {
    Setup s(small(5));
    const Tokens t = s.tokens({{medium(s.image()), medium(s.image(2, 2, 1)), text("a")}});
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK(s.tower_log.get_passes() == Passes({{4}, {4}}));
}

TEST(sounds_and_images_of_an_input_go_to_their_own_encoders) {
    Setup s;
    const Tokens t = s.tokens({{medium(fake::sound(*s.model, 16 * 160)), medium(s.image())}});
    const std::vector<float> rows = s.encode(t);
    CHECK(first_values(rows) == s.expected(t));
    CHECK_EQ(s.tower_log.get_passes().size(), size_t{2});
}

TEST(a_medium_that_occurs_often_is_encoded_once) {
    Setup s(small(10));
    const MediaHandle popular = s.image(2, 2, 7);
    fake::Inputs inputs;
    for (uint8_t i = 0; i < 6; ++i) {
        inputs.push_back({medium(popular), medium(popular)});
    }
    const Tokens t = s.tokens(inputs);
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK(s.tower_log.get_passes() == Passes({{4}}));
    s.encode(t);
    CHECK_EQ(s.tower_log.get_passes().size(), size_t{2}); // rows are not kept beyond their call
}

TEST(a_medium_may_span_micro_batches) {
    for (const int32_t n_tower_batch : {5, 100}) {
        Setup s(small(n_tower_batch));
        const Tokens t = s.tokens(
            {{text("ab"), medium(s.image(6, 6, 1)), text("c"), medium(s.image(2, 2, 2))}, {medium(s.image(2, 2, 3))}});
        CHECK(first_values(s.encode(t)) == s.expected(t));
        int64_t n = 0;
        for (const auto &pass : s.tower_log.get_passes()) {
            n += n_rows(pass);
        }
        CHECK_EQ(n, 44);
        CHECK_EQ(s.log.get_batches()[0].size(), size_t{16});
    }
}

TEST(inputs_of_bidirectional_models_are_computed_as_a_whole) {
    Setup s(small(), fake::nano);
    const Tokens t = s.tokens({{text("P: "), medium(s.image(6, 6, 1))}, {text("a")}});
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK_EQ(s.log.batches_of_rows.size(), size_t{1});
}

TEST(rows_of_an_encoder_that_are_not_finite_fail_only_their_input) {
    Setup s;
    const MediaHandle bad = s.image(2, 2, 9);
    s.tower_log.nan_sum = s.value_of(*bad);
    const Tokens t =
        s.tokens({{medium(s.image(2, 2, 1))}, {medium(bad)}, {text("a")}, {medium(s.image(2, 2, 3)), text("b")}});
    const Collected call(s, t);
    CHECK(call.status == std::vector<int32_t>({GGE_OK, GGE_E_NOT_FINITE, GGE_OK, GGE_OK}));
    CHECK_EQ(call.messages.at(1), std::string("the rows of a medium of input 1 are not finite"));
    CHECK_EQ(call.rows[0], static_cast<float>(fake::vision_end));
    CHECK(std::isnan(call.rows[4]));
    CHECK_EQ(call.rows[8], static_cast<float>('a'));
    CHECK_EQ(call.rows[12], static_cast<float>('b'));
    CHECK_EQ(s.tower_log.get_passes().size(), size_t{1}); // computed again, but not encoded again
    CHECK_THROWS(GGE_E_NOT_FINITE, s.encode(t));
}

TEST(an_encoder_that_fails_for_one_medium_fails_only_its_input) {
    Setup s(small(100));
    s.tower_log.n_rows_limit = 12;
    fake::Inputs inputs = {{medium(s.image(4, 4, 1))}, {text("abc")}};
    for (uint8_t i = 0; i < 12; ++i) {
        inputs.push_back({medium(s.image(2, 2, i)), text("x")});
    }
    const Tokens t = s.tokens(inputs);
    const Collected call(s, t);
    CHECK_EQ(call.status[0], GGE_E_MEMORY);
    CHECK_EQ(call.messages.at(0), std::string("no memory for the tower"));
    for (size_t i = 1; i < inputs.size(); ++i) {
        CHECK_EQ(call.status[i], GGE_OK);
    }
    // passes became smaller until they had room
    CHECK(n_rows(s.tower_log.get_passes().back()) <= 12);
}

TEST(media_of_one_input_need_not_fit_into_one_pass) {
    Setup s(small(100));
    s.tower_log.n_rows_limit = 8;
    const Tokens t = s.tokens({{medium(s.image()), medium(s.image(2, 2, 1)), medium(s.image(2, 2, 2))}});
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK(s.tower_log.get_passes() == Passes({{4, 4, 4}, {4}, {4}, {4}}));
}

TEST(a_split_input_whose_second_half_cannot_be_encoded_fails_alone) {
    Setup s(small(100));
    const MediaHandle bad = s.image(2, 2, 9);
    s.tower_log.nan_sum = s.value_of(*bad);
    const Tokens t = s.tokens(
        {{text("0123456789abcdefghij"), medium(bad), text("0123456789abcdefghij")}, {medium(s.image()), text("b")}});
    const Collected call(s, t);
    CHECK(call.status == std::vector<int32_t>({GGE_E_NOT_FINITE, GGE_OK}));
    CHECK_EQ(call.rows[4], static_cast<float>('b'));
}

TEST(an_input_that_is_computed_again_gets_its_media_again) {
    Setup s(small(4));
    const Tokens media = s.tokens({{medium(s.image(2, 2, 1))}, {medium(s.image(2, 2, 2))}, {medium(s.image(2, 2, 3))}});
    Tokens t = media;
    t.ids[6] = fake::id_nan_in_company; // of the second input
    const std::vector<float> rows = s.encode(t);
    std::vector<float> wanted = s.expected(t);
    CHECK(first_values(rows) == wanted);
    CHECK_EQ(s.log.n_wipes, 1);
}

TEST(a_call_can_be_aborted_while_an_encoder_runs) {
    Setup s;
    s.tower_log.is_slow = true;
    const Tokens t = s.tokens({{medium(s.image())}});
    std::thread other([&] {
        s.wait_for_slow_tower();
        s.engine->abort();
    });
    CHECK_THROWS(GGE_E_ABORTED, s.encode(t));
    other.join();
    {
        const std::lock_guard<std::mutex> lock(s.tower_log.mutex);
        s.tower_log.is_slow = false;
    }
    CHECK(first_values(s.encode(t)) == s.expected(t));
}

TEST(an_engine_can_be_closed_while_an_encoder_runs) {
    Setup s;
    s.tower_log.is_slow = true;
    const Tokens t = s.tokens({{medium(s.image())}});
    std::thread other([&] {
        s.wait_for_slow_tower();
        s.engine->close();
    });
    CHECK_THROWS(GGE_E_CLOSED, s.encode(t));
    other.join();
}

TEST(engines_share_towers_and_media) {
    Setup s;
    Engine other(s.model, small());
    const Tokens t = s.tokens({{medium(s.image(3, 3, 1)), text("ab")}, {medium(fake::sound(*s.model, 16 * 160))}});
    const std::vector<float> wanted = s.encode(t);
    std::vector<std::thread> threads;
    for (Engine *engine : {s.engine.get(), &other, s.engine.get(), &other}) {
        threads.emplace_back([&, engine] {
            for (int i = 0; i < 20; ++i) {
                std::vector<float> out(wanted.size());
                engine->encode(t, raw(), {out.data(), static_cast<int64_t>(t.ids.size()), 4});
                CHECK(out == wanted);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

TEST(long_inputs_are_named) {
    EngineOptions options = small();
    options.n_ctx = 16;
    const Setup s(options);
    const Tokens t = s.tokens({{text("ok")}, {medium(s.image(4, 4))}});
    CHECK_EQ(CHECK_THROWS(GGE_E_TOO_LONG, s.encode(t)), std::string("input 1 has 18 tokens, the context holds 16"));
}

TEST(adapters_go_with_media_unless_they_change_the_rows_of_tokens) {
    const Setup s(small(), [](fake::Model &model) {
        fake::small(model);
        model.facts().n_adapters = 2;
        model.facts().token_adapters = {2};
    });
    const Tokens t = s.tokens({{medium(s.image()), text("a")}});
    EncodeOptions options = raw(GGE_POOLING_LAST);
    options.adapter = 1;
    CHECK_EQ(s.encode(t, options)[0], 1000.0F + 'a');
    options.adapter = 2;
    CHECK_EQ(CHECK_THROWS(GGE_E_UNSUPPORTED, s.encode(t, options)),
             std::string("adapter 2 changes token_embd.weight, so it does not go with media"));
    CHECK_EQ(s.encode(s.tokens({{text("a")}}), options)[0], 2000.0F + 'a');
}

TEST(the_mean_is_over_the_pooled_rows) {
    const Setup s(small(), fake::v4);
    const Tokens t = s.tokens({{text("0123456789abcd"), medium(s.image(3, 3, 1)), text("e")}, {text("ab")}});
    const std::vector<float> mean = s.encode(t, raw(GGE_POOLING_MEAN));
    const std::vector<float> values = s.expected(t);
    double sum = 0;
    for (size_t i = 14; i < 25; ++i) { // the image spans two micro-batches
        sum += static_cast<double>(values[i]);
    }
    CHECK_EQ(mean[0], static_cast<float>(sum / 11));
    CHECK_EQ(mean[4], ('a' + 'b') / 2.0F);
    CHECK_EQ(s.encode(t, raw(GGE_POOLING_LAST))[0], static_cast<float>('e'));
    CHECK_EQ(s.encode(t).size(), t.ids.size() * 4);
}

TEST(a_mean_over_an_image_wants_its_rows_alone) {
    Setup s(small(), fake::v4);
    // the pieces end at 16, 32 and 40; the image is 20 to 31 with its markers
    const Tokens t = s.tokens({{text("0123456789abcdefghij"), medium(s.image(3, 3, 1)), text("012345678")}});
    CHECK_EQ(t.pooled.at(0).begin, 20);
    CHECK_EQ(t.pooled.at(0).end, 31);
    const std::vector<float> mean = s.encode(t, raw(GGE_POOLING_MEAN));
    const std::vector<float> values = s.expected(t);
    CHECK_EQ(mean[0], static_cast<float>(std::accumulate(values.begin() + 20, values.begin() + 31, 0.0) / 11));
    std::vector<uint8_t> before(16, 0);
    before.back() = 1; // a micro-batch gives a row, pooled or not
    std::vector<uint8_t> image(16, 0);
    std::fill(image.begin() + 4, image.begin() + 15, uint8_t{1});
    std::vector<uint8_t> behind(8, 0);
    behind.back() = 1;
    CHECK(s.log.wanted == (std::vector<std::vector<uint8_t>>{before, image, behind}));
    s.encode(t, raw(GGE_POOLING_NONE));
    CHECK(s.log.wanted.back() == std::vector<uint8_t>(8, 1));
}

TEST(an_input_with_an_image_runs_whole_where_there_is_no_cache) {
    Setup s(small(), [](fake::Model &m) {
        fake::v4(m);
        m.facts().cacheless = true;
    });
    const Tokens t = s.tokens({{text("0123456789abcdefghij"), medium(s.image(3, 3, 1)), text("01")}, {text("ab")}});
    CHECK(first_values(s.encode(t)) == s.expected(t));
    CHECK(s.log.sizes() == std::vector<size_t>({33, 2}));
}

TEST(micro_batches_of_rows_have_positions_of_three_parts) {
    Setup s(small(), fake::v4);
    const Tokens t = s.tokens({{text("a"), medium(s.image(3, 2)), text("bc")}, {text("defg")}});
    s.encode(t);
    const TokenBatch &batch = s.log.batches_of_rows.at(0);
    CHECK(batch.positions == std::vector<int32_t>({0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 0, 1, 2, 3}));
    CHECK(batch.heights == std::vector<int32_t>({0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 0, 1, 2, 3}));
    CHECK(batch.widths == std::vector<int32_t>({0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3}));
    CHECK_EQ(s.encode(t, raw(GGE_POOLING_LAST))[1], 7.0F);
}

TEST(a_call_with_media_takes_turns_with_texts) {
    Setup s(small(16));
    Tokens t =
        s.tokens({{medium(s.image(3, 3, 1))}, {medium(s.image(3, 3, 2))}, {medium(s.image(3, 3, 3))}, {text("a")}});
    t.ids[0] = fake::id_gate;
    std::vector<float> expected = s.expected(t);
    std::thread media([&] { CHECK(first_values(s.encode(t)) == expected); });
    while (s.engine->stats().n_calls_running == 0) {
    }
    std::thread few(
        [&] { CHECK_EQ(s.encode(s.tokens({{text("b")}}), raw(GGE_POOLING_LAST))[0], static_cast<float>('b')); });
    while (s.engine->stats().n_calls_queued == 0) {
    }
    CHECK_EQ(s.engine->stats().n_texts_queued, 5);
    s.log.n_gate = 1;
    few.join();
    media.join();
    const std::vector<std::vector<int32_t>> batches = s.log.get_batches();
    CHECK(batches[1] == std::vector<int32_t>{'b'}); // by itself, between those with media
    CHECK_EQ(s.log.batches_of_rows.size(), size_t{3});
    CHECK_EQ(s.engine->stats().n_texts_queued, 0);
    CHECK_EQ(s.engine->stats().n_texts, 5);
}

TEST(calls_with_media_that_take_turns_keep_the_rows_of_their_media) {
    Setup s(small(100));
    fake::Inputs inputs;
    for (uint8_t i = 0; i < 6; ++i) {
        inputs.push_back({medium(s.image(3, 3, i))});
    }
    Tokens first = s.tokens(inputs);
    const Tokens second = s.tokens({inputs[0], inputs[1], inputs[2]});
    first.ids[0] = fake::id_gate;
    std::thread a([&] { CHECK(first_values(s.encode(first)) == s.expected(first)); });
    while (s.engine->stats().n_calls_running == 0) {
    }
    std::thread b([&] { CHECK(first_values(s.encode(second)) == s.expected(second)); });
    while (s.engine->stats().n_calls_queued == 0) {
    }
    s.log.n_gate = 1;
    a.join();
    b.join();
    CHECK_EQ(s.tower_log.get_passes().size(), size_t{2}); // each encoded its own once
}
