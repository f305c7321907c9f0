// What the way from tokens to rows asks of the C++ heap: nothing from one micro-batch to the next, and a handful for a
// call.
#include "check.h"
#include "engine.h"
#include "fake_backend.h"

#include <cstdlib>
#include <new>

// GCC sees free() behind a delete that it inlines, but not malloc() behind the new.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace {

std::atomic<int64_t> n_in_process{0};
thread_local int64_t n_in_thread = 0;

} // namespace

void *operator new(std::size_t size) {
    ++n_in_process;
    ++n_in_thread;
    void *p = std::malloc(size == 0 ? 1 : size);
    if (p == nullptr) {
        throw std::bad_alloc();
    }
    return p;
}

void operator delete(void *p) noexcept {
    std::free(p);
}

void operator delete(void *p, std::size_t) noexcept {
    std::free(p);
}

using namespace gge;

namespace {

constexpr int64_t n_ubatch = 32;

// An engine that notes how often its worker had allocated when a micro-batch came.
struct Setup {
    explicit Setup(void (*change)(fake::Model &)) {
        seen.reserve(10000);
        log.on_compute = [this] {
            seen.push_back(n_in_thread);
            while (is_held) {
            }
        };
        auto backend = std::make_unique<fake::Model>(log);
        change(*backend);
        model = fake::wrap(std::move(backend));
        EngineOptions options;
        options.n_ubatch = n_ubatch;
        options.n_threads = 1;
        engine = std::make_unique<Engine>(model, options);
    }

    Tokens tokens(int64_t n_texts, int64_t n_tokens) const {
        const std::vector<int32_t> ids(static_cast<size_t>(n_texts * n_tokens), 7);
        std::vector<int64_t> offsets;
        for (int64_t i = 0; i <= n_texts; ++i) {
            offsets.push_back(i * n_tokens);
        }
        return take_ids(model, ids.data(), offsets.data(), n_texts);
    }

    // Returns how often the process allocates meanwhile.
    int64_t encode(const Tokens &t, const EncodeOptions &options) {
        seen.clear();
        const bool rank = options.pooling == GGE_POOLING_RANK;
        const auto n_rows = options.pooling == GGE_POOLING_NONE ? static_cast<int64_t>(t.ids.size()) : t.n_texts();
        const int64_t width = rank ? fake::n_cls_out : fake::n_embd;
        std::vector<float> out(static_cast<size_t>(n_rows * width));
        const int64_t before = n_in_process;
        engine->encode(t, options, {out.data(), n_rows, width});
        return n_in_process - before;
    }

    fake::Log log;
    std::atomic<bool> is_held{false};
    std::vector<int64_t> seen;
    std::shared_ptr<const Model> model;
    std::unique_ptr<Engine> engine;
};

void causal(fake::Model &m) {
    m.facts().n_cls_out = fake::n_cls_out;
}

void cacheless(fake::Model &m) {
    causal(m);
    m.facts().cacheless = true;
}

constexpr auto poolings = {GGE_POOLING_NONE, GGE_POOLING_MEAN, GGE_POOLING_CLS, GGE_POOLING_LAST, GGE_POOLING_RANK};

} // namespace

TEST(micro_batches_of_one_shape_need_nothing_from_the_heap) {
    for (const auto change : {causal, cacheless}) {
        for (const gge_pooling pooling : poolings) {
            for (const int64_t n_tokens : {1, 8, 20, 32, 100}) { // the last is longer than a micro-batch
                Setup s(change);
                const Tokens t = s.tokens(200, n_tokens);
                EncodeOptions options;
                options.pooling = pooling;
                options.callbacks.progress = [](void *, int64_t, int64_t) {};
                s.encode(t, options);
                CHECK(s.seen.size() >= 7);
                for (size_t b = 6; b < s.seen.size(); ++b) { // a split input has micro-batches of four shapes
                    CHECK_EQ(s.seen[b], s.seen[b - 1]);
                }
            }
        }
    }
}

TEST(a_call_allocates_no_more_for_more_inputs) {
    for (const gge_pooling pooling : poolings) {
        Setup s(cacheless);
        EncodeOptions options;
        options.pooling = pooling;
        const Tokens few = s.tokens(100, 8);
        const Tokens many = s.tokens(20000, 8);
        s.encode(few, options);
        const int64_t n_few = s.encode(few, options);
        const int64_t n_many = s.encode(many, options);
        CHECK(n_few < 40);
        CHECK(n_many < n_few + 10); // a list grows by doubling
    }
}

TEST(micro_batches_of_many_calls_need_nothing_from_the_heap) {
    for (const gge_pooling pooling : poolings) {
        Setup s(cacheless);
        const auto tokens = std::make_shared<const Tokens>(s.tokens(1, 8));
        const bool rank = pooling == GGE_POOLING_RANK;
        const int64_t n_rows = pooling == GGE_POOLING_NONE ? 8 : 1;
        const int64_t width = rank ? fake::n_cls_out : fake::n_embd;
        EncodeOptions options;
        options.pooling = pooling;
        std::vector<std::vector<float>> out(200, std::vector<float>(static_cast<size_t>(n_rows * width)));
        s.encode(*tokens, options); // the session may change
        s.seen.clear();
        s.is_held = true;
        std::vector<std::shared_ptr<Job>> jobs;
        for (auto &rows : out) {
            jobs.push_back(s.engine->prepare(tokens, options, {rows.data(), n_rows, width}, nullptr, nullptr));
            s.engine->submit(jobs.back());
        }
        s.is_held = false;
        for (const auto &job : jobs) {
            s.engine->await(*job);
            job->report();
        }
        CHECK(s.seen.size() >= 50 && s.seen.size() <= 51); // 4 of them each
        for (size_t b = 3; b < s.seen.size(); ++b) {       // the first may hold a single one
            CHECK_EQ(s.seen[b], s.seen[b - 1]);
        }
    }
}
