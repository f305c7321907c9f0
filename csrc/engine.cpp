// Between two turns of the worker jobs come, end and overtake each other.
#include "engine.h"

#include "devices.h"
#include "log.h"

#include <algorithm>

namespace gge {
namespace {

// Of several the first, with the free memory of all.
Device all_as_one(const Model &model) {
    std::vector<Device> devices = model.devices();
    std::for_each(devices.begin(), devices.end(), ask_driver);
    Device all = devices.front();
    for (size_t i = 1; i < devices.size(); ++i) {
        all.memory_free += devices[i].memory_free;
    }
    return all;
}

Budget budget_of(const Model &model, const EngineOptions &options, bool cuda_graphs) {
    const gge_device_kind device = model.devices().front().kind;
    Budget budget = choose_budget(model.facts(), options, device, cuda_graphs);
    if (options.memory_limit > 0) {
        model.backend().survey(tower_batch(options),
                               [&](const Measure &measure) { fit_limit(budget, options, device, measure); });
    }
    return budget;
}

} // namespace

gge_memory estimate(const std::string &path, const LoadOptions &load, const EngineOptions &options) {
    const DeviceChoice choice = choose_devices(llama_devices(), load.device, load.split);
    const gge_device_kind device = choice.devices.front().kind;
    gge_memory needs{};
    survey_llama_model(path, choice.devices, load, tower_batch(options),
                       [&](const ModelFacts &facts, const Measure &measure) {
                           Budget budget = choose_budget(facts, options, device, false);
                           if (options.memory_limit > 0) {
                               fit_limit(budget, options, device, measure);
                           }
                           needs = measure(budget.session_for(budget.n_room, budget.first.rank));
                       });
    return needs;
}

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions &options)
    : model_(std::move(model)),
      graphs_(choose_cuda_graphs(options.cuda_graphs, model_->devices(), environment_disables_graphs())),
      budget_(budget_of(*model_, options, graphs_.on)),
      attention_(is_causal(model_->facts(), options.attention) ? GGE_ATTENTION_CAUSAL : GGE_ATTENTION_BIDIRECTIONAL),
      worker_(open_worker(options)),
      scheduler_({budget_.first.n_ubatch, budget_.first.n_seq_max, options.max_queued_tokens}) {
    ended_.reserve(static_cast<size_t>(budget_.first.n_seq_max));
    thread_ = std::thread(&Engine::work, this);
}

Engine::~Engine() {
    close();
}

std::unique_ptr<Worker> Engine::open_worker(const EngineOptions &options) {
    auto session = open_first(model_->backend(), budget_, options, all_as_one(*model_));
    WorkerHost &host = *this;
    return std::make_unique<Worker>(host, *model_, WorkerOptions{budget_, tower_batch(options)}, std::move(session));
}

gge_engine_info Engine::info() const {
    gge_engine_info info{};
    info.n_ctx = static_cast<int32_t>(budget_.n_ctx);
    info.n_ubatch = static_cast<int32_t>(budget_.first.n_ubatch);
    info.n_seq_max = static_cast<int32_t>(budget_.first.n_seq_max);
    info.n_threads = budget_.first.n_threads;
    info.attention = attention_;
    const auto is_cuda = [](const Device &device) { return device.kind == GGE_DEVICE_CUDA; };
    const bool on_cuda = std::any_of(model_->devices().begin(), model_->devices().end(), is_cuda);
    info.cuda_graphs = !on_cuda ? GGE_SWITCH_DEFAULT : graphs_.on ? GGE_ON : GGE_OFF;
    copy_string(info.cuda_graphs_reason, graphs_.reason);
    info.n_room = static_cast<int32_t>(budget_.n_room);
    info.memory_limit = budget_.memory_limit;
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
    const auto job = std::make_shared<Job>(*model_, borrowed, options, out, budget_.n_ctx);
    enqueue(job, false); // callers that wait are a bound by themselves
    wait(*job);
    job->report();
}

std::shared_ptr<Job> Engine::prepare(std::shared_ptr<const Tokens> tokens, const EncodeOptions &options,
                                     const RowsOut &out, gge_done_fn on_done, void *user_data) const {
    if (options.callbacks.progress != nullptr || options.callbacks.abort != nullptr) {
        throw Error(GGE_E_INVALID, "progress and abort are for calls that wait");
    }
    auto job = std::make_shared<Job>(*model_, std::move(tokens), options, out, budget_.n_ctx);
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
