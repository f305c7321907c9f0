#include "check.h"
#include "fake_engine.h"

#include <array>
#include <cmath>
#include <set>
#include <tuple>

using namespace gge;
using fake::raw;
using fake::sequence;
using fake::Setup;
using fake::small;

namespace {

using Row = std::vector<float>;
using Sizes = std::vector<size_t>;

Row at(const std::vector<float> &rows, std::ptrdiff_t i) {
    return {rows.begin() + 4 * i, rows.begin() + 4 * i + 4};
}

// What models are like.
void causal(fake::Model &) {}

void bidirectional(fake::Model &m) {
    m.facts().has_cache = false;
    m.facts().attention = Attention::bidirectional;
}

void cacheless(fake::Model &m) {
    m.facts().cacheless = true;
}

void can_rank(fake::Model &m) {
    m.facts().n_cls_out = fake::n_cls_out;
}

void reranker(fake::Model &m) {
    can_rank(m);
    m.facts().pooling = GGE_POOLING_RANK;
}

} // namespace

TEST(rows_come_back_in_the_order_of_the_inputs) {
    const Setup s;
    std::vector<std::vector<int32_t>> texts;
    for (int32_t i = 0; i < 50; ++i) {
        texts.push_back(sequence(i, 1 + (i * 7) % 16));
    }
    const auto out = s.encode(s.tokens(texts));
    for (size_t i = 0; i < texts.size(); ++i) {
        CHECK_EQ(out[i * 4], static_cast<float>(texts[i].back()));
        CHECK_EQ(out[i * 4 + 2], static_cast<float>(texts[i].size()));
    }
}

TEST(no_input_gives_no_rows_and_touches_no_session) {
    Setup s;
    CHECK(s.encode(s.tokens({})).empty());
    CHECK(s.log.get_batches().empty());
}

TEST(each_pooling_sees_all_pieces_of_a_long_input) {
    const Setup s;
    const auto text = sequence(0, 100); // seven micro-batches
    const Tokens t = s.tokens({text});
    const auto last = s.encode(t, raw(GGE_POOLING_LAST));
    CHECK(last == std::vector<float>({99, 99, 100, 1}));
    const auto cls = s.encode(t, raw(GGE_POOLING_CLS));
    CHECK(cls == std::vector<float>({0, 0, 1, 1}));
    const auto mean = s.encode(t, raw(GGE_POOLING_MEAN));
    CHECK(mean == std::vector<float>({49.5F, 49.5F, 50.5F, 1}));
    const auto rows = s.encode(t, raw(GGE_POOLING_NONE));
    for (size_t i = 0; i < text.size(); ++i) {
        CHECK_EQ(rows[i * 4 + 1], static_cast<float>(i));
    }
}

TEST(long_input_runs_whole_and_alone_and_the_session_grows_for_it) {
    for (const auto kind : {bidirectional, cacheless}) {
        Setup s(small(), kind);
        const auto out = s.encode(s.tokens({{1}, sequence(0, 300), {2}, sequence(0, 17)}), raw(GGE_POOLING_LAST));
        CHECK(at(out, 1) == Row({99, 299, 300, 1}));
        CHECK(at(out, 3) == Row({16, 16, 17, 1}));
        CHECK(s.log.sizes() == Sizes({300, 17, 2}));
        CHECK(s.log.capacities() == Sizes({16, 512}));
        CHECK_EQ(s.log.opened.back().n_ctx, 512); // no more than the micro-batch, as there is no cache
    }
}

TEST(micro_batches_of_a_grown_session_stay_in_their_budget) {
    for (const auto kind : {bidirectional, cacheless}) {
        Setup s(small(), kind);
        s.encode(s.tokens({sequence(0, 300), sequence(0, 8), sequence(0, 8), sequence(0, 8)}));
        CHECK(s.log.sizes() == Sizes({300, 16, 8}));
        CHECK_EQ(s.engine->info().n_ubatch, 16);
    }
}

TEST(a_grown_session_shrinks_when_calls_without_long_inputs_have_had_as_many_tokens) {
    for (const auto kind : {bidirectional, cacheless}) {
        Setup s(small(), kind);
        const std::vector<std::vector<int32_t>> ten(10, sequence(0, 16));
        s.encode(s.tokens({sequence(0, 300)}));
        for (const int32_t n : {257, 512}) { // more than half of the room
            s.encode(s.tokens(ten));
            s.encode(s.tokens(ten));
            s.encode(s.tokens(ten));
            s.encode(s.tokens({{1}, sequence(0, n)}));
        }
        CHECK(s.log.capacities() == Sizes({16, 512}));
        s.encode(s.tokens(ten));
        s.encode(s.tokens(ten));
        s.encode(s.tokens(ten));
        s.encode(s.tokens({sequence(0, 16), sequence(0, 15)}));
        CHECK(s.log.capacities() == Sizes({16, 512}));
        CHECK_EQ(s.encode(s.tokens({{7}}))[0], 7.0F);
        s.encode(s.tokens(ten));
        CHECK(s.log.capacities() == Sizes({16, 512, 16}));
        s.encode(s.tokens({sequence(0, 600)}));
        CHECK(s.log.capacities() == Sizes({16, 512, 16, 768}));
        s.encode(s.tokens(std::vector<std::vector<int32_t>>(100, sequence(0, 8)))); // 800 tokens at once
        CHECK(s.log.capacities() == Sizes({16, 512, 16, 768, 16}));
        s.encode(s.tokens({sequence(0, 600)}));
        for (int i = 0; i < 5; ++i) { // each over the budget, none near the room
            s.encode(s.tokens(std::vector<std::vector<int32_t>>(8, sequence(0, 20))));
        }
        CHECK(s.log.capacities() == Sizes({16, 512, 16, 768, 16, 768, 256}));
    }
}

TEST(a_session_has_no_more_room_than_the_context) {
    EngineOptions o = small();
    o.n_ctx = 300;
    Setup s(o, cacheless);
    CHECK(check::contains(CHECK_THROWS(GGE_E_TOO_LONG, s.encode(s.tokens({sequence(0, 301)}))), "holds 300"));
    CHECK_EQ(s.encode(s.tokens({sequence(0, 300)}))[2], 300.0F);
    CHECK(s.log.capacities() == Sizes({304})); // which is there from the start
}

TEST(largest_session_is_the_one_that_the_longest_input_gets) {
    for (const auto kind : {causal, bidirectional, cacheless, reranker}) {
        for (const int32_t n_ctx : {0, 8, 300}) {
            EngineOptions o = small();
            o.n_ctx = n_ctx;
            Setup s(o, kind);
            const Budget budget = choose_budget(s.model->facts(), o, GGE_DEVICE_CPU, false);
            const SessionOptions largest = budget.session_for(budget.n_ctx, budget.first.rank);
            const EncodeOptions options = raw(GGE_POOLING_DEFAULT);
            s.encode(s.tokens({sequence(0, n_ctx == 0 ? 1024 : n_ctx)}), options);
            const SessionOptions &last = s.log.opened.back();
            CHECK_EQ(last.n_ubatch, largest.n_ubatch);
            CHECK_EQ(last.n_ctx, largest.n_ctx);
            CHECK_EQ(last.n_seq_max, largest.n_seq_max);
            CHECK_EQ(last.rank, largest.rank);
        }
    }
}

TEST(causal_long_input_grows_the_cache_and_not_the_micro_batch) {
    Setup s;
    s.encode(s.tokens({sequence(0, 300)}));
    CHECK_EQ(s.log.opened.back().n_ubatch, 16);
    CHECK_EQ(s.log.opened.back().n_ctx, 512);
    s.encode(s.tokens(std::vector<std::vector<int32_t>>(32, sequence(0, 16))));
    CHECK_EQ(s.log.opened.back().n_ctx, 16);
}

TEST(sequences_of_a_micro_batch_are_bounded_by_its_tokens_and_by_upstream) {
    const auto n_seq_max = [](int32_t n_ubatch, int32_t asked, bool has_state) {
        EngineOptions o;
        o.n_ubatch = n_ubatch;
        o.n_seq_max = asked;
        return Setup(o, [&](fake::Model &m) { m.facts().has_state = has_state; }).engine->info().n_seq_max;
    };
    CHECK_EQ(n_seq_max(0, 0, false), 255);
    CHECK_EQ(n_seq_max(0, 256, false), 255);
    CHECK_EQ(n_seq_max(0, 3, false), 3);
    CHECK_EQ(n_seq_max(8, 0, false), 8);
    CHECK_EQ(n_seq_max(0, 0, true), 16);
}

TEST(attention_in_use_is_told) {
    const auto attention = [](AttentionChoice choice, void (*kind)(fake::Model &)) {
        EngineOptions o = small();
        o.attention = choice;
        return Setup(o, kind).engine->info().attention;
    };
    for (const auto kind : {causal, cacheless}) {
        CHECK_EQ(attention(AttentionChoice::from_file, kind), GGE_ATTENTION_CAUSAL);
        CHECK_EQ(attention(AttentionChoice::causal, kind), GGE_ATTENTION_CAUSAL);
        CHECK_EQ(attention(AttentionChoice::bidirectional, kind), GGE_ATTENTION_BIDIRECTIONAL);
    }
    CHECK_EQ(attention(AttentionChoice::from_file, bidirectional), GGE_ATTENTION_BIDIRECTIONAL);
}

TEST(only_rows_that_are_pooled_are_wanted) {
    using Wanted = std::vector<std::vector<uint8_t>>;
    const auto wanted = [](gge_pooling pooling) {
        Setup s(small(), can_rank);
        std::vector<float> out(100);
        const Tokens t = s.tokens({sequence(0, 3), sequence(0, 18), sequence(0, 2)});
        EncodeOptions o = raw(pooling);
        s.engine->encode(t, o, {out.data(), pooling == GGE_POOLING_NONE ? 23 : 3, 4});
        return s.log.wanted;
    };
    const std::vector<uint8_t> all(16, 1);
    std::vector<uint8_t> first(16, 0);
    std::vector<uint8_t> last(16, 0);
    first.front() = 1;
    last.back() = 1;
    CHECK(wanted(GGE_POOLING_LAST) == (Wanted{last, {0, 1}, {0, 0, 1, 0, 1}}));
    CHECK(wanted(GGE_POOLING_CLS) == (Wanted{first, {1, 0}, {1, 0, 0, 1, 0}}));
    CHECK(wanted(GGE_POOLING_MEAN) == (Wanted{all, {1, 1}, {1, 1, 1, 1, 1}}));
    CHECK(wanted(GGE_POOLING_NONE) == (Wanted{all, {1, 1}, {1, 1, 1, 1, 1}}));
    CHECK(wanted(GGE_POOLING_RANK) == (Wanted{std::vector<uint8_t>(18, 1), {1, 1, 1, 1, 1}}));
}

TEST(default_pooling_follows_the_file_and_then_the_attention) {
    const Setup plain;
    CHECK_EQ(plain.model->pooling(), GGE_POOLING_LAST);
    CHECK_EQ(plain.model->info().pooling_in_file, 0);
    const Setup both_ways(small(), [](fake::Model &m) { m.facts().attention = Attention::bidirectional; });
    CHECK_EQ(both_ways.model->pooling(), GGE_POOLING_MEAN);
    const Setup file(small(), [](fake::Model &m) { m.facts().pooling = GGE_POOLING_CLS; });
    CHECK_EQ(file.model->pooling(), GGE_POOLING_CLS);
    CHECK_EQ(file.model->info().pooling_in_file, 1);
    EncodeOptions o = raw(GGE_POOLING_DEFAULT);
    CHECK_EQ(file.encode(file.tokens({{5, 6}}), o)[0], 5.0F);
    CHECK_EQ(plain.encode(plain.tokens({{5, 6}}), o)[0], 6.0F);
}

TEST(rows_are_cut_then_normalised_and_the_rest_of_a_row_is_left_alone) {
    const Setup s;
    EncodeOptions o = raw();
    o.normalize = true;
    o.truncate_dim = 2;
    const auto out = s.encode(s.tokens({{1, 2, 3, 4}}), o); // last row: 4, 3, 4, 1
    CHECK(std::abs(out[0] - 0.8F) < 1e-6F && std::abs(out[1] - 0.6F) < 1e-6F);
    CHECK(out[2] == -1.0F && out[3] == -1.0F);
}

TEST(arguments_are_checked_with_value_and_limit) {
    const Setup s;
    const Tokens t = s.tokens({{1}, {2}});
    std::vector<float> out(8);
    const EncodeOptions o = raw();
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, s.engine->encode(t, o, {out.data(), 3, 4})), "3 rows, 2"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, s.engine->encode(t, o, {out.data(), 2, 3})), "row_stride is 3"));
    CHECK_THROWS(GGE_E_INVALID, s.engine->encode(t, o, {nullptr, 2, 4}));
    EncodeOptions wide = o;
    wide.truncate_dim = 5;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, s.encode(t, wide)), "truncate_dim is 5"));
    const Setup other;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, s.encode(other.tokens({{1}}))), "another model"));
    EngineOptions long_ctx = small();
    long_ctx.n_ctx = 1025;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, Setup{long_ctx}), "1025"));
    EngineOptions forced = small();
    forced.attention = AttentionChoice::causal;
    CHECK_THROWS(GGE_E_UNSUPPORTED, Setup(forced, bidirectional));
}

TEST(too_long_and_empty_inputs_fail_the_call_before_it_computes) {
    Setup s;
    const std::string message = CHECK_THROWS(GGE_E_TOO_LONG, s.encode(s.tokens({{1}, sequence(0, 1025)})));
    CHECK(check::contains(message, "text 1 has 1025 tokens") && check::contains(message, "1024"));
    CHECK(check::contains(CHECK_THROWS(GGE_E_EMPTY, s.encode(s.tokens({{1}, {}}))), "text 1"));
    CHECK(s.log.get_batches().empty());
}

TEST(collected_failures_leave_the_other_rows_right) {
    const Setup s;
    std::vector<int32_t> status(5, -1);
    EncodeOptions o = raw();
    o.report.status = status.data();
    const auto out = s.encode(s.tokens({{1}, {}, sequence(0, 2000), {fake::id_nan}, {7}}), o);
    CHECK(status == std::vector<int32_t>({GGE_OK, GGE_E_EMPTY, GGE_E_TOO_LONG, GGE_E_NOT_FINITE, GGE_OK}));
    CHECK_EQ(out[0], 1.0F);
    CHECK_EQ(out[16], 7.0F);
    for (size_t i = 4; i < 16; ++i) {
        CHECK(std::isnan(out[i]));
    }
}

TEST(collected_failures_of_token_rows_are_nan_rows) {
    const Setup s;
    std::vector<int32_t> status(2, -1);
    EncodeOptions o = raw(GGE_POOLING_NONE);
    o.report.status = status.data();
    const auto out = s.encode(s.tokens({{3, fake::id_nan}, {7, 8}}), o);
    CHECK(status == std::vector<int32_t>({GGE_E_NOT_FINITE, GGE_OK}));
    CHECK(std::isnan(out[0]) && std::isnan(out[7]));
    CHECK_EQ(out[8], 7.0F);
}

TEST(row_that_is_not_finite_is_computed_again_alone_on_a_wiped_cache) {
    Setup s;
    const auto out = s.encode(s.tokens({{5}, {fake::id_nan_in_company}, {6}}));
    CHECK_EQ(out[4], static_cast<float>(fake::id_nan_in_company));
    CHECK_EQ(out[7], 1.0F); // one sequence in its batch
    CHECK_EQ(out[3], 3.0F); // the others were not computed again
    CHECK_EQ(s.log.n_wipes, 1);
}

TEST(row_that_stays_not_finite_is_an_error_of_that_input) {
    const Setup s;
    const std::string message = CHECK_THROWS(GGE_E_NOT_FINITE, s.encode(s.tokens({{5}, {fake::id_nan}})));
    CHECK(check::contains(message, "text 1"));
    CHECK_EQ(s.encode(s.tokens({{5}}))[0], 5.0F);
}

TEST(long_input_that_is_not_finite_is_computed_again_as_a_whole) {
    const Setup s;
    auto text = sequence(0, 40);
    text[3] = fake::id_nan_in_company; // not wiped before the first try
    std::vector<int32_t> status(2, -1);
    EncodeOptions o = raw(GGE_POOLING_NONE);
    o.report.status = status.data();
    const auto out = s.encode(s.tokens({text, {9}}), o);
    CHECK(status == std::vector<int32_t>({GGE_OK, GGE_OK}));
    CHECK_EQ(out[3 * 4], static_cast<float>(fake::id_nan_in_company));
    CHECK_EQ(out[39 * 4 + 2], 40.0F);
    CHECK_EQ(out[40 * 4], 9.0F);
}

TEST(failed_micro_batch_fails_only_the_input_at_fault) {
    const Setup s;
    const Tokens t = s.tokens({sequence(0, 16), {fake::id_no_memory}, {4}});
    CHECK(check::contains(CHECK_THROWS(GGE_E_MEMORY, s.encode(t)), "no memory"));
    std::vector<int32_t> status(3, -1);
    EncodeOptions o = raw();
    o.report.status = status.data();
    const auto out = s.encode(t, o);
    CHECK(status == std::vector<int32_t>({GGE_OK, GGE_E_MEMORY, GGE_OK})); // though 1 and 2 shared a micro-batch
    CHECK_EQ(out[0], 15.0F);
    CHECK(std::isnan(out[4]));
    CHECK_EQ(out[8], 4.0F);
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
}

TEST(input_errors_are_told_in_order_with_their_reason) {
    const Setup s;
    using Seen = std::vector<std::tuple<int64_t, gge_status, std::string>>;
    Seen seen;
    EncodeOptions o = raw();
    o.callbacks.user_data = &seen;
    o.report.on_error = [](void *data, int64_t i, gge_status status, const char *message) {
        static_cast<Seen *>(data)->emplace_back(i, status, message);
    };
    const auto out = s.encode(s.tokens({{fake::id_no_memory}, {7}, {}, {fake::id_nan}}), o);
    CHECK_EQ(out[4], 7.0F);
    CHECK(std::isnan(out[0]) && std::isnan(out[8]) && std::isnan(out[12]));
    CHECK(seen == Seen({{0, GGE_E_MEMORY, "no memory"},
                        {2, GGE_E_EMPTY, "text 2 has no tokens"},
                        {3, GGE_E_NOT_FINITE, "the row of text 3 is not finite"}}));
}

TEST(abort_of_the_engine_ends_its_calls_and_leaves_it_usable) {
    Setup s;
    std::thread first([&] { CHECK_THROWS(GGE_E_ABORTED, s.encode(s.tokens({{fake::id_slow}}))); });
    s.wait_for_slow();
    std::thread second([&] { s.engine->abort(); });
    first.join();
    second.join();
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
}

TEST(aborted_call_that_collects_keeps_what_is_finished) {
    Setup s;
    std::vector<int32_t> status(3, -1);
    EncodeOptions o = raw();
    o.report.status = status.data();
    std::vector<float> out(12, -1);
    const Tokens t = s.tokens({{fake::id_slow}, sequence(0, 16), {}}); // the longest runs first
    std::thread caller([&] { CHECK_THROWS(GGE_E_ABORTED, s.engine->encode(t, o, {out.data(), 3, 4})); });
    s.wait_for_slow();
    s.engine->abort();
    caller.join();
    CHECK(status == std::vector<int32_t>({GGE_E_ABORTED, GGE_OK, GGE_E_EMPTY}));
    CHECK(std::isnan(out[0]));
    CHECK_EQ(out[4], 15.0F);
}

TEST(collecting_call_on_a_closed_engine_tells_its_inputs) {
    const Setup s;
    s.engine->close();
    std::vector<int32_t> status(2, -1);
    EncodeOptions o = raw();
    o.report.status = status.data();
    std::vector<float> out(8, 1);
    CHECK_THROWS(GGE_E_CLOSED, s.engine->encode(s.tokens({{1}, {}}), o, {out.data(), 2, 4}));
    CHECK(status == std::vector<int32_t>({GGE_E_CLOSED, GGE_E_EMPTY}));
    CHECK(std::isnan(out[0]) && std::isnan(out[4]));
}

TEST(rows_come_in_the_type_that_is_asked_for) {
    const Setup s;
    const Tokens t = s.tokens({{7}, {fake::id_nan}, {8}});
    EncodeOptions o = raw();
    std::vector<int32_t> status(3, -1);
    o.report.status = status.data();
    o.output_type = GGE_OUTPUT_UBINARY;
    std::vector<unsigned char> bits(6, 9);
    s.engine->encode(t, o, {bits.data(), 3, 2});
    CHECK(bits == std::vector<unsigned char>({0xB0, 9, 0, 9, 0xB0, 9})); // [7, 0, 1, n_seq] > 0
    o.output_type = GGE_OUTPUT_UINT8;
    const float ranges[8] = {0, 0, 0, 0, 255, 255, 255, 255};
    o.ranges = ranges;
    std::vector<unsigned char> bytes(12, 9);
    s.engine->encode(t, o, {bytes.data(), 3, 4});
    CHECK(bytes[0] == 7 && bytes[4] == 0 && bytes[8] == 8);
    CHECK_THROWS(GGE_E_INVALID, s.engine->encode(t, o, {bytes.data(), 3, 3}));
}

TEST(input_that_finds_no_memory_fails_and_the_shorter_ones_run) {
    const Setup s(small(), [](fake::Model &m) {
        bidirectional(m);
        m.n_ubatch_limit = 100;
    });
    std::vector<int32_t> status(2, -1);
    EncodeOptions o = raw();
    o.report.status = status.data();
    const Tokens t = s.tokens({sequence(0, 200), {4}});
    const auto out = s.encode(t, o);
    CHECK(status == std::vector<int32_t>({GGE_E_MEMORY, GGE_OK}));
    CHECK(std::isnan(out[0]));
    CHECK_EQ(out[4], 4.0F);
    CHECK(check::contains(CHECK_THROWS(GGE_E_MEMORY, s.encode(t)), "text 0 has 200 tokens"));
}

TEST(of_several_long_inputs_those_run_that_there_is_memory_for) {
    for (const auto kind : {causal, bidirectional, cacheless}) {
        Setup s(small(), [&](fake::Model &m) {
            kind(m);
            m.n_ubatch_limit = 600;
        });
        std::vector<int32_t> status(5, -1);
        std::map<int64_t, std::string> messages;
        EncodeOptions o = raw();
        o.report.status = status.data();
        o.callbacks.user_data = &messages;
        o.report.on_error = [](void *data, int64_t i, gge_status, const char *message) {
            (*static_cast<std::map<int64_t, std::string> *>(data))[i] = message;
        };
        const auto out =
            s.encode(s.tokens({sequence(0, 900), {4}, sequence(0, 500), sequence(0, 513), sequence(0, 20)}), o);
        CHECK(status == std::vector<int32_t>({GGE_E_MEMORY, GGE_OK, GGE_OK, GGE_E_MEMORY, GGE_OK}));
        CHECK_EQ(messages.at(0), "text 0 has 900 tokens, there is memory for 512: no memory for the compute state");
        CHECK_EQ(messages.at(3), "text 3 has 513 tokens, there is memory for 512: no memory for the compute state");
        CHECK(std::isnan(out[0]) && std::isnan(out[12]));
        CHECK_EQ(out[4], 4.0F);
        CHECK_EQ(out[10], 500.0F);
        CHECK_EQ(out[18], 20.0F);
    }
}

TEST(micro_batches_are_halved_until_there_is_memory_for_them) {
    EngineOptions o = small();
    o.n_ubatch = 512;
    o.n_seq_max = 200;
    Setup s(o, [](fake::Model &m) { m.n_ubatch_limit = 130; });
    CHECK_EQ(s.engine->info().n_ubatch, 128);
    CHECK_EQ(s.engine->info().n_seq_max, 128);
    CHECK(s.log.capacities() == std::vector<size_t>({128}));
    const auto out = s.encode(s.tokens({sequence(0, 100), sequence(0, 100), {4}}), raw());
    CHECK_EQ(out[2], 100.0F);
    CHECK_EQ(out[8], 4.0F);
    CHECK(s.log.sizes() == std::vector<size_t>({101, 100}));
}

TEST(without_memory_for_the_least_micro_batches_there_is_no_engine) {
    const auto fails = [](int32_t n_ubatch, int64_t limit) {
        EngineOptions o = small();
        o.n_ubatch = n_ubatch;
        return CHECK_THROWS(GGE_E_MEMORY, Setup(o, [&](fake::Model &m) { m.n_ubatch_limit = limit; }));
    };
    CHECK_EQ(fails(512, 50), "no memory for micro-batches of 64 tokens, the least after 512: no memory for the compute "
                             "state");
    CHECK_EQ(fails(100, 50), "no memory for micro-batches of 100 tokens: no memory for the compute state");
    CHECK_EQ(fails(32, 16), "no memory for micro-batches of 32 tokens: no memory for the compute state");
}

TEST(a_session_that_no_longer_finds_memory_is_given_up_for_a_smaller_one) {
    std::atomic<int64_t> *limit = nullptr;
    const Setup s(small(), [&](fake::Model &m) {
        cacheless(m);
        limit = &m.n_ubatch_limit;
    });
    std::vector<int32_t> status(2, -1);
    EncodeOptions o = raw();
    o.report.status = status.data();
    const Tokens t = s.tokens({sequence(0, 300), {4}});
    s.encode(t, o);
    std::vector<int32_t> bad = sequence(0, 300);
    bad.back() = fake::id_no_memory;
    CHECK_THROWS(GGE_E_MEMORY, s.encode(s.tokens({bad}))); // the session is dropped
    *limit = 100;
    const auto out = s.encode(t, o);
    CHECK(status == std::vector<int32_t>({GGE_E_MEMORY, GGE_OK}));
    CHECK_EQ(out[4], 4.0F);
}

TEST(progress_ends_at_the_total_and_never_falls) {
    const Setup s;
    std::vector<int64_t> seen;
    EncodeOptions o = raw();
    o.callbacks.user_data = &seen;
    o.callbacks.progress = [](void *data, int64_t done, int64_t total) {
        CHECK_EQ(total, 320);
        static_cast<std::vector<int64_t> *>(data)->push_back(done);
    };
    std::vector<std::vector<int32_t>> texts(20, sequence(0, 16));
    s.encode(s.tokens(texts), o);
    CHECK(!seen.empty() && seen.back() == 320);
    CHECK(std::is_sorted(seen.begin(), seen.end()));
}

TEST(abort_stops_a_running_call) {
    const Setup s;
    EncodeOptions o = raw();
    o.callbacks.abort = [](void *) -> int32_t { return 1; };
    CHECK_THROWS(GGE_E_ABORTED, s.encode(s.tokens({{fake::id_slow}}), o));
    CHECK_EQ(s.encode(s.tokens({{4}}))[0], 4.0F);
    CHECK_EQ(s.log.opened.size(), size_t{1}); // wiped, not opened anew
    CHECK_EQ(s.log.n_wipes, 1);
}

TEST(abort_takes_a_waiting_call_out_of_the_queue) {
    Setup s;
    std::thread first([&] { CHECK_THROWS(GGE_E_CLOSED, s.encode(s.tokens({{fake::id_slow}}))); });
    s.wait_for_slow();
    EncodeOptions o = raw();
    o.callbacks.abort = [](void *) -> int32_t { return 1; };
    CHECK_THROWS(GGE_E_ABORTED, s.encode(s.tokens({{4}}), o)); // though the first call still runs
    s.engine->close();
    first.join();
    CHECK_EQ(s.log.get_batches().size(), size_t{1});
}

TEST(close_ends_running_and_waiting_calls_and_may_be_called_again) {
    Setup s;
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
        callers.emplace_back([&] { CHECK_THROWS(GGE_E_CLOSED, s.encode(s.tokens({{fake::id_slow}}))); });
    }
    s.wait_for_slow();
    std::thread other([&] { s.engine->close(); });
    s.engine->close();
    other.join();
    for (auto &caller : callers) {
        caller.join();
    }
    CHECK_THROWS(GGE_E_CLOSED, s.encode(s.tokens({{1}})));
    s.engine->close();
}

TEST(a_call_has_one_adapter) {
    const Setup s(small(), [](fake::Model &m) { m.facts().n_adapters = 2; });
    const Tokens t = s.tokens({{7}});
    EncodeOptions o = raw();
    const auto first = [&](int32_t adapter, float scale) {
        o.adapter = adapter;
        o.adapter_scale = scale;
        return s.encode(t, o)[0];
    };
    CHECK_EQ(first(0, 1.0F), 7.0F);
    CHECK_EQ(first(1, 1.0F), 1007.0F);
    CHECK_EQ(first(2, 0.5F), 1007.0F);
    CHECK_EQ(first(2, 1.0F), 2007.0F);
    CHECK_EQ(first(0, 2.0F), 7.0F);
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, first(3, 1.0F)), "adapter is 3, the model was loaded with 2"));
}

TEST(adapters_of_calls_at_the_same_time_never_mix) {
    const Setup s(small(), [](fake::Model &m) { m.facts().n_adapters = 2; });
    std::vector<std::thread> callers;
    std::atomic<int> n_wrong{0};
    for (int32_t adapter = 0; adapter <= 2; ++adapter) {
        callers.emplace_back([&, adapter] {
            EncodeOptions o = raw();
            o.adapter = adapter;
            for (int32_t round = 0; round < 50; ++round) {
                const auto out = s.encode(s.tokens({sequence(round, 3), sequence(9, 20), {1}, {2}, {3}}), o);
                const float shift = 1000.0F * static_cast<float>(adapter);
                n_wrong += out[0] != shift + static_cast<float>(round + 2) || out[4] != shift + 28.0F ||
                           out[16] != shift + 3.0F;
            }
        });
    }
    for (auto &caller : callers) {
        caller.join();
    }
    CHECK_EQ(n_wrong.load(), 0);
}

TEST(an_adapter_is_chosen_again_after_a_failure) {
    const Setup s(small(), [](fake::Model &m) { m.facts().n_adapters = 1; });
    EncodeOptions o = raw();
    o.adapter = 1;
    CHECK_THROWS(GGE_E_MEMORY, s.encode(s.tokens({{fake::id_no_memory}}), o)); // the session is dropped
    CHECK_EQ(s.encode(s.tokens({{7}}), o)[0], 1007.0F);
}

namespace {

std::vector<float> rank(const Setup &s, const std::vector<std::vector<int32_t>> &texts, const EncodeOptions &options) {
    std::vector<float> out(texts.size() * fake::n_cls_out, -1.0F);
    s.engine->encode(s.tokens(texts), options,
                     {out.data(), static_cast<int64_t>(texts.size()), static_cast<int64_t>(fake::n_cls_out)});
    return out;
}

EncodeOptions scores() {
    EncodeOptions o;
    o.pooling = GGE_POOLING_RANK;
    return o;
}

} // namespace

TEST(scores_are_those_of_whole_sequences_and_not_scaled) {
    const Setup s(small(), can_rank);
    const auto out = rank(s, {sequence(0, 5), {9}, sequence(0, 40), sequence(0, 7)}, scores());
    CHECK(out == (std::vector<float>{4, 5, 9, 1, 39, 40, 6, 7}));
    EncodeOptions o = scores();
    o.normalize = GGE_ON;
    const auto unit = rank(s, {sequence(0, 5)}, o);
    CHECK(std::abs(unit[0] - 4.0F / std::sqrt(41.0F)) < 1e-6F && std::abs(unit[1] - 5.0F / std::sqrt(41.0F)) < 1e-6F);
}

TEST(a_long_input_to_be_ranked_runs_as_a_whole) { // though the model is causal
    Setup s(small(), can_rank);
    CHECK_EQ(rank(s, {sequence(0, 300)}, scores())[1], 300.0F);
    CHECK_EQ(s.log.get_batches().back().size(), size_t{300});
    CHECK(s.log.opened.back().rank);
    CHECK(s.log.opened.back().n_ubatch >= 300);
}

TEST(a_session_is_opened_anew_when_rows_and_scores_take_turns) {
    Setup s(small(), can_rank);
    CHECK(!s.log.opened.back().rank);
    for (int i = 0; i < 2; ++i) {
        CHECK_EQ(rank(s, {{5}, {6}}, scores())[2], 6.0F);
        CHECK_EQ(rank(s, {{7}}, scores())[0], 7.0F);
        CHECK_EQ(s.encode(s.tokens({{8}}))[0], 8.0F);
    }
    CHECK_EQ(s.log.opened.size(), size_t{5});
}

TEST(a_reranker_ranks_unless_told_otherwise) {
    Setup s(small(), reranker);
    CHECK(s.log.opened.back().rank); // from the start
    EncodeOptions o;
    CHECK_EQ(rank(s, {sequence(0, 5)}, o)[1], 5.0F);
    CHECK_EQ(s.log.opened.size(), size_t{1});
}

TEST(a_model_without_head_cannot_rank) {
    const Setup s;
    CHECK_EQ(CHECK_THROWS(GGE_E_UNSUPPORTED, rank(s, {{1}}, scores())),
             "the model has no classification head, so it cannot rank");
    const Setup headless(small(), [](fake::Model &m) { m.facts().pooling = GGE_POOLING_RANK; });
    CHECK_THROWS(GGE_E_UNSUPPORTED, headless.encode(headless.tokens({{1}}), raw(GGE_POOLING_DEFAULT)));
    CHECK_EQ(headless.encode(headless.tokens({{1}}), raw(GGE_POOLING_MEAN))[0], 1.0F); // it may still give rows
}

TEST(scores_are_neither_cut_nor_projected) {
    const Setup s(small(), can_rank);
    EncodeOptions o = scores();
    o.truncate_dim = 1;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, rank(s, {{1}}, o)), "truncate_dim does not apply"));
    o = scores();
    const std::vector<float> projection(4, 1.0F);
    o.projection = projection.data();
    o.n_projection = 1;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, rank(s, {{1}}, o)), "projection does not apply"));
}

TEST(a_score_that_is_not_finite_is_computed_again_alone) {
    Setup s(small(), can_rank);
    CHECK_EQ(rank(s, {{5}, {fake::id_nan_in_company}}, scores())[2], static_cast<float>(fake::id_nan_in_company));
    CHECK_EQ(s.log.n_wipes, 1);
    CHECK_THROWS(GGE_E_NOT_FINITE, rank(s, {{5}, {fake::id_nan}}, scores()));
}

TEST(what_there_is_no_memory_to_rank_fails_alone) {
    const Setup s(small(), [](fake::Model &m) {
        can_rank(m);
        m.n_ubatch_limit = 100;
    });
    std::array<int32_t, 2> status{};
    EncodeOptions o = scores();
    o.report.status = status.data();
    CHECK_EQ(rank(s, {{5}, sequence(0, 300)}, o)[0], 5.0F);
    CHECK(status == (std::array<int32_t, 2>{GGE_OK, GGE_E_MEMORY}));
}

TEST(many_threads_share_one_engine) {
    const Setup s;
    std::vector<std::thread> callers;
    std::atomic<int> n_wrong{0};
    for (int32_t c = 0; c < 8; ++c) {
        callers.emplace_back([&, c] {
            for (int32_t round = 0; round < 50; ++round) {
                const auto out = s.encode(s.tokens({sequence(c, 5), sequence(round, 20)}));
                n_wrong += out[0] != static_cast<float>((c + 4) % 200) || out[4] != static_cast<float>(round + 19);
            }
        });
    }
    for (auto &caller : callers) {
        caller.join();
    }
    CHECK_EQ(n_wrong.load(), 0);
}
