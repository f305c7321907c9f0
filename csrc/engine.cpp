// Between two turns of the worker jobs come, end and overtake each other.
#include "engine.h"

#include "log.h"
#include "threads.h"

#include <algorithm>

namespace gge {
namespace {

// The curve is flat from 64 to 8192 tokens on the CPU (benchmarks/results/2026-11-21-amd-epyc-2cpu-tune.md); on other
// devices none has been measured. `ggembed bench --tune` measures it.
constexpr int64_t default_n_ubatch = 512;
// Rows that a media encoder makes together.
constexpr int64_t default_n_tower_batch = 2048;
// Upstream has 256 sequence ids, of which a backend may need one.
constexpr int64_t max_n_seq = 255;
// Each sequence of a recurrent model needs its own state.
constexpr int64_t default_n_seq_with_state = 16;
// Of micro-batches that lack of memory makes smaller.
constexpr int64_t least_n_ubatch = 64;
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
    : model_(std::move(model)), n_ctx_(longest_input(model_->facts(), options)),
      graphs_(choose_cuda_graphs(options.cuda_graphs, model_->devices(), environment_disables_graphs())),
      first_session_(first_session(model_->facts(), options, graphs_.on)),
      attention_(is_causal(model_->facts(), options.attention) ? GGE_ATTENTION_CAUSAL : GGE_ATTENTION_BIDIRECTIONAL),
      worker_(open_worker(options)),
      scheduler_({first_session_.n_ubatch, first_session_.n_seq_max, options.max_queued_tokens}) {
    ended_.reserve(static_cast<size_t>(first_session_.n_seq_max));
    thread_ = std::thread(&Engine::work, this);
}

Engine::~Engine() {
    close();
}

std::unique_ptr<Worker> Engine::open_worker(const EngineOptions &options) {
    auto session = open_first(model_->backend(), first_session_);
    const WorkerOptions for_worker{first_session_, n_ctx_, tower_batch(options), may_split(model_->facts(), options)};
    WorkerHost &host = *this;
    return std::make_unique<Worker>(host, *model_, for_worker, std::move(session));
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
    if (teller_.is_here()) {
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
        if (job.done && callbacks.progress == nullptr) {
            break; // rather than ask whether to abort
        }
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
    if (teller_.is_here() && !job.done) {
        throw Error(GGE_E_BUSY, "the request is not done, and the engine's own thread cannot wait for it");
    }
    job.changed.wait(lock, [&] { return job.done && (job.told || teller_.is_here()); });
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
    std::thread thread;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        stop_all();
        if (!teller_.is_here()) {
            thread.swap(thread_); // only one of several closing threads gets to join
        }
    }
    wake_.notify_all();
    idle_.notify_all();
    if (thread.joinable()) {
        thread.join();
        worker_->release();
        teller_.finish();
    }
}

void Engine::drain() noexcept {
    {
        std::unique_lock<std::mutex> lock(mutex_);
        draining_ = true;
        idle_.wait(lock, [&] { return n_jobs_ == 0 || closing_ || teller_.is_here(); });
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
        worker_->look_at_aborts();
    } else {
        end(job)->changed.notify_all();
    }
}

void Engine::stop_all() noexcept {
    for (const std::shared_ptr<Job> &job : jobs_) {
        if (job) {
            stop(*job);
        }
    }
}

std::shared_ptr<Job> Engine::end(Job &job) noexcept {
    std::shared_ptr<Job> owner = std::move(jobs_[job.number]);
    jobs_[job.number].reset();
    scheduler_.remove(job.number);
    --n_jobs_;
    job.media.reset();
    job.done = true;
    stats_.n_calls += 1;
    stats_.n_calls_aborted += job.abort && !job.closed && job.n_left > 0 ? 1 : 0;
    stats_.n_texts_failed += job.n_failed;
    if (job.on_done != nullptr) {
        teller_.add(owner);
    }
    if (n_jobs_ == 0) {
        idle_.notify_all();
    }
    return owner;
}

// Notes what the worker does from now on.
void Engine::clock(bool computes) noexcept {
    const Clock::time_point now = Clock::now();
    (computes_ ? stats_.seconds_computing : stats_.seconds_waiting) +=
        std::chrono::duration<double>(now - since_).count();
    since_ = now;
    computes_ = computes;
}

// ---------------------------------------------------------------- the worker's thread

void Engine::work() noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!closing_ || !ended_.empty()) {
        const bool begins = !closing_ && begin_turn();
        if (!begins && ended_.empty()) {
            wake_.wait(lock, [&] { return closing_ || !scheduler_.empty(); });
            continue;
        }
        lock.unlock();
        wake_callers();
        if (begins) {
            worker_->run_turn();
        }
        lock.lock();
        if (begins) {
            end_turn();
        }
    }
}

// Of jobs that ended with the turn before: without the mutex, which is the first thing that they want, and while the next
// turn is computed.
void Engine::wake_callers() noexcept {
    for (const std::shared_ptr<Job> &job : ended_) {
        job->changed.notify_all();
    }
    ended_.clear();
}

// Has the scheduler choose what runs. Returns whether there is something.
bool Engine::begin_turn() noexcept {
    worker_->clear_turn();
    for (const Scheduler::Input &input : scheduler_.next()) {
        worker_->add(*jobs_[input.job], {input.i_input, 0, input.n_tokens});
    }
    for (Job *const job : worker_->jobs()) {
        job->started = true;
        job->computed = true;
    }
    const bool begins = !worker_->jobs().empty();
    clock(begins);
    return begins;
}

void Engine::end_turn() noexcept {
    const Worker::Counts &counts = worker_->counts();
    stats_.n_texts += counts.n_texts;
    stats_.n_tokens += counts.n_tokens;
    stats_.n_microbatches += counts.n_microbatches;
    stats_.n_tokens_offered += counts.n_tokens_offered;
    stats_.n_graphs_reused = worker_->n_graphs_reused();
    clock(false);
    worker_->compute_for(nullptr);
    for (Job *const job : worker_->jobs()) {
        job->computed = false;
        if (job->has_media() && !job->abort) {
            scheduler_.set_left(job->number, job->n_left, job->n_total - job->n_done);
        }
        if (job->over()) {
            ended_.push_back(end(*job));
        }
    }
}

// ---------------------------------------------------------------- what the worker asks for

void Engine::stop_with(Worker &worker, Job &job) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    worker.compute_for(&job);
}

void Engine::drop_longer(Job &job, int64_t n) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    scheduler_.drop_longer(job.number, n);
}

int64_t Engine::longest_of_jobs() noexcept {
    int64_t longest = 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::shared_ptr<Job> &job : jobs_) {
        longest = job ? std::max(longest, job->longest) : longest;
    }
    return longest;
}

} // namespace gge
