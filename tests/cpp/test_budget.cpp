// How large sessions are, and what memory says to that.
#include "budget.h"
#include "check.h"
#include "fake_engine.h"

using namespace gge;
using fake::raw;
using fake::sequence;
using fake::Setup;

namespace {

constexpr int64_t mib = 1 << 20;

Device device_of(gge_device_kind kind, int64_t memory_free) {
    Device device;
    device.kind = kind;
    device.memory_free = memory_free;
    return device;
}

// A model whose sessions hold a MiB for each token of the cache and each of a micro-batch, beside 100 of weights.
void weighty(fake::Model &m) {
    m.n_bytes_of_weights = 100 * mib;
    m.n_bytes_per_token = mib;
}

EngineOptions limited(int64_t n_mib, int32_t n_ctx = 0, int32_t n_ubatch = 0) {
    EngineOptions o;
    o.n_threads = 1;
    o.n_ctx = n_ctx;
    o.n_ubatch = n_ubatch;
    o.memory_limit = n_mib * mib;
    return o;
}

std::string complaint(const EngineOptions &options) {
    return CHECK_THROWS(GGE_E_MEMORY, Setup(options, weighty));
}

int64_t budget_of(const Device &device, int32_t asked, int64_t n_bytes_per_token) {
    fake::Log log;
    auto backend = std::make_unique<fake::Model>(log);
    backend->n_bytes_per_token = n_bytes_per_token;
    EngineOptions o;
    o.n_ubatch = asked;
    o.n_threads = 1;
    return Engine(fake::wrap(std::move(backend), device), o).info().n_ubatch;
}

TEST(the_budget_is_512_tokens_on_the_cpu_and_2048_on_a_gpu) {
    CHECK_EQ(budget_of(device_of(GGE_DEVICE_CPU, 0), 0, mib), 512); // what is free is unknown
    CHECK_EQ(budget_of(device_of(GGE_DEVICE_CUDA, 0), 0, mib), 2048);
    CHECK_EQ(budget_of(device_of(GGE_DEVICE_METAL, 1 << 30), 0, 1), 2048);
    CHECK_EQ(budget_of(device_of(GGE_DEVICE_CUDA, 1 << 30), 100, mib), 100);
}

TEST(the_budget_is_halved_while_its_buffers_take_more_than_a_quarter_of_what_is_free) {
    for (const auto kind : {GGE_DEVICE_CPU, GGE_DEVICE_CUDA}) {
        CHECK_EQ(budget_of(device_of(kind, 4 * 2 * 512 * mib), 0, mib), 512);
        CHECK_EQ(budget_of(device_of(kind, 4 * 2 * 512 * mib - 1), 0, mib), 256);
        CHECK_EQ(budget_of(device_of(kind, 4 * 2 * 100 * mib), 0, mib), 64);
        CHECK_EQ(budget_of(device_of(kind, 1), 0, mib), 64);
        CHECK_EQ(budget_of(device_of(kind, 1), 4096, mib), 4096); // asked for
    }
}

TEST(the_longest_input_that_a_limit_allows_is_reserved) {
    Setup s(limited(100 + 2 * 16 + 600, 0, 16), weighty); // split: 16 MiB for the micro-batch, 512 for the cache
    const gge_engine_info info = s.engine->info();
    CHECK_EQ(info.n_ctx, 1024);
    CHECK_EQ(info.n_room, 512);
    CHECK_EQ(info.memory_limit, (100 + 2 * 16 + 600) * mib);
    CHECK_EQ(s.log.opened.size(), size_t{1});
    CHECK_EQ(s.log.opened[0].n_ctx, 512);
    CHECK_EQ(s.encode(s.tokens({sequence(0, 512), {7}}))[2], 512.0F);
    for (int i = 0; i < 100; ++i) {
        s.encode(s.tokens({sequence(0, 16)}));
    }
    CHECK_EQ(s.log.opened.size(), size_t{1}); // neither grown nor given up
}

TEST(inputs_beyond_a_limit_fail_alone_and_say_what_there_is_room_for) {
    for (const bool causal : {true, false}) {
        Setup s(limited(100 + 600, 0, 16), [&](fake::Model &m) {
            weighty(m);
            m.facts().attention = causal ? Attention::causal : Attention::bidirectional;
        });
        const int64_t room = causal ? 512 : 256; // that runs whole, with both for each token
        CHECK_EQ(s.engine->info().n_room, room);
        std::vector<int32_t> status(3);
        EncodeOptions o = raw();
        std::vector<std::string> messages;
        o.report.status = status.data();
        o.report.on_error = [](void *to, int64_t, gge_status, const char *message) {
            static_cast<std::vector<std::string> *>(to)->push_back(message);
        };
        o.callbacks.user_data = &messages;
        s.encode(s.tokens({{7}, sequence(0, static_cast<int32_t>(room) + 1), sequence(0, 200)}), o);
        CHECK(status == std::vector<int32_t>({GGE_OK, GGE_E_MEMORY, GGE_OK}));
        CHECK_EQ(messages.at(0), "text 1 has " + std::to_string(room + 1) + " tokens, there is memory for " +
                                     std::to_string(room) + ": memory_limit is 700.0 MiB");
    }
}

TEST(micro_batches_shrink_to_a_limit) {
    const auto info = [](int64_t n_mib, int32_t n_ctx) { return Setup(limited(n_mib, n_ctx), weighty).engine->info(); };
    CHECK_EQ(info(100 + 1024, 0).n_ubatch, 512);
    CHECK_EQ(info(100 + 1024, 0).n_room, 512);
    CHECK_EQ(info(100 + 1023, 0).n_ubatch, 256);
    CHECK_EQ(info(100 + 1023, 0).n_room, 512);
    CHECK_EQ(info(100 + 128, 0).n_ubatch, 64);
    CHECK_EQ(info(100 + 128, 0).n_room, 64);
    CHECK_EQ(info(100 + 1024 + 128, 1024).n_ubatch, 128);
    CHECK_EQ(info(100 + 1024 + 128, 1024).n_room, 1024);
    CHECK_EQ(info(1 << 20, 0).n_ubatch, 512);
    CHECK_EQ(info(1 << 20, 0).n_room, 1024);
}

TEST(what_does_not_fit_a_limit_is_an_error_with_numbers) {
    CHECK_EQ(complaint(limited(99)), "memory_limit is 99.0 MiB, the weights take 100.0 MiB and the buffers for "
                                     "micro-batches of 64 tokens another 128.0 MiB");
    CHECK_EQ(complaint(limited(1000, 0, 500)), "memory_limit is 1000.0 MiB, the weights take 100.0 MiB and the buffers "
                                               "for micro-batches of 500 tokens another 1000.0 MiB");
    CHECK_EQ(complaint(limited(1000, 1000)),
             "memory_limit is 1000.0 MiB, the weights take 100.0 MiB and the buffers for inputs of 1000 tokens and "
             "micro-batches of 64 tokens another 1.06 GiB");
}

TEST(what_was_not_measured_right_is_reserved_as_far_as_there_is_memory) {
    Setup s(limited(1 << 20, 0, 16), [](fake::Model &m) {
        weighty(m);
        m.n_ubatch_limit = 300; // tokens of a session that can be opened
    });
    CHECK_EQ(s.engine->info().n_room, 256);
    CHECK_EQ(s.log.opened.at(0).n_ctx, 256);
}

TEST(a_context_that_was_given_is_reserved_or_an_error) {
    EngineOptions o = limited(0, 600, 16);
    Setup s(o);
    CHECK_EQ(s.log.opened.at(0).n_ctx, 768);
    CHECK_EQ(s.encode(s.tokens({sequence(0, 600)}))[2], 600.0F);
    for (int i = 0; i < 100; ++i) {
        s.encode(s.tokens({sequence(0, 16)}));
    }
    CHECK_EQ(s.log.opened.size(), size_t{1});
    const auto small = [](fake::Model &m) { m.n_ubatch_limit = 300; };
    CHECK_EQ(CHECK_THROWS(GGE_E_MEMORY, Setup(o, small)),
             "no memory for inputs of 600 tokens and micro-batches of 16 tokens: no memory for the compute state");
}

} // namespace
