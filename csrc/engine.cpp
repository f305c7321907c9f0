// One worker thread owns the compute state. A turn of it is a micro-batch that the scheduler makes of the inputs of all
// jobs, or an input that is longer than that; between two turns jobs come, end and overtake each other.
//
// Pooling is done here and not in llama.cpp (docs/adr/0002): its mean over an input that spans micro-batches is only
// the mean of the last piece, and token rows serve every pooling type alike.
#include "engine.h"

#include "log.h"
#include "threads.h"

#include <algorithm>
#include <numeric>

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
// Of micro-batches that lack of memory makes smaller.
constexpr int64_t least_n_ubatch = 64;
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

SessionOptions first_session(const ModelFacts &facts, const EngineOptions &options, bool cuda_graphs) {
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
    s.cuda_graphs = cuda_graphs;
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

// Opens the first session of an engine; where memory lacks for its micro-batches, for ones of half the tokens.
std::unique_ptr<BackendSession> open_first(const BackendModel &model, SessionOptions &options) {
    const int64_t n_asked = options.n_ubatch;
    while (true) {
        try {
            return model.open(options);
        } catch (const Error &e) {
            const std::string lack = "no memory for micro-batches of " + std::to_string(options.n_ubatch) + " tokens";
            if (e.status() != GGE_E_MEMORY) {
                throw;
            }
            if (options.n_ubatch / 2 < least_n_ubatch) {
                const std::string asked =
                    options.n_ubatch < n_asked ? ", the least after " + std::to_string(n_asked) : "";
                throw Error(GGE_E_MEMORY, lack + asked + ": " + e.what());
            }
            log_line(GGE_LOG_WARN, (lack + ", trying half: " + e.what()).c_str());
        }
        options.n_ubatch /= 2;
        options.n_ctx = options.n_ubatch;
        options.n_seq_max = std::min(options.n_seq_max, options.n_ubatch);
    }
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

} // namespace

SessionOptions largest_session(const ModelFacts &facts, const EngineOptions &options) {
    const int64_t n_ctx = longest_input(facts, options);
    const SessionOptions first = first_session(facts, options, false);
    return grown(first, n_ctx, n_ctx, may_split(facts, options) && !first.rank);
}

gge_memory estimate(const std::string &path, const LoadOptions &load, const EngineOptions &options) {
    const DeviceChoice choice = choose_devices(llama_devices(), load.device, load.split);
    return estimate_llama_model(path, choice.devices, load, tower_batch(options),
                                [&](const ModelFacts &facts) { return largest_session(facts, options); });
}

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions &options)
    : model_(std::move(model)), may_split_(may_split(model_->facts(), options)),
      n_ctx_(longest_input(model_->facts(), options)),
      graphs_(choose_cuda_graphs(options.cuda_graphs, model_->devices(), environment_disables_graphs())),
      first_session_(first_session(model_->facts(), options, graphs_.on)),
      attention_(is_causal(model_->facts(), options.attention) ? GGE_ATTENTION_CAUSAL : GGE_ATTENTION_BIDIRECTIONAL),
      n_tower_batch_(tower_batch(options)), session_(open_first(model_->backend(), first_session_)),
      session_options_(first_session_),
      scheduler_({first_session_.n_ubatch, first_session_.n_seq_max, options.max_queued_tokens}) {
    towers_ = std::make_unique<Towers>(*model_, first_session_.n_threads, graphs_.on);
    const auto n_seq_max = static_cast<size_t>(first_session_.n_seq_max);
    turn_.reserve(n_seq_max);
    turn_jobs_.reserve(n_seq_max);
    batch_.reserve(n_seq_max);
    computed_.reserve(n_seq_max);
    worker_ = std::thread(&Engine::work, this);
    worker_id_ = worker_.get_id();
}

Engine::~Engine() {
    close();
}

gge_engine_info Engine::info() const {
    gge_engine_info info{};
    info.n_ctx = static_cast<int32_t>(n_ctx_);
    info.n_ubatch = static_cast<int32_t>(first_session_.n_ubatch);
    info.n_seq_max = static_cast<int32_t>(first_session_.n_seq_max);
    info.n_threads = first_session_.n_threads;
    info.attention = attention_;
    const auto is_cuda = [](const Device &device) { return device.kind == GGE_DEVICE_CUDA; };
    const bool on_cuda = std::any_of(model_->devices().begin(), model_->devices().end(), is_cuda);
    info.cuda_graphs = !on_cuda ? GGE_SWITCH_DEFAULT : graphs_.on ? GGE_ON : GGE_OFF;
    copy_string(info.cuda_graphs_reason, graphs_.reason);
    return info;
}

gge_engine_stats Engine::stats() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    gge_engine_stats stats = stats_;
    const double seconds = std::chrono::duration<double>(Clock::now() - since_).count();
    (computes_ ? stats.seconds_computing : stats.seconds_waiting) += seconds;
    stats.n_texts_queued = scheduler_.n_queued_inputs();
    stats.n_tokens_queued = scheduler_.n_queued_tokens();
    stats.n_calls_running =
        std::count_if(jobs_.begin(), jobs_.end(), [](const std::shared_ptr<Job> &job) { return job && job->started; });
    stats.n_calls_queued = n_jobs_ - stats.n_calls_running;
    return stats;
}

// ---------------------------------------------------------------- callers

void Engine::encode(const Tokens &tokens, const EncodeOptions &options, const RowsOut &out) {
    if (on_worker()) {
        throw Error(GGE_E_BUSY, "the engine's own thread cannot wait for it");
    }
    const std::shared_ptr<const Tokens> borrowed(std::shared_ptr<const Tokens>(), &tokens);
    const auto job = std::make_shared<Job>(*model_, borrowed, options, out, n_ctx_);
    enqueue(job, false); // callers that wait are a bound by themselves
    wait(*job);
    job->report();
}

std::shared_ptr<Job> Engine::prepare(std::shared_ptr<const Tokens> tokens, const EncodeOptions &options,
                                     const RowsOut &out, gge_done_fn on_done, void *user_data) const {
    if (options.callbacks.progress != nullptr || options.callbacks.abort != nullptr) {
        throw Error(GGE_E_INVALID, "progress and abort are for calls that wait");
    }
    auto job = std::make_shared<Job>(*model_, std::move(tokens), options, out, n_ctx_);
    job->on_done = on_done;
    job->user_data = user_data;
    job->told = on_done == nullptr;
    return job;
}

void Engine::submit(const std::shared_ptr<Job> &job) {
    enqueue(job, true);
}

void Engine::enqueue(const std::shared_ptr<Job> &job, bool bounded) {
    Shelf inputs(job->n_tokens);
    const JobKind kind{job->options.adapter, job->options.adapter_scale, job->rank(), job->has_media()};
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closing_ || draining_) {
        if (bounded) {
            throw Error(GGE_E_CLOSED, "the engine is closed");
        }
        job->closed = true;
        job->done = true;
        return;
    }
    if (bounded && !scheduler_.has_room(job->n_total)) {
        throw Error(GGE_E_BUSY, "the queue has no room for " + std::to_string(job->n_total) + " tokens more");
    }
    if (static_cast<size_t>(n_jobs_) == jobs_.size()) {
        jobs_.emplace_back();
    }
    job->number = scheduler_.add(std::move(inputs), kind, bounded);
    jobs_[job->number] = job;
    ++n_jobs_;
    if (job->n_left == 0) {
        end(*job);
    }
    wake_.notify_one();
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
            abort(job);
        }
        lock.lock();
    }
    lock.unlock();
    if (!job.error && !job.closed && !job.abort && callbacks.progress != nullptr && job.n_total > 0 &&
        n_reported != job.n_total) {
        callbacks.progress(callbacks.user_data, job.n_total, job.n_total);
    }
}

void Engine::await(Job &job) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (on_worker() && !job.done) {
        throw Error(GGE_E_BUSY, "the request is not done, and the engine's own thread cannot wait for it");
    }
    job.changed.wait(lock, [&] { return job.done && (job.told || on_worker()); });
}

void Engine::abort(Job &job) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop(job);
}

void Engine::abort() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_all();
}

void Engine::close() noexcept {
    std::thread worker;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        stop_all();
        if (!on_worker()) {
            worker.swap(worker_); // only one of several closing threads gets to join
        }
    }
    wake_.notify_all();
    idle_.notify_all();
    if (worker.joinable()) {
        worker.join();
        towers_.reset();
        session_.reset();
    }
}

void Engine::drain() noexcept {
    {
        std::unique_lock<std::mutex> lock(mutex_);
        draining_ = true;
        idle_.wait(lock, [&] { return n_jobs_ == 0 || closing_ || on_worker(); });
    }
    close();
}

// ---------------------------------------------------------------- with the mutex held

// Takes a job out of the queue; if the worker is computing it, it ends with the turn.
void Engine::stop(Job &job) noexcept {
    if (job.done) {
        return;
    }
    job.closed = closing_;
    job.abort = true;
    if (job.computed) {
        scheduler_.drop_longer(job.number, 0);
        stop_ = std::all_of(computed_.begin(), computed_.end(), [](const Job *other) { return other->abort.load(); });
    } else {
        end(job);
    }
}

void Engine::stop_all() noexcept {
    for (const std::shared_ptr<Job> &job : jobs_) {
        if (job) {
            stop(*job);
        }
    }
}

void Engine::end(Job &job) noexcept {
    const std::shared_ptr<Job> owner = std::move(jobs_[job.number]);
    jobs_[job.number].reset();
    scheduler_.remove(job.number);
    --n_jobs_;
    job.media.reset();
    job.done = true;
    stats_.n_calls += 1;
    stats_.n_calls_aborted += job.abort && !job.closed && job.n_left > 0 ? 1 : 0;
    stats_.n_texts_failed += job.n_failed;
    if (job.on_done != nullptr) {
        (ended_ == nullptr ? ended_ : last_ended_->next_ended) = owner;
        last_ended_ = &job;
        wake_.notify_one();
    }
    job.changed.notify_all();
    if (n_jobs_ == 0) {
        idle_.notify_all();
    }
}

// Notes what the worker does from now on.
void Engine::clock(bool computes) noexcept {
    const Clock::time_point now = Clock::now();
    (computes_ ? stats_.seconds_computing : stats_.seconds_waiting) +=
        std::chrono::duration<double>(now - since_).count();
    since_ = now;
    computes_ = computes;
}

// ---------------------------------------------------------------- the worker

void Engine::work() noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        wake_.wait(lock, [&] { return closing_ || ended_ != nullptr || !scheduler_.empty(); });
        tell_ended(lock);
        if (closing_) {
            return;
        }
        if (begin_turn()) {
            lock.unlock();
            run_turn();
            lock.lock();
            end_turn();
        }
    }
}

void Engine::tell_ended(std::unique_lock<std::mutex> &lock) noexcept {
    while (ended_ != nullptr) {
        const std::shared_ptr<Job> job = std::move(ended_);
        ended_ = std::move(job->next_ended);
        lock.unlock();
        job->on_done(job->user_data);
        lock.lock();
        job->told = true;
        job->changed.notify_all();
    }
}

// Has the scheduler choose what runs. Returns whether there is something.
bool Engine::begin_turn() noexcept {
    turn_.clear();
    turn_jobs_.clear();
    for (const Scheduler::Input &input : scheduler_.next()) {
        Job *const job = jobs_[input.job].get();
        turn_.push_back({job, {input.i_input, 0, input.n_tokens}});
        if (turn_jobs_.empty() || turn_jobs_.back() != job) {
            turn_jobs_.push_back(job);
            job->started = true;
            job->computed = true;
        }
    }
    computed_ = turn_jobs_;
    stop_ = false;
    counts_ = {};
    clock(!turn_.empty());
    return !turn_.empty();
}

void Engine::run_turn() noexcept {
    try {
        Job &job = *turn_.front().job;
        job.has_media() ? run_media(job) : run_inputs();
    } catch (...) { // no input's own
        for (Job *const job : turn_jobs_) {
            if (!job->over()) { // otherwise it is known why it ended
                job->error = std::current_exception();
            }
        }
    }
}

void Engine::end_turn() noexcept {
    stats_.n_texts += counts_.n_texts;
    stats_.n_tokens += counts_.n_tokens;
    stats_.n_microbatches += counts_.n_microbatches;
    stats_.n_tokens_offered += counts_.n_tokens_offered;
    stats_.n_graphs_reused = n_graphs_before_ + n_graphs_;
    clock(false);
    computed_.clear();
    for (Job *const job : turn_jobs_) {
        job->computed = false;
        if (job->has_media() && !job->abort) {
            scheduler_.set_left(job->number, job->n_left, job->n_total - job->n_done);
        }
        if (job->over()) {
            end(*job);
        }
    }
}

// A micro-batch that holds inputs of one job or several, or an input that is longer than that.
void Engine::run_inputs() {
    const auto [first, piece] = turn_.front();
    const int64_t n_tokens = std::accumulate(turn_.begin(), turn_.end(), int64_t{0},
                                             [](int64_t n, const Share &share) { return n + share.piece.end; });
    if (!make_room(*first, piece.end, n_tokens)) {
        return;
    }
    const bool is_long = piece.end > first_session_.n_ubatch;
    try {
        if (is_long) {
            run_input(*first, piece.i_input, true);
        } else {
            compute(turn_);
        }
    } catch (const Error &e) {
        retry_alone(e);
    }
    for (Job *const job : turn_jobs_) {
        retry_not_finite(*job);
    }
    for (size_t k = 0; k < turn_.size() && !is_long; ++k) {
        turn_[k].job->n_done += turn_[k].piece.end;
    }
    for (Job *const job : turn_jobs_) {
        tell_progress(*job);
    }
}

// The next micro-batch of a job with media, or those of its next input that is split.
void Engine::run_media(Job &job) {
    if (job.media == nullptr) {
        make_room(job, job.longest, 0);
        job.media = std::make_unique<MediaPlan>(
            MediaPlan{plan(job.n_tokens, limits(job.rank())), MediaRows(*towers_, *job.tokens, n_tower_batch_)});
    }
    MediaPlan &media = *job.media;
    bool ends = false;
    while (!job.over() && !ends) {
        run_media_batch(job, media.next++);
        ends = media.next == media.plan.size() || !media.plan[media.next].continues();
    }
}

void Engine::run_media_batch(Job &job, size_t at) {
    MediaPlan &media = *job.media;
    const Microbatch batch = media.plan[at];
    turn_.clear();
    for (const Piece &piece : batch) {
        turn_.push_back({&job, piece});
    }
    const int64_t n = job.n_tokens_of(batch[0].i_input); // 0: the input has failed
    if (n > 0 && make_room(job, n, batch.n_tokens())) {
        try {
            media.rows.prepare(media.plan, at, stop_);
            compute(turn_);
        } catch (const Error &e) {
            retry_alone(e);
        }
    }
    job.n_done += batch.n_tokens();
    tell_progress(job);
    if (at + 1 == media.plan.size() || !media.plan[at + 1].continues()) {
        retry_not_finite(job);
    }
    media.rows.release(at);
}

// Of a micro-batch that could not be computed, only the input at fault fails: each one runs again alone. A device that
// failed, or memory for a single input, is not asked twice, unless inputs of other jobs were with it.
void Engine::retry_alone(const Error &error) {
    for (const Share &share : turn_) {
        Job &job = *share.job;
        if (job.over()) {
            continue;
        }
        if (turn_.size() == 1 || (error.status() == GGE_E_DEVICE && turn_jobs_.size() == 1)) {
            fail(job, share.piece.i_input, error);
            continue;
        }
        stop_with(job);
        try {
            run_input(job, share.piece.i_input, false);
        } catch (const Error &e) {
            fail(job, share.piece.i_input, e);
        }
    }
}

// A value that is not finite may come from the input itself or from what an earlier one left in the cache: a masked
// cell that holds NaN still poisons the sum, since 0 * NaN is NaN. So each such input runs again alone, on a wiped
// cache.
void Engine::retry_not_finite(Job &job) {
    if (job.not_finite.empty()) {
        return;
    }
    stop_with(job);
    const std::vector<int64_t> suspects = std::move(job.not_finite);
    job.not_finite.clear();
    for (const int64_t i : suspects) {
        if (job.over()) {
            return;
        }
        wipe();
        try {
            run_input(job, i, false);
        } catch (const Error &e) {
            fail(job, i, e);
        }
        if (!job.not_finite.empty()) {
            job.not_finite.clear();
            wipe();
            job.fail(i, GGE_E_NOT_FINITE, "the row of " + job.tokens->name(i) + " is not finite");
        }
    }
}

// Computes an input by itself, in as many pieces as it needs, which nobody else's come between.
void Engine::run_input(Job &job, int64_t i, bool tells) {
    const int64_t n = job.n_tokens_of(i);
    const PlanLimits limit = limits(job.rank());
    const int64_t most = limit.may_split ? limit.n_ubatch : n;
    for (int64_t begin = 0; begin < n; begin += most) {
        const Piece piece{i, begin, std::min(n, begin + most)};
        if (stop_) {
            throw Error(GGE_E_ABORTED, "aborted");
        }
        batch_.assign(1, {&job, piece});
        if (job.media) {
            job.media->rows.prepare_alone({&piece, &piece + 1}, stop_);
        }
        compute(batch_);
        if (job.media) {
            job.media->rows.release_alone();
        }
        if (tells) {
            job.n_done += piece.end - piece.begin;
            tell_progress(job);
            std::unique_lock<std::mutex> lock(mutex_);
            tell_ended(lock);
        }
    }
}

// What became of an input alone. A fault in upstream costs the compute state it happened in, which is never freed
// (backend_llama.cpp), so that a few of them end the job.
void Engine::fail(Job &job, int64_t i, const Error &error) {
    if (job.over()) {
        return;
    }
    if (error.status() == GGE_E_INTERNAL && ++job.n_faults > max_n_faults) {
        job.error = std::make_exception_ptr(error);
    } else {
        job.fail(i, error.status(), error.what());
    }
}

void Engine::tell_progress(Job &job) {
    if (job.options.callbacks.progress != nullptr) {
        job.changed.notify_one();
    }
}

// From now on the abort of that job alone stops the worker.
void Engine::stop_with(Job &job) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    computed_.assign(1, &job);
    stop_ = job.abort.load();
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
    const auto pooled = job.tokens->pooled.find(piece.i_input);
    if (job.pooling != GGE_POOLING_MEAN || pooled == job.tokens->pooled.end()) {
        return {piece.begin, n, true};
    }
    const int64_t begin = std::max(piece.begin, pooled->second.begin);
    const int64_t end = std::min(piece.end, pooled->second.end);
    return begin < end ? ReadRows{begin, end - begin, true} : ReadRows{piece.end - 1, 1, false};
}

void Engine::fill_tokens(const std::vector<Share> &batch) {
    const auto n_tokens =
        static_cast<size_t>(std::accumulate(batch.begin(), batch.end(), int64_t{0}, [](int64_t n, const Share &share) {
            return n + share.piece.end - share.piece.begin;
        }));
    tokens_.ids.resize(n_tokens);
    tokens_.positions.resize(n_tokens);
    tokens_.sequences.resize(n_tokens);
    tokens_.wanted.assign(n_tokens, 0);
    std::ptrdiff_t at = 0;
    for (size_t k = 0; k < batch.size(); ++k) {
        const auto &[job, piece] = batch[k];
        const Tokens &tokens = *job->tokens;
        const int64_t n = piece.end - piece.begin;
        const int64_t first = tokens.offsets[static_cast<size_t>(piece.i_input)] + piece.begin;
        std::copy_n(tokens.ids.begin() + first, n, tokens_.ids.begin() + at);
        if (tokens.positions.empty()) {
            std::iota(tokens_.positions.begin() + at, tokens_.positions.begin() + at + n,
                      static_cast<int32_t>(piece.begin));
        } else {
            std::transform(tokens.positions.begin() + first, tokens.positions.begin() + first + n,
                           tokens_.positions.begin() + at, [](const GridPosition &position) { return position.t; });
        }
        std::fill_n(tokens_.sequences.begin() + at, n, static_cast<int32_t>(k));
        const ReadRows read = rows_to_read(*job, piece);
        std::fill_n(tokens_.wanted.begin() + at + (read.begin - piece.begin), read.n, uint8_t{1});
        at += n;
    }
    tokens_.rows.clear();
    tokens_.heights.clear();
    tokens_.widths.clear();
}

// Runs one micro-batch, whose media are prepared, and writes the rows of the inputs that end in it.
void Engine::compute(const std::vector<Share> &batch) {
    const Job &first = *batch.front().job; // the others are of its kind
    fill_tokens(batch);
    if (first.media) {
        pieces_.clear();
        for (const Share &share : batch) {
            pieces_.push_back(share.piece);
        }
        first.media->rows.fill({pieces_.data(), pieces_.data() + pieces_.size()}, tokens_);
    }
    const auto n_tokens = static_cast<int64_t>(tokens_.ids.size());
    if (n_tokens > session_options_.n_ubatch) {
        throw Error(GGE_E_INTERNAL, "a micro-batch of " + std::to_string(n_tokens) + " tokens is larger than its " +
                                        std::to_string(session_options_.n_ubatch));
    }
    if (session_ == nullptr) { // dropped after a failure
        open_session(session_options_);
    }
    const float *rows = nullptr;
    try {
        if (batch.front().piece.begin == 0) {
            session_->reset(false);
        }
        session_->use_adapter(first.options.adapter, first.options.adapter_scale);
        rows = session_->compute(tokens_, stop_);
    } catch (const std::bad_alloc &) {
        drop_session(); // its state is unknown
        throw Error(GGE_E_MEMORY, "out of memory");
    } catch (...) {
        drop_session();
        throw;
    }
    n_graphs_ = session_->n_graphs_reused();
    counts_.n_microbatches += 1;
    counts_.n_tokens += n_tokens;
    counts_.n_tokens_offered += std::max(n_tokens, first_session_.n_ubatch);
    for (const auto &[job, piece] : batch) {
        const size_t n = job->rank() ? 1 : static_cast<size_t>(rows_to_read(*job, piece).n);
        write_rows(*job, piece, rows, n);
        rows += n * job->format.n_embd;
    }
}

// rows: the n rows that the backend computed for a piece
void Engine::write_rows(Job &job, const Piece &piece, const float *rows, size_t n) {
    const int64_t i = piece.i_input;
    const bool ends = piece.end == job.n_tokens_of(i);
    bool finite = true;
    if (job.pooling == GGE_POOLING_NONE) {
        const int64_t first = job.tokens->offsets[static_cast<size_t>(i)] + piece.begin;
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
    if (ends && (job.not_finite.empty() || job.not_finite.back() != i)) {
        job.succeed(i);
        ++counts_.n_texts;
    }
}

// ---------------------------------------------------------------- its session

// Has a session with room for an input of that many tokens, the longest of those that the job has left. Without the memory
// for it, fails the inputs of the job that are longer than what there is memory for. Returns whether there is room.
// n_tokens: those that the session is wanted for.
bool Engine::make_room(Job &job, int64_t longest, int64_t n_tokens) {
    const bool is_long = job.longest > std::max(first_session_.n_ctx, session_options_.n_ctx / 2);
    n_tokens_since_long_ = is_long ? 0 : n_tokens_since_long_ + n_tokens;
    std::string lack;
    int64_t most = longest;
    while (true) {
        try {
            fit_session(most, job.rank());
            break;
        } catch (const Error &e) {
            if (e.status() != GGE_E_MEMORY || most <= first_session_.n_ctx) {
                throw;
            }
            lack = e.what();
        }
        most = job.longest_up_to((most - 1) / growth_step * growth_step); // that a smaller session has room for
    }
    if (lack.empty()) {
        return true;
    }
    const int64_t room = session_options_.n_ctx;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        scheduler_.drop_longer(job.number, room);
    }
    for (int64_t i = 0; i < job.tokens->n_texts() && !job.over(); ++i) {
        if (!job.finished[static_cast<size_t>(i)] && job.n_tokens_of(i) > room) {
            job.fail(i, GGE_E_MEMORY,
                     job.tokens->name(i) + " has " + std::to_string(job.n_tokens_of(i)) +
                         " tokens, there is memory for " + std::to_string(room) + ": " + lack);
        }
    }
    return longest <= room;
}

// There is one session: a reranker that also computes rows opens it anew for each change, which takes less memory than
// two. One that was grown is kept until jobs without long inputs have had so many tokens that opening another costs
// little beside them, and no job with one is there.
void Engine::fit_session(int64_t longest, bool rank) {
    const bool fits = session_ != nullptr && rank == session_options_.rank && longest <= session_options_.n_ctx;
    SessionOptions wanted = first_session_;
    wanted.rank = rank;
    wanted = grown(wanted, fits ? longest_of_late() : longest, n_ctx_, limits(rank).may_split);
    if (fits && wanted.n_ctx >= session_options_.n_ctx) {
        return;
    }
    drop_session(); // before the new one is made, so that both need not fit at once
    open_session(wanted);
}

// Tokens that the session must still have room for.
int64_t Engine::longest_of_late() {
    const int64_t room = session_options_.n_ctx;
    if (room <= first_session_.n_ctx || n_tokens_since_long_ < room) {
        return room;
    }
    int64_t longest = 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::shared_ptr<Job> &job : jobs_) {
        longest = job ? std::max(longest, job->longest) : longest;
    }
    n_tokens_since_long_ = 0;
    return longest > room / 2 ? room : longest;
}

void Engine::open_session(const SessionOptions &options) {
    session_ = model_->backend().open(options);
    session_options_ = options;
    n_tokens_since_long_ = 0;
}

void Engine::drop_session() noexcept {
    n_graphs_before_ += n_graphs_;
    n_graphs_ = 0;
    session_.reset();
}

void Engine::wipe() {
    if (session_ != nullptr) {
        session_->reset(true);
    }
}

// Scores come out of the last micro-batch of a sequence alone, so that an input to be ranked is never split.
PlanLimits Engine::limits(bool rank) const {
    return {first_session_.n_ubatch, first_session_.n_seq_max, may_split_ && !rank};
}

} // namespace gge
