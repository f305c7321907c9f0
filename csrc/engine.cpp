// One worker thread owns the compute state and takes one job after the other. The job of a call is a list of
// micro-batches made by the planner; between two of them the worker looks at the abort flag and the caller, woken up,
// runs its callbacks on its own thread.
//
// Pooling is done here and not in llama.cpp (docs/adr/0002): its mean over an input that spans micro-batches is only
// the mean of the last piece, and token rows serve every pooling type alike.
#include "engine.h"

#include "threads.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

namespace gge {
namespace {

// The curve is flat from 64 to 8192 tokens on the CPU (benchmarks/results/2026-11-21-amd-epyc-2cpu-tune.md); on other
// devices none has been measured. `ggembed bench --tune` measures it.
constexpr int64_t default_n_ubatch = 512;
// Rows that a media encoder makes together.
constexpr int64_t default_n_tower_batch = 2048;
// Upstream has 256 sequence ids, of which a backend may need one.
constexpr int64_t max_n_seq = 255;
// Faults in upstream that a call may meet and go on.
constexpr int max_n_faults = 8;
// Each sequence of a recurrent model needs its own state.
constexpr int64_t default_n_seq_with_state = 16;
// Tokens that the compute state grows by.
constexpr int64_t growth_step = 256;

int64_t round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

int64_t longest_input(const ModelFacts &facts, const EngineOptions &options) {
    if (options.n_ctx > facts.n_ctx_train) {
        throw Error(GGE_E_INVALID, "n_ctx is " + std::to_string(options.n_ctx) + ", the model's context holds " +
                                       std::to_string(facts.n_ctx_train));
    }
    return options.n_ctx > 0 ? options.n_ctx : facts.n_ctx_train;
}

SessionOptions first_session(const ModelFacts &facts, const EngineOptions &options) {
    if (!facts.has_cache && options.attention == AttentionChoice::causal) {
        throw Error(GGE_E_UNSUPPORTED, "models of architecture " + facts.architecture + " are bidirectional only");
    }
    SessionOptions s;
    s.n_ubatch = options.n_ubatch > 0 ? options.n_ubatch : default_n_ubatch;
    s.n_seq_max = options.n_seq_max > 0 ? options.n_seq_max : facts.has_state ? default_n_seq_with_state : max_n_seq;
    s.n_seq_max = std::min({s.n_seq_max, max_n_seq, s.n_ubatch});
    s.n_ctx = s.n_ubatch;
    s.n_positions = facts.cacheless ? longest_input(facts, options) : 0;
    s.n_threads = options.n_threads > 0 ? options.n_threads : default_n_threads();
    s.attention = options.attention;
    s.flash_attention = options.flash_attention;
    s.rank = facts.pooling == GGE_POOLING_RANK && facts.n_cls_out > 0;
    return s;
}

// The first session with room for an input of that many tokens: in the cache if it is split, else in a micro-batch.
SessionOptions grown(SessionOptions first, int64_t longest, int64_t n_ctx, bool splits) {
    if (longest > first.n_ctx) {
        first.n_ctx = round_up(longest, growth_step);
        if (!splits) {
            first.n_ctx = std::min(first.n_ctx, round_up(n_ctx, 8));
            first.n_ubatch = first.n_ctx;
        }
    }
    return first;
}

int64_t tower_batch(const EngineOptions &options) {
    return options.n_tower_batch > 0 ? options.n_tower_batch : default_n_tower_batch;
}

bool is_causal(const ModelFacts &facts, AttentionChoice attention) {
    return attention == AttentionChoice::from_file ? facts.attention == Attention::causal
                                                   : attention == AttentionChoice::causal;
}

// Without flash attention, attention takes memory that is quadratic in a micro-batch, on the CPU too.
bool may_split(const ModelFacts &facts, const EngineOptions &options) {
    const bool runs_whole = facts.cacheless && options.flash_attention != FlashAttention::off;
    return facts.has_cache && !runs_whole && is_causal(facts, options.attention);
}

std::string too_long(const Tokens &tokens, int64_t i, int64_t n_ctx) {
    return tokens.name(i) + " has " + std::to_string(tokens.n_tokens(i)) + " tokens, the context holds " +
           std::to_string(n_ctx);
}

void check_adapter_choice(const ModelFacts &f, const Tokens &tokens, int32_t adapter) {
    if (adapter > f.n_adapters) {
        throw Error(GGE_E_INVALID, "adapter is " + std::to_string(adapter) + ", the model was loaded with " +
                                       std::to_string(f.n_adapters) + " adapters");
    }
    if (!tokens.media.empty() && f.token_adapters.count(adapter) > 0) {
        throw Error(GGE_E_UNSUPPORTED,
                    "adapter " + std::to_string(adapter) + " changes token_embd.weight, so it does not go with media");
    }
}

// What a call wants its rows to be, checked against the model and the caller's buffer.
// Scores are what the head says: nothing is made of them but another type.
RowFormat rank_format(const ModelFacts &f, const EncodeOptions &options) {
    if (f.n_cls_out == 0) {
        throw Error(GGE_E_UNSUPPORTED, f.cannot_rank);
    }
    if (options.truncate_dim > 0 || options.projection != nullptr) {
        throw Error(GGE_E_INVALID, std::string(options.truncate_dim > 0 ? "truncate_dim" : "projection") +
                                       " does not apply to the scores of pooling rank");
    }
    RowFormat format;
    format.n_embd = static_cast<size_t>(f.n_cls_out);
    format.n_out = format.n_embd;
    format.normalize = options.normalize == GGE_ON;
    format.type = options.output_type;
    format.ranges = options.ranges;
    return format;
}

RowFormat read_format(const ModelFacts &f, const EncodeOptions &options) {
    RowFormat format;
    format.n_embd = static_cast<size_t>(f.n_embd);
    format.projection = options.projection;
    format.projection_bias = options.projection_bias;
    format.n_projection = static_cast<size_t>(options.n_projection);
    const int32_t width = options.projection == nullptr ? f.n_embd : options.n_projection;
    if (options.truncate_dim > width) {
        throw Error(GGE_E_INVALID, "truncate_dim is " + std::to_string(options.truncate_dim) + ", rows have " +
                                       std::to_string(width) + " values");
    }
    format.n_out = static_cast<size_t>(options.truncate_dim > 0 ? options.truncate_dim : width);
    format.normalize = options.normalize != GGE_OFF;
    format.type = options.output_type;
    format.ranges = options.ranges;
    return format;
}

// What ended a job.
std::pair<gge_status, std::string> describe(const std::exception_ptr &error) {
    try {
        std::rethrow_exception(error);
    } catch (const Error &e) {
        return {e.status(), e.what()};
    } catch (const std::bad_alloc &) {
        return {GGE_E_MEMORY, "out of memory"};
    } catch (const std::exception &e) {
        return {GGE_E_INTERNAL, e.what()};
    }
}

} // namespace

SessionOptions largest_session(const ModelFacts &facts, const EngineOptions &options) {
    const int64_t n_ctx = longest_input(facts, options);
    const SessionOptions first = first_session(facts, options);
    return grown(first, n_ctx, n_ctx, may_split(facts, options) && !first.rank);
}

gge_memory estimate(const std::string &path, const LoadOptions &load, const EngineOptions &options) {
    const DeviceChoice choice = choose_devices(llama_devices(), load.device, load.split);
    return estimate_llama_model(path, choice.devices, load, tower_batch(options),
                                [&](const ModelFacts &facts) { return largest_session(facts, options); });
}

struct Engine::Job {
    Job(const Tokens &t, const EncodeOptions &o, const RowsOut &out_, gge_pooling pooling_, const RowFormat &format_)
        : tokens(t), options(o), out(out_), pooling(pooling_), format(format_), status(t.status),
          finished(t.status.size(), false), pooler(pooling_, format_.n_embd), writer(format_) {}

    const Tokens &tokens;
    const EncodeOptions &options;
    const RowsOut out;
    const gge_pooling pooling;
    const RowFormat format;
    std::vector<gge_status> status;
    std::vector<bool> finished; // the row is there, or the input has failed
    std::map<int64_t, std::string> messages;
    std::vector<int64_t> n_tokens; // per input, 0 for those that are not computed
    int64_t n_total = 0;

    // worker only
    Pooler pooler;
    RowWriter writer;
    std::vector<int64_t> not_finite;
    int n_faults = 0; // in upstream, with an input alone

    std::atomic<bool> abort{false};
    std::atomic<int64_t> n_done{0};

    std::condition_variable changed; // its caller waits for that

    // under mutex_
    bool done = false;
    bool closed = false;
    std::exception_ptr error;

    void *row(int64_t i) const {
        const auto stride = out.row_stride * static_cast<int64_t>(element_bytes(format.type));
        return static_cast<char *>(out.data) + i * stride;
    }

    int64_t n_tokens_of(int64_t i) const { return n_tokens[static_cast<size_t>(i)]; }

    // Tokens of the longest input that has no more than that, 0 if there is none.
    int64_t longest_up_to(int64_t limit) const {
        int64_t longest = 0;
        for (const int64_t n : n_tokens) {
            longest = n <= limit ? std::max(longest, n) : longest;
        }
        return longest;
    }

    // Notes that input i has no row, or fails the call if the caller does not collect.
    void fail(int64_t i, gge_status why, const std::string &message) {
        if (!options.report.collects()) {
            throw Error(why, message, i);
        }
        status[static_cast<size_t>(i)] = why;
        finished[static_cast<size_t>(i)] = true;
        n_tokens[static_cast<size_t>(i)] = 0;
        messages[i] = message;
        int64_t begin = i;
        int64_t end = i + 1;
        if (pooling == GGE_POOLING_NONE) {
            begin = tokens.offsets[static_cast<size_t>(i)];
            end = tokens.offsets[static_cast<size_t>(i) + 1];
        }
        for (int64_t r = begin; r < end; ++r) {
            writer.fill_failed(row(r));
        }
    }
};

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions &options)
    : model_(std::move(model)), may_split_(may_split(model_->facts(), options)),
      n_ctx_(longest_input(model_->facts(), options)), first_session_(first_session(model_->facts(), options)),
      attention_(is_causal(model_->facts(), options.attention) ? GGE_ATTENTION_CAUSAL : GGE_ATTENTION_BIDIRECTIONAL),
      session_options_(first_session_) {
    session_ = model_->backend().open(session_options_);
    media_ = std::make_unique<MediaRows>(*model_, first_session_.n_threads, tower_batch(options));
    worker_ = std::thread(&Engine::work, this);
}

Engine::~Engine() {
    close();
}

void Engine::close() noexcept {
    std::thread worker;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        for (const auto &job : queue_) {
            job->closed = true;
            job->done = true;
            job->changed.notify_one();
        }
        queue_.clear();
        if (running_) {
            running_->closed = true;
            running_->abort = true;
        }
        worker.swap(worker_); // only one of several closing threads gets to join
    }
    wake_.notify_all();
    if (worker.joinable()) {
        worker.join();
        media_.reset();
        session_.reset();
    }
}

void Engine::abort() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto &job : queue_) {
        job->abort = true;
        job->done = true;
        job->changed.notify_one();
    }
    queue_.clear();
    if (running_) {
        running_->abort = true;
    }
}

gge_engine_info Engine::info() const {
    gge_engine_info info{};
    info.n_ctx = static_cast<int32_t>(n_ctx_);
    info.n_ubatch = static_cast<int32_t>(first_session_.n_ubatch);
    info.n_seq_max = static_cast<int32_t>(first_session_.n_seq_max);
    info.n_threads = first_session_.n_threads;
    info.attention = attention_;
    return info;
}

void Engine::encode(const Tokens &tokens, const EncodeOptions &options, const RowsOut &out) {
    if (tokens.model != model_) {
        throw Error(GGE_E_INVALID, "the tokens come from another model than the engine's");
    }
    const gge_pooling pooling = options.pooling == GGE_POOLING_DEFAULT ? model_->pooling() : options.pooling;
    const ModelFacts &f = model_->facts();
    check_adapter_choice(f, tokens, options.adapter);
    const RowFormat format = pooling == GGE_POOLING_RANK ? rank_format(f, options) : read_format(f, options);
    check_out(out, pooling == GGE_POOLING_NONE ? static_cast<int64_t>(tokens.ids.size()) : tokens.n_texts(),
              format.type, format.n_out);

    const auto job = std::make_shared<Job>(tokens, options, out, pooling, format);
    job->n_tokens.resize(job->status.size());
    for (int64_t i = 0; i < tokens.n_texts(); ++i) {
        const int64_t n = tokens.n_tokens(i);
        if (tokens.status[static_cast<size_t>(i)] != GGE_OK) {
            job->fail(i, tokens.status[static_cast<size_t>(i)], tokens.messages.at(i));
        } else if (n == 0) {
            job->fail(i, GGE_E_EMPTY, tokens.name(i) + " has no tokens");
        } else if (n > n_ctx_) {
            job->fail(i, GGE_E_TOO_LONG, too_long(tokens, i, n_ctx_));
        } else {
            job->n_tokens[static_cast<size_t>(i)] = n;
            job->n_total += n;
        }
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (closing_) {
            job->closed = true;
            job->done = true;
        } else if (job->n_total > 0) {
            queue_.push_back(job);
            wake_.notify_one();
        } else {
            job->done = true;
        }
    }
    wait(*job);
    finish(*job);
}

// Waits for a job, running the caller's callbacks on the caller's thread.
void Engine::wait(Job &job) {
    const Callbacks &callbacks = job.options.callbacks;
    int64_t n_reported = -1;
    std::unique_lock<std::mutex> lock(mutex_);
    while (!job.done) {
        job.changed.wait_for(lock, abort_interval);
        const int64_t n_done = job.n_done;
        lock.unlock();
        if (callbacks.progress != nullptr && n_done != n_reported) {
            n_reported = n_done;
            callbacks.progress(callbacks.user_data, n_done, job.n_total);
        }
        if (callbacks.abort != nullptr && !job.abort && callbacks.abort(callbacks.user_data) != 0) {
            job.abort = true;
        }
        lock.lock();
        if (job.abort && !job.closed) { // not started yet: the queue is the only one that knows it
            const auto queued =
                std::find_if(queue_.begin(), queue_.end(), [&](const auto &q) { return q.get() == &job; });
            if (queued != queue_.end()) {
                queue_.erase(queued);
                job.done = true;
            }
        }
    }
    lock.unlock();
    if (!job.error && !job.closed && !job.abort && callbacks.progress != nullptr && job.n_total > 0 &&
        n_reported != job.n_total) {
        callbacks.progress(callbacks.user_data, job.n_total, job.n_total);
    }
}

// Tells the caller what came of a job.
void Engine::finish(Job &job) {
    gge_status ended = GGE_OK;
    std::string why;
    const bool complete = std::find(job.finished.begin(), job.finished.end(), false) == job.finished.end();
    if (job.error) {
        std::tie(ended, why) = describe(job.error);
    } else if (job.closed && !complete) {
        ended = GGE_E_CLOSED;
        why = "the engine is closed";
    } else if (job.abort && !complete) {
        ended = GGE_E_ABORTED;
        why = "the call was aborted";
    }
    const InputReport &report = job.options.report;
    if (report.collects()) {
        for (int64_t i = 0; ended != GGE_OK && i < job.tokens.n_texts(); ++i) {
            if (!job.finished[static_cast<size_t>(i)]) {
                job.fail(i, ended, why);
            }
        }
        if (report.status != nullptr) {
            std::copy(job.status.begin(), job.status.end(), report.status);
        }
        for (const auto &[i, message] : job.messages) {
            if (report.on_error != nullptr) {
                report.on_error(job.options.callbacks.user_data, i, job.status[static_cast<size_t>(i)],
                                message.c_str());
            }
        }
    }
    if (job.error) {
        std::rethrow_exception(job.error);
    }
    if (ended != GGE_OK) {
        throw Error(ended, why);
    }
}

void Engine::work() noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        wake_.wait(lock, [&] { return closing_ || !queue_.empty(); });
        if (closing_) {
            return;
        }
        const std::shared_ptr<Job> job = std::move(queue_.front());
        queue_.pop_front();
        running_ = job;
        lock.unlock();
        std::exception_ptr error;
        try {
            run(*job);
        } catch (...) {
            if (!job->abort) { // otherwise it is known why it ended
                error = std::current_exception();
            }
        }
        media_->clear();
        lock.lock();
        running_.reset();
        job->error = error;
        job->done = true;
        job->changed.notify_one();
    }
}

void Engine::run(Job &job) {
    const std::string lack = find_room(job);
    for (int64_t i = 0; !lack.empty() && i < job.tokens.n_texts(); ++i) {
        if (job.n_tokens_of(i) > session_options_.n_ctx) {
            job.fail(i, GGE_E_MEMORY,
                     job.tokens.name(i) + " has " + std::to_string(job.n_tokens_of(i)) +
                         " tokens, there is memory for " + std::to_string(session_options_.n_ctx) + ": " + lack);
        }
    }
    run_plan(job, plan(job.n_tokens, limits()));
}

// Makes room for the longest input of a job, or for the longest that there is memory for: returns why not for more.
std::string Engine::find_room(const Job &job) {
    const bool rank = job.pooling == GGE_POOLING_RANK;
    std::string lack;
    int64_t longest = job.longest_up_to(n_ctx_);
    const bool is_long = longest > std::max(first_session_.n_ctx, session_options_.n_ctx / 2);
    n_tokens_since_long_ = is_long ? 0 : n_tokens_since_long_ + job.n_total;
    while (true) {
        try {
            fit_session(longest, rank);
            return lack;
        } catch (const Error &e) {
            if (e.status() != GGE_E_MEMORY || longest <= first_session_.n_ctx) {
                throw;
            }
            lack = e.what();
        }
        longest = job.longest_up_to((longest - 1) / growth_step * growth_step); // that a smaller session has room for
    }
}

void Engine::run_plan(Job &job, const Plan &plan) {
    media_->start(job.tokens);
    for (size_t b = 0; b < plan.size() && !job.abort; ++b) {
        const Microbatch batch = plan[b];
        const bool dropped = batch.continues() && job.n_tokens_of(batch[0].i_input) == 0;
        if (!dropped) {
            try {
                media_->prepare(plan, b, job.abort);
                compute(job, batch);
            } catch (const Error &e) {
                if (job.abort) {
                    throw;
                }
                retry_alone(job, batch, e);
            }
        }
        job.n_done += batch.n_tokens();
        if (job.options.callbacks.progress != nullptr) {
            job.changed.notify_one();
        }
        if (b + 1 == plan.size() || !plan[b + 1].continues()) {
            retry_not_finite(job);
        }
        media_->release(b);
    }
}

// Of a micro-batch that could not be computed, only the input at fault fails: each one runs again alone. A device that
// failed, or memory for a single input, is not asked twice. A fault in upstream costs the compute state it happened in,
// which is never freed (backend_llama.cpp), so that a few of them end the job.
void Engine::retry_alone(Job &job, const Microbatch &batch, const Error &error) {
    for (const Piece &piece : batch) {
        if (batch.size() == 1 || error.status() == GGE_E_DEVICE) {
            job.fail(piece.i_input, error.status(), error.what());
            continue;
        }
        try {
            run_alone(job, piece.i_input);
        } catch (const Error &e) {
            if (job.abort || (e.status() == GGE_E_INTERNAL && ++job.n_faults > max_n_faults)) {
                throw;
            }
            job.fail(piece.i_input, e.status(), e.what());
        }
    }
}

// A micro-batch must give at least one row, so that a piece without pooled tokens gives one that is not pooled.
Engine::ReadRows Engine::rows_to_read(const Job &job, const Piece &piece) {
    const int64_t n = piece.end - piece.begin;
    if (job.pooling == GGE_POOLING_LAST) {
        return {piece.end - 1, 1, true};
    }
    if (job.pooling == GGE_POOLING_CLS) {
        return {piece.begin, 1, true};
    }
    const auto pooled = job.tokens.pooled.find(piece.i_input);
    if (job.pooling != GGE_POOLING_MEAN || pooled == job.tokens.pooled.end()) {
        return {piece.begin, n, true};
    }
    const int64_t begin = std::max(piece.begin, pooled->second.begin);
    const int64_t end = std::min(piece.end, pooled->second.end);
    return begin < end ? ReadRows{begin, end - begin, true} : ReadRows{piece.end - 1, 1, false};
}

void Engine::fill_tokens(const Job &job, const Microbatch &batch) {
    const auto n_tokens = static_cast<size_t>(batch.n_tokens());
    tokens_.ids.resize(n_tokens);
    tokens_.positions.resize(n_tokens);
    tokens_.sequences.resize(n_tokens);
    tokens_.wanted.assign(n_tokens, 0);
    std::ptrdiff_t at = 0;
    for (size_t k = 0; k < batch.size(); ++k) {
        const Piece &piece = batch[k];
        const int64_t n = piece.end - piece.begin;
        const int64_t first = job.tokens.offsets[static_cast<size_t>(piece.i_input)] + piece.begin;
        std::copy_n(job.tokens.ids.begin() + first, n, tokens_.ids.begin() + at);
        if (job.tokens.positions.empty()) {
            std::iota(tokens_.positions.begin() + at, tokens_.positions.begin() + at + n,
                      static_cast<int32_t>(piece.begin));
        } else {
            std::transform(job.tokens.positions.begin() + first, job.tokens.positions.begin() + first + n,
                           tokens_.positions.begin() + at, [](const GridPosition &position) { return position.t; });
        }
        std::fill_n(tokens_.sequences.begin() + at, n, static_cast<int32_t>(k));
        const ReadRows read = rows_to_read(job, piece);
        std::fill_n(tokens_.wanted.begin() + at + (read.begin - piece.begin), read.n, uint8_t{1});
        at += n;
    }
    media_->fill(batch, tokens_);
}

// Runs one micro-batch, whose media are prepared, and writes the rows of the inputs that end in it.
void Engine::compute(Job &job, const Microbatch &batch) {
    fill_tokens(job, batch);
    if (session_ == nullptr) { // dropped after a failure
        session_ = model_->backend().open(session_options_);
    }
    const float *rows = nullptr;
    try {
        if (!batch.continues()) {
            session_->reset(false);
        }
        // A micro-batch holds inputs of one job, and a job has one adapter: inputs of different adapters never meet.
        session_->use_adapter(job.options.adapter, job.options.adapter_scale);
        rows = session_->compute(tokens_, job.abort);
    } catch (const std::bad_alloc &) {
        session_.reset(); // its state is unknown
        throw Error(GGE_E_MEMORY, "out of memory");
    } catch (...) {
        session_.reset();
        throw;
    }
    for (const Piece &piece : batch) {
        const size_t n = job.pooling == GGE_POOLING_RANK ? 1 : static_cast<size_t>(rows_to_read(job, piece).n);
        write_rows(job, piece, rows, n);
        rows += n * job.format.n_embd;
    }
}

// rows: the n rows that the backend computed for a piece
void Engine::write_rows(Job &job, const Piece &piece, const float *rows, size_t n) {
    const int64_t i = piece.i_input;
    const bool ends = piece.end == job.n_tokens_of(i);
    bool finite = true;
    if (job.pooling == GGE_POOLING_NONE) {
        const int64_t first = job.tokens.offsets[static_cast<size_t>(i)] + piece.begin;
        for (size_t t = 0; t < n; ++t) {
            finite = job.writer.write(rows + t * job.format.n_embd, job.row(first + static_cast<int64_t>(t))) && finite;
        }
    } else {
        if (piece.begin == 0) {
            job.pooler.start();
        }
        job.pooler.add(rows, rows_to_read(job, piece).pooled ? n : 0);
        if (ends) {
            finite = job.writer.write(job.pooler.finish(), job.row(i));
        }
    }
    if (!finite && (job.not_finite.empty() || job.not_finite.back() != i)) {
        job.not_finite.push_back(i);
    }
    job.finished[static_cast<size_t>(i)] = ends && (job.not_finite.empty() || job.not_finite.back() != i);
}

// A value that is not finite may come from the input itself or from what an earlier one left in the cache: a masked
// cell that holds NaN still poisons the sum, since 0 * NaN is NaN. So each such input runs again alone, on a wiped
// cache.
void Engine::retry_not_finite(Job &job) {
    const std::vector<int64_t> suspects = std::move(job.not_finite);
    job.not_finite.clear();
    for (const int64_t i : suspects) {
        wipe();
        try {
            run_alone(job, i);
        } catch (const Error &e) {
            if (job.abort) {
                throw;
            }
            job.fail(i, e.status(), e.what());
        }
        if (!job.not_finite.empty()) {
            job.not_finite.clear();
            wipe();
            job.fail(i, GGE_E_NOT_FINITE, "the row of " + job.tokens.name(i) + " is not finite");
        }
    }
}

void Engine::run_alone(Job &job, int64_t i) {
    const Plan plan = plan_alone(i, job.n_tokens_of(i), limits());
    for (size_t b = 0; b < plan.size(); ++b) {
        media_->prepare_alone(plan[b], job.abort);
        compute(job, plan[b]);
        media_->release_alone();
    }
}

void Engine::wipe() {
    if (session_ != nullptr) {
        session_->reset(true);
    }
}

// There is one session: a reranker that also computes rows opens it anew for each change, which takes less memory than
// two. One that was grown is kept until calls without long inputs have had so many tokens that opening another costs
// little beside them.
void Engine::fit_session(int64_t longest, bool rank) {
    const int64_t room = session_options_.n_ctx;
    const bool fits = session_ != nullptr && rank == session_options_.rank && longest <= room;
    const bool is_spare = room > first_session_.n_ctx && n_tokens_since_long_ >= room;
    if (fits && !is_spare) {
        return;
    }
    SessionOptions wanted = first_session_;
    wanted.rank = rank;
    wanted = grown(wanted, longest, n_ctx_, splits(rank));
    session_.reset(); // before the new one is made, so that both need not fit at once
    session_ = model_->backend().open(wanted);
    session_options_ = wanted;
}

PlanLimits Engine::limits() const {
    return {first_session_.n_ubatch, session_options_.n_ubatch, first_session_.n_seq_max,
            splits(session_options_.rank)};
}

// Scores come out of the last micro-batch of a sequence alone, so that an input to be ranked is never split.
bool Engine::splits(bool rank) const {
    return may_split_ && !rank;
}

} // namespace gge
