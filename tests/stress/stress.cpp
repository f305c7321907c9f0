// Many threads on a few engines, two of which others open and close meanwhile: every row must be the one that its text
// has alone, every status one that something in the program explains, and all must end. Public header only.
//
//     stress_engines SECONDS [SEED]
//
// GGEMBED_TEST_MODEL lists tiny text models, separated by colons. The actions of each thread follow from the seed; how
// the threads interleave does not. Exits with 1 at the first fault, 77 without a model.
#include "ggembed.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr int n_callers = 64;
constexpr size_t n_slots = 2; // engines that come and go
constexpr size_t n_texts = 300;
constexpr int32_t n_ctx = 200;
constexpr int64_t max_queued_tokens = 8000; // few enough for GGE_E_BUSY
constexpr double least_cosine = 0.99999;
constexpr std::chrono::seconds patience(240); // with what a sanitizer costs

uint64_t seed = 0;
thread_local std::string t_name = "main";
thread_local int64_t t_n_actions = 0;

[[noreturn]] void fault(const std::string &what) {
    static std::mutex mutex;
    mutex.lock(); // for good: one fault is told
    std::printf("FAULT: seed %llu, %s, action %lld: %s\n", static_cast<unsigned long long>(seed), t_name.c_str(),
                static_cast<long long>(t_n_actions), what.c_str());
    std::fflush(stdout);
    std::_Exit(1);
}

void require(bool ok, const std::string &what) {
    if (!ok) {
        fault(what);
    }
}

void require_ok(gge_status status, const gge_error &err, const char *what) {
    require(status == GGE_OK, std::string(what) + ": " + gge_status_name(status) + ", " + err.message);
}

class Random {
public:
    explicit Random(uint64_t of) : words_(seed * 1000 + of) {}
    // From least to most.
    template <class T> T from(T least, T most) {
        return static_cast<T>(least + static_cast<T>(words_() % (static_cast<uint64_t>(most - least) + 1)));
    }
    bool chance(int percent) { return from(0, 99) < percent; }
    void sleep(int most_ms) { std::this_thread::sleep_for(std::chrono::microseconds(from(0, most_ms * 1000))); }

private:
    std::mt19937_64 words_;
};

// ---------------------------------------------------------------- what came of it

struct Totals {
    std::array<std::atomic<int64_t>, 14> encoded{}; // calls by status
    std::array<std::atomic<int64_t>, 14> submitted{};
    std::atomic<int64_t> n_refused{0}; // by gge_submit
    std::atomic<int64_t> n_rows{0};
    std::atomic<int64_t> n_plain_rows{0}; // of whole width and unit length
    std::atomic<int64_t> n_same_bits{0};
    std::atomic<int64_t> n_engines{0};
    std::atomic<int64_t> n_models{0};
    std::atomic<int64_t> n_engine_aborts{0};
    std::atomic<int64_t> n_polls{0};
    std::atomic<int64_t> n_log_lines{0};
    std::mutex mutex;
    double min_cosine = 1.0;

    void note_cosine(double cosine) {
        const std::lock_guard<std::mutex> lock(mutex);
        min_cosine = std::min(min_cosine, cosine);
    }
} totals;

void print_calls(const char *what, const std::array<std::atomic<int64_t>, 14> &counts) {
    std::printf("  %s:", what);
    for (size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > 0) {
            std::printf(" %s %lld", gge_status_name(static_cast<gge_status>(i)), static_cast<long long>(counts[i]));
        }
    }
    std::printf("\n");
}

// ---------------------------------------------------------------- texts and their rows

struct Reference {
    gge_status status = GGE_OK;
    std::vector<float> row;
};

struct ModelFile {
    std::string path;
    gge_model *model = nullptr;
    int32_t n_embd = 0;
    std::vector<Reference> references;
};

std::vector<std::string> texts;
std::vector<size_t> good;
std::vector<size_t> bad; // for at least one model
std::deque<ModelFile> files;

std::string random_text(Random &random) {
    static const char *const words[] = {"the",          "question", "of",    "Zürich", "search", "a",   "embedding",
                                        "\u5411\u91cf", "2024",     "don't", "x",      "\n",     "мир", "..."};
    const int kind = random.from(0, 9);
    const int n_words = kind < 5 ? random.from(1, 4) : kind < 8 ? random.from(5, 20) : random.from(20, 45);
    std::string text;
    for (int i = 0; i < n_words; ++i) {
        text += i > 0 ? " " : "";
        text += words[random.from<size_t>(0, std::size(words) - 1)];
    }
    return text;
}

// Texts as the library takes them.
struct Given {
    Given(const std::vector<size_t> &picks, gge_status *status) : n(static_cast<int64_t>(picks.size())) {
        for (const size_t pick : picks) {
            joined_ += texts[pick];
            offsets.push_back(static_cast<int64_t>(joined_.size()));
        }
        options.struct_size = sizeof(options);
        options.input_status = status;
    }
    const uint8_t *bytes() const { return reinterpret_cast<const uint8_t *>(joined_.data()); }

    const int64_t n;
    std::vector<int64_t> offsets{0};
    gge_tokenize_options options{};

private:
    std::string joined_;
};

gge_tokens *tokenize(const gge_model *model, const std::vector<size_t> &picks, std::vector<gge_status> &status) {
    status.assign(picks.size(), -1);
    const Given given(picks, status.data());
    gge_tokens *tokens = nullptr;
    gge_error err;
    require_ok(gge_tokenize(model, given.bytes(), given.offsets.data(), given.n, &given.options, &tokens, &err), err,
               "gge_tokenize");
    return tokens;
}

gge_engine *make_engine(gge_model *model, gge_engine_options options) {
    options.struct_size = sizeof(options);
    options.n_ctx = n_ctx;
    gge_engine *engine = nullptr;
    gge_error err;
    require_ok(gge_engine_create(model, &options, &engine, &err), err, "gge_engine_create");
    ++totals.n_engines;
    return engine;
}

gge_model *load(const std::string &path) {
    gge_model_options options{};
    options.struct_size = sizeof(options);
    options.device = "cpu";
    gge_model *model = nullptr;
    gge_error err;
    require_ok(gge_model_load(path.c_str(), &options, &model, &err), err, "gge_model_load");
    ++totals.n_models;
    return model;
}

// Every text by itself, on one thread.
void compute_references(ModelFile &file) {
    gge_model_info info{};
    gge_error err;
    info.struct_size = sizeof(info);
    require_ok(gge_model_get_info(file.model, &info, &err), err, "gge_model_get_info");
    file.n_embd = info.n_embd;
    gge_engine_options options{};
    options.n_threads = 1;
    gge_engine *engine = make_engine(file.model, options);
    for (size_t i = 0; i < texts.size(); ++i) {
        std::vector<gge_status> tokenized;
        gge_tokens *tokens = tokenize(file.model, {i}, tokenized);
        Reference reference{GGE_OK, std::vector<float>(static_cast<size_t>(info.n_embd))};
        gge_encode_options encode{};
        encode.struct_size = sizeof(encode);
        encode.input_status = &reference.status;
        require_ok(gge_encode(engine, tokens, &encode, reference.row.data(), 1, info.n_embd, &err), err, "gge_encode");
        file.references.push_back(reference);
        gge_tokens_free(tokens);
    }
    gge_engine_free(engine);
}

void sort_out_texts() {
    for (size_t i = 0; i < texts.size(); ++i) {
        const bool all_ok =
            std::all_of(files.begin(), files.end(), [&](auto &file) { return file.references[i].status == GGE_OK; });
        (all_ok ? good : bad).push_back(i);
    }
}

// is_plain: as the reference was asked for.
void compare(const float *row, size_t width, const Reference &reference, bool is_plain, const std::string &where) {
    double dot = 0;
    double square = 0;
    double square_of_reference = 0;
    for (size_t k = 0; k < width; ++k) {
        dot += double{row[k]} * double{reference.row[k]};
        square += double{row[k]} * double{row[k]};
        square_of_reference += double{reference.row[k]} * double{reference.row[k]};
    }
    const double cosine = dot / std::sqrt(square * square_of_reference);
    if (!(cosine >= least_cosine)) {
        fault(where + ": cosine " + std::to_string(cosine) + " with the row of its text alone");
    }
    ++totals.n_rows;
    if (is_plain) {
        ++totals.n_plain_rows;
        totals.n_same_bits += std::equal(row, row + width, reference.row.begin()) ? 1 : 0;
    }
    if (cosine < 1.0 - 1e-9) {
        totals.note_cosine(cosine);
    }
}

// ---------------------------------------------------------------- engines

// What others may have done to the calls of an engine. Outlives it.
struct Fate {
    std::atomic<int> n_aborts_begun{0};
    std::atomic<int> n_aborts_over{0};
    std::atomic<bool> closes{false};
};

void abort_engine(Fate &fate, gge_engine *handle) {
    ++fate.n_aborts_begun;
    gge_engine_abort(handle);
    ++fate.n_aborts_over;
    ++totals.n_engine_aborts;
}

// Dies with its last user, on whose thread it is freed. An on_done is no user.
class Engine {
public:
    // own: load the file once more, and let go of it with the engine
    Engine(const ModelFile &from, const gge_engine_options &options, bool comes_and_goes, bool own, bool model_first)
        : file(from), may_close(comes_and_goes), own_(own ? load(from.path) : nullptr), model_first_(model_first),
          handle(make_engine(own ? own_ : from.model, options)) {}
    ~Engine() {
        fate->closes = true;
        if (model_first_) {
            gge_model_free(own_);
        }
        gge_engine_free(handle);
        if (!model_first_) {
            gge_model_free(own_);
        }
    }
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    gge_model *model() const { return own_ != nullptr ? own_ : file.model; }

    const ModelFile &file;
    const bool may_close;
    const std::shared_ptr<Fate> fate = std::make_shared<Fate>();

private:
    gge_model *const own_;
    const bool model_first_;

public:
    gge_engine *const handle;
};

using EngineRef = std::shared_ptr<Engine>;

struct Slot {
    std::mutex mutex;
    EngineRef engine;

    EngineRef get() {
        const std::lock_guard<std::mutex> lock(mutex);
        return engine;
    }
    void set(EngineRef other) {
        const std::lock_guard<std::mutex> lock(mutex);
        engine.swap(other);
    } // the old one may be freed here
};

std::array<Slot, n_slots> slots;
Slot main_slot;
std::atomic<bool> over{false};

EngineRef choose_engine(Random &random) {
    return random.chance(60) ? main_slot.get() : slots[random.from<size_t>(0, n_slots - 1)].get();
}

// ---------------------------------------------------------------- calls

enum class OnDone { tells, finishes, submits_again, aborts_another, aborts_engine, closes_engine };

struct Batch;

struct Call {
    EngineRef engine;
    std::shared_ptr<Fate> fate;
    const ModelFile *file = nullptr;
    std::vector<size_t> picks;
    std::vector<gge_status> tokenized;
    gge_tokens *tokens = nullptr;
    std::vector<float> out;
    std::vector<gge_status> status;
    size_t width = 0;
    size_t stride = 0;
    bool collects = false;
    int n_told = 0; // inputs without a row, by on_input_error
    gge_encode_options options{};
    int n_aborts_before = 0;
    int until_abort = -1; // -1: never
    bool is_submitted = false;
    std::atomic<bool> asked{false}; // to end
    gge_status result = GGE_OK;
    bool has_rows = true;

    OnDone on_done = OnDone::tells;
    gge_request *request = nullptr;
    gge_engine *handle = nullptr; // lives as long as an on_done runs
    int n_again = 0;
    bool takes_texts = false;
    Batch *batch = nullptr;

    Call() = default;
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    ~Call() { gge_tokens_free(tokens); }
};

// Requests of one thread, which it waits for together.
struct Batch {
    std::deque<Call> calls;
    std::atomic<bool> is_submitted{false};
    std::mutex mutex;
    std::condition_variable changed;
    size_t n_done = 0;
    size_t n_accepted = 0;

    void tell() {
        const std::lock_guard<std::mutex> lock(mutex);
        ++n_done;
        changed.notify_all();
    }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        if (!changed.wait_for(lock, patience, [&] { return n_done == n_accepted; })) {
            fault(std::to_string(n_accepted - n_done) + " requests were never done");
        }
    }
};

void prepare(Call &call, const EngineRef &engine, Random &random) {
    call.engine = engine;
    call.fate = engine->fate;
    call.file = &engine->file;
    call.handle = engine->handle;
    const size_t n = random.chance(50) ? random.from<size_t>(1, 3) : random.from<size_t>(1, 40);
    for (size_t i = 0; i < n; ++i) {
        call.picks.push_back(good[random.from<size_t>(0, good.size() - 1)]);
    }
    if (random.chance(15)) {
        call.picks[random.from<size_t>(0, n - 1)] = bad[random.from<size_t>(0, bad.size() - 1)];
    }
    call.tokens = tokenize(engine->model(), call.picks, call.tokenized);
    call.width = static_cast<size_t>(call.file->n_embd);
    if (random.chance(20)) {
        call.width = random.from<size_t>(8, call.width);
        call.options.truncate_dim = static_cast<int32_t>(call.width);
    }
    call.stride = call.width + random.from<size_t>(0, 3);
    call.out.assign(n * call.stride, -7.0F);
    call.options.struct_size = sizeof(call.options);
    call.options.normalize = random.chance(20) ? GGE_OFF : GGE_SWITCH_DEFAULT;
    call.options.user_data = &call;
    call.collects = random.chance(50);
    if (call.collects) {
        call.status.assign(n, -1);
        call.options.input_status = call.status.data();
        call.options.on_input_error = [](void *data, int64_t, gge_status, const char *) {
            ++static_cast<Call *>(data)->n_told;
        };
    }
    call.n_aborts_before = call.fate->n_aborts_over;
}

gge_status expected_of(const Call &call, size_t i) {
    return call.file->references[call.picks[i]].status;
}

// The input that a call without a list of statuses fails for, or the number of inputs.
size_t first_refused(const Call &call) {
    size_t i = 0;
    while (i < call.picks.size() && expected_of(call, i) == GGE_OK) {
        ++i;
    }
    return i;
}

std::string describe(const Call &call, size_t i) {
    return call.file->path + ", text " + std::to_string(call.picks[i]) + ", input " + std::to_string(i) + " of " +
           std::to_string(call.picks.size());
}

void check_end(const Call &call) {
    const Fate &fate = *call.fate;
    if (call.result == GGE_E_ABORTED) {
        require(call.asked || fate.n_aborts_begun > call.n_aborts_before, "aborted, but nobody asked for that");
    } else if (call.result == GGE_E_CLOSED) {
        require(fate.closes, "closed, but nobody closes the engine");
    } else {
        require(call.result == GGE_OK, std::string("came to ") + gge_status_name(call.result));
    }
}

void check_rows(const Call &call) {
    int n_without = 0;
    for (size_t i = 0; i < call.picks.size(); ++i) {
        const float *row = call.out.data() + i * call.stride;
        const gge_status expected = expected_of(call, i);
        gge_status status = call.collects ? call.status[i] : expected;
        if (status != expected && status == call.result) {
            n_without += 1; // ended before its turn
            require(std::isnan(row[0]), describe(call, i) + ": an input that was not computed has a row");
            continue;
        }
        require(status == expected,
                describe(call, i) + ": " + gge_status_name(status) + " and not " + gge_status_name(expected));
        if (status == GGE_OK) {
            const bool is_plain = call.options.truncate_dim == 0 && call.options.normalize != GGE_OFF;
            compare(row, call.width, call.file->references[call.picks[i]], is_plain, describe(call, i));
        } else {
            n_without += 1;
            require(std::isnan(row[0]), describe(call, i) + ": a refused input has a row");
        }
        for (size_t k = call.width; k < call.stride; ++k) {
            require(i + 1 == call.picks.size() || row[k] == -7.0F, describe(call, i) + ": written beside the row");
        }
    }
    require(!call.collects || call.n_told == n_without, "on_input_error told of " + std::to_string(call.n_told) +
                                                            " inputs, " + std::to_string(n_without) + " have no row");
}

void check(const Call &call) {
    ++(call.is_submitted ? totals.submitted : totals.encoded)[static_cast<size_t>(call.result)];
    const size_t refused = first_refused(call);
    if (!call.collects && refused < call.picks.size()) {
        require(call.result == expected_of(call, refused),
                describe(call, refused) + ": the call came to " + gge_status_name(call.result));
        return;
    }
    check_end(call);
    if (call.has_rows && (call.collects || call.result == GGE_OK)) {
        check_rows(call);
    }
}

int32_t asks_to_abort(void *data) {
    Call &call = *static_cast<Call *>(data);
    if (call.until_abort < 0 || call.until_abort-- > 0) {
        return 0;
    }
    call.asked = true;
    return 1;
}

void encode(const EngineRef &engine, Random &random) {
    Call call;
    prepare(call, engine, random);
    if (random.chance(40)) {
        call.options.abort = asks_to_abort;
        call.until_abort = random.chance(60) ? random.from(0, 3) : -1;
    }
    if (random.chance(20)) {
        call.options.progress = [](void *, int64_t done, int64_t total) {
            require(done >= 0 && done <= total, "progress of " + std::to_string(done));
        };
    }
    gge_error err;
    const Given given(call.picks, call.tokenized.data());
    const auto stride = static_cast<int64_t>(call.stride);
    call.result = random.chance(30)
                      ? gge_encode_texts(call.handle, given.bytes(), given.offsets.data(), given.n, &given.options,
                                         &call.options, call.out.data(), given.n, stride, &err)
                      : gge_encode(call.handle, call.tokens, &call.options, call.out.data(), given.n, stride, &err);
    check(call);
}

void when_done(void *const *done_data, int64_t n);

gge_status submit(Call &call) {
    gge_error err;
    const Given given(call.picks, call.tokenized.data());
    const auto stride = static_cast<int64_t>(call.stride);
    return call.takes_texts ? gge_submit_texts(call.handle, given.bytes(), given.offsets.data(), given.n,
                                               &given.options, &call.options, call.out.data(), given.n, stride,
                                               when_done, &call, &call.request, &err)
                            : gge_submit(call.handle, call.tokens, &call.options, call.out.data(), given.n, stride,
                                         when_done, &call, &call.request, &err);
}

void finish(Call &call) {
    gge_error err;
    call.result = gge_request_finish(call.request, &err);
    call.request = nullptr;
}

// Aborts a request of the batch whose owner finishes none before all are done.
void abort_another(Call &call) {
    Batch &batch = *call.batch;
    if (!batch.is_submitted) {
        return;
    }
    for (Call &other : batch.calls) {
        if (&other != &call && other.on_done == OnDone::aborts_another && other.request != nullptr) {
            other.asked = true;
            gge_request_abort(other.request);
        }
    }
}

// After tell() the call may be gone.
void act_when_done(Call &call) {
    if (call.on_done == OnDone::finishes) {
        finish(call);
    } else if (call.on_done == OnDone::submits_again) {
        finish(call);
        if (call.n_again-- > 0 && call.result == GGE_OK) {
            call.n_told = 0;
            const gge_status status = submit(call);
            if (status == GGE_OK) {
                return;
            }
            require(status == GGE_E_BUSY || (status == GGE_E_CLOSED && call.fate->closes),
                    std::string("gge_submit in on_done: ") + gge_status_name(status));
            call.has_rows = false; // unspecified
        }
    } else if (call.on_done == OnDone::aborts_another) {
        abort_another(call);
    } else if (call.on_done == OnDone::aborts_engine) {
        abort_engine(*call.fate, call.handle);
    } else if (call.on_done == OnDone::closes_engine) {
        call.fate->closes = true;
        gge_engine_close(call.handle);
    }
    call.batch->tell();
}

// On a thread of an engine.
void when_done(void *const *done_data, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        act_when_done(*static_cast<Call *>(done_data[i]));
    }
}

// What gge_submit says of a call that it does not take.
void check_refusal(Call &call, gge_status status) {
    require(call.request == nullptr, "gge_submit failed and gave a request");
    const size_t refused = first_refused(call);
    if (!call.collects && refused < call.picks.size()) {
        require(status == expected_of(call, refused),
                describe(call, refused) + ": gge_submit came to " + gge_status_name(status));
    } else {
        require(status == GGE_E_BUSY || (status == GGE_E_CLOSED && call.fate->closes),
                std::string("gge_submit: ") + gge_status_name(status));
    }
    ++totals.n_refused;
}

OnDone choose_on_done(Random &random, const Engine &engine) {
    if (random.from(0, 199) == 0) {
        return engine.may_close ? OnDone::closes_engine : OnDone::aborts_engine;
    }
    return static_cast<OnDone>(random.from(0, 3));
}

void submit_some(EngineRef engine, Random &random) {
    Batch batch;
    const OnDone on_done = choose_on_done(random, *engine);
    const bool goes_early = random.chance(20); // from the engine, which may thereby be freed
    const int n = random.from(1, 4);
    for (int i = 0; i < n; ++i) {
        batch.calls.emplace_back();
        Call &call = batch.calls.back();
        prepare(call, engine, random);
        call.is_submitted = true;
        call.batch = &batch;
        call.on_done = on_done;
        call.n_again = random.from(0, 2);
        call.takes_texts = random.chance(30);
        {
            const std::lock_guard<std::mutex> lock(batch.mutex);
            ++batch.n_accepted;
        }
        const gge_status status = submit(call);
        if (status != GGE_OK) {
            check_refusal(call, status);
            batch.calls.pop_back();
            const std::lock_guard<std::mutex> lock(batch.mutex);
            --batch.n_accepted;
            continue;
        }
        if (on_done != OnDone::submits_again && random.chance(70)) {
            gge_tokens_free(call.tokens);
            call.tokens = nullptr;
        }
    }
    batch.is_submitted = true;
    const bool owner_finishes = on_done != OnDone::finishes && on_done != OnDone::submits_again;
    if (owner_finishes && random.chance(40)) {
        random.sleep(random.from(0, 5));
        for (Call &call : batch.calls) {
            if (random.chance(60)) {
                call.asked = true;
                gge_request_abort(call.request);
            }
        }
    }
    if (goes_early) {
        engine.reset();
        for (Call &call : batch.calls) {
            call.engine.reset();
        }
    }
    if (on_done != OnDone::tells || random.chance(50)) {
        batch.wait();
    }
    for (Call &call : batch.calls) {
        if (owner_finishes) {
            finish(call);
        }
        check(call);
    }
    batch.wait(); // finish() waits for on_done too, but not for its last instructions
}

void poll(const Engine &engine) {
    gge_engine_stats stats{};
    gge_engine_info info{};
    gge_error err;
    stats.struct_size = sizeof(stats);
    info.struct_size = sizeof(info);
    gge_status status = gge_engine_stats_get(engine.handle, &stats, &err);
    require_ok(status, err, "gge_engine_stats_get");
    require(stats.n_calls_queued >= 0 && stats.n_calls_running >= 0 && stats.n_texts_queued >= 0 &&
                stats.n_tokens_queued >= 0 && stats.n_tokens <= stats.n_tokens_offered,
            "a figure of the engine cannot be");
    status = gge_engine_get_info(engine.handle, &info, &err);
    require_ok(status, err, "gge_engine_get_info");
    require(info.n_ctx == n_ctx, "n_ctx is " + std::to_string(info.n_ctx));
    ++totals.n_polls;
}

// ---------------------------------------------------------------- threads

void call_until_the_end(Random random) {
    while (!over) {
        ++t_n_actions;
        EngineRef engine = choose_engine(random);
        const int what = random.from(0, 999);
        if (what < 500) {
            encode(engine, random);
        } else if (what < 950) {
            submit_some(std::move(engine), random);
        } else if (what < 998) {
            poll(*engine);
        } else {
            abort_engine(*engine->fate, engine->handle);
        }
    }
}

EngineRef random_engine(Random &random) {
    constexpr std::array<int32_t, 3> budgets{32, 64, 512};
    gge_engine_options options{};
    options.n_threads = random.from(1, 2);
    options.n_ubatch = budgets[random.from<size_t>(0, 2)];
    options.n_seq_max = random.from(0, 8);
    options.max_queued_tokens = random.chance(50) ? max_queued_tokens : 0;
    const ModelFile &file = files[random.from<size_t>(0, files.size() - 1)];
    return std::make_shared<Engine>(file, options, true, random.chance(25), random.chance(50));
}

void end_engine(Engine &engine, Random &random) {
    enum { closes, closes_twice, drains, drain_is_cut_short, is_left };
    const int how = random.from<int>(closes, is_left);
    if (how == is_left) {
        return;
    }
    engine.fate->closes = true;
    std::thread other;
    if (how == closes_twice || how == drain_is_cut_short) {
        other = std::thread([&engine, how] {
            how == closes_twice ? gge_engine_close(engine.handle) : gge_engine_drain(engine.handle);
        });
    }
    if (how == drain_is_cut_short) {
        random.sleep(3);
    }
    how == drains ? gge_engine_drain(engine.handle) : gge_engine_close(engine.handle);
    if (other.joinable()) {
        other.join();
    }
}

void open_and_close_until_the_end(Slot &slot, Random random) {
    while (!over) {
        ++t_n_actions;
        random.sleep(random.chance(30) ? 5 : 400);
        const EngineRef engine = slot.get();
        end_engine(*engine, random);
        random.sleep(10);
        slot.set(random_engine(random));
    }
}

void poll_until_the_end(Random random) {
    const gge_log_fn count = [](void *, gge_log_level, const char *) { ++totals.n_log_lines; };
    while (!over) {
        ++t_n_actions;
        poll(*choose_engine(random));
        random.sleep(2);
        gge_set_log(random.chance(50) ? count : nullptr, nullptr, random.chance(50) ? GGE_LOG_DEBUG : GGE_LOG_ERROR);
    }
}

// Threads whose end is waited for, but not for ever.
class Crew {
public:
    template <class Work> void add(const std::string &name, Work work) {
        const size_t i = ended_.size();
        ended_.push_back(false);
        names_.push_back(name);
        threads_.emplace_back([this, i, name, work] {
            t_name = name;
            work();
            const std::lock_guard<std::mutex> lock(mutex_);
            ended_[i] = true;
            changed_.notify_all();
        });
    }
    void join() {
        std::unique_lock<std::mutex> lock(mutex_);
        const auto all = [&] { return std::all_of(ended_.begin(), ended_.end(), [](bool ended) { return ended; }); };
        if (!changed_.wait_for(lock, patience, all)) {
            for (size_t i = 0; i < ended_.size(); ++i) {
                std::printf("%s", ended_[i] ? "" : (names_[i] + " hangs\n").c_str());
            }
            fault("threads did not come back");
        }
        lock.unlock();
        for (std::thread &thread : threads_) {
            thread.join();
        }
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<bool> ended_;
    std::vector<std::string> names_;
    std::vector<std::thread> threads_;
};

void check_that_nothing_is_left(const Engine &engine) {
    gge_engine_stats stats{};
    gge_error err;
    stats.struct_size = sizeof(stats);
    require_ok(gge_engine_stats_get(engine.handle, &stats, &err), err, "gge_engine_stats_get");
    require(stats.n_calls_queued == 0 && stats.n_calls_running == 0 && stats.n_texts_queued == 0 &&
                stats.n_tokens_queued == 0,
            "the queue is not empty in the end");
}

void run(int seconds) {
    gge_engine_options options{};
    options.n_threads = 2;
    options.n_ubatch = 64;
    options.max_queued_tokens = max_queued_tokens;
    main_slot.set(std::make_shared<Engine>(files.front(), options, false, false, false));
    Random first(0);
    for (Slot &slot : slots) {
        slot.set(random_engine(first));
    }
    Crew crew;
    for (int i = 0; i < n_callers; ++i) {
        const auto number = static_cast<uint64_t>(i) + 1;
        crew.add("caller " + std::to_string(i), [number] { call_until_the_end(Random(number)); });
    }
    for (size_t i = 0; i < n_slots; ++i) {
        crew.add("owner " + std::to_string(i), [i] { open_and_close_until_the_end(slots[i], Random(100 + i)); });
    }
    crew.add("poller", [] { poll_until_the_end(Random(200)); });
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    over = true;
    abort_engine(*main_slot.get()->fate, main_slot.get()->handle); // not to wait for what is queued
    crew.join();
    gge_set_log(nullptr, nullptr, GGE_LOG_ERROR);
    check_that_nothing_is_left(*main_slot.get());
    main_slot.set(nullptr);
    for (Slot &slot : slots) {
        slot.set(nullptr);
    }
}

void load_files(const char *list) {
    std::istringstream in(list);
    for (std::string path; std::getline(in, path, ':');) {
        if (!path.empty()) {
            files.push_back({path, load(path), 0, {}});
        }
    }
    Random random(300);
    texts = {"", "\xff is no text", std::string(3000, 'x') + " is too long"};
    while (texts.size() < n_texts) {
        texts.push_back(random_text(random));
    }
    for (ModelFile &file : files) {
        compute_references(file);
    }
    sort_out_texts();
}

void print_totals(double seconds) {
    const auto number = [](const std::atomic<int64_t> &n) { return static_cast<long long>(n); };
    std::printf("%.0f s, seed %llu, %d threads\n", seconds, static_cast<unsigned long long>(seed), n_callers);
    print_calls("gge_encode", totals.encoded);
    print_calls("gge_submit", totals.submitted);
    std::printf("  %lld requests refused, %lld engines, %lld models, %lld engine aborts, %lld polls, %lld log lines\n",
                number(totals.n_refused), number(totals.n_engines), number(totals.n_models),
                number(totals.n_engine_aborts), number(totals.n_polls), number(totals.n_log_lines));
    std::printf("  %lld rows compared, least cosine %.9f; of %lld whole ones of unit length %lld have the same bits\n",
                number(totals.n_rows), totals.min_cosine, number(totals.n_plain_rows), number(totals.n_same_bits));
}

} // namespace

int main(int argc, char **argv) {
    const char *models = std::getenv("GGEMBED_TEST_MODEL");
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 0;
    if (argc < 2 || argc > 3 || seconds < 1) {
        std::printf("usage: stress_engines SECONDS [SEED]\n");
        return 2;
    }
    if (models == nullptr || *models == '\0') {
        std::printf("skipped: GGEMBED_TEST_MODEL names no model\n");
        return 77;
    }
    seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device()();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    std::fflush(stdout);
    load_files(models);
    require(good.size() > texts.size() / 2 && !bad.empty(), "the texts do not fit the models");
    const Clock::time_point start = Clock::now();
    run(seconds);
    print_totals(std::chrono::duration<double>(Clock::now() - start).count());
    for (ModelFile &file : files) {
        gge_model_free(file.model);
    }
    return 0;
}
