// Between two turns of a worker jobs come, end and overtake each other.
#include "engine.h"

#include "devices.h"
#include "log.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace gge {
namespace {

// That of a copy, or of several that share the layers the first, with the free memory of all.
Device device_of(const Model &model, size_t copy) {
    std::vector<Device> devices = model.devices();
    if (model.n_copies() > 1) {
        devices = {devices[copy]};
    }
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
    if (options.n_threads == 0) {
        budget.first.n_threads = std::max(1, budget.first.n_threads / static_cast<int32_t>(model.n_copies()));
    }
    if (options.memory_limit > 0) {
        model.backend().survey(tower_batch(options),
                               [&](const Measure &measure) { fit_limit(budget, options, device, measure); });
    }
    return budget;
}

gge_memory estimate(const std::string &path, const std::vector<Device> &devices, const LoadOptions &load,
                    const EngineOptions &options) {
    const gge_device_kind device = devices.front().kind;
    gge_memory needs{};
    survey_llama_model(path, devices, load, tower_batch(options), [&](const ModelFacts &facts, const Measure &measure) {
        Budget budget = choose_budget(facts, options, device, false);
        if (options.memory_limit > 0) {
            fit_limit(budget, options, device, measure);
        }
        needs = measure(budget.session_for(budget.n_room, budget.first.rank));
        write_weights(needs, facts.weights);
    });
    return needs;
}

} // namespace

gge_memory estimate(const std::string &path, const LoadOptions &load, const EngineOptions &options) {
    const DeviceChoice choice = devices_for(load);
    if (!choice.copies) {
        return estimate(path, choice.devices, load, options);
    }
    gge_memory sum{};
    for (const Device &device : choice.devices) {
        const gge_memory own = estimate(path, {device}, load, options);
        sum.n_weights = own.n_weights;
        std::copy(std::begin(own.weights), std::end(own.weights), std::begin(sum.weights));
        for (const auto part : {&gge_memory::weights_device, &gge_memory::weights_host, &gge_memory::cache_device,
                                &gge_memory::cache_host, &gge_memory::compute_device, &gge_memory::compute_host,
                                &gge_memory::output_host}) {
            sum.*part += own.*part;
        }
    }
    return sum;
}

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions &options)
    : model_(std::move(model)),
      graphs_(choose_cuda_graphs(options.cuda_graphs, model_->devices(), environment_disables_graphs())),
      budget_(budget_of(*model_, options, graphs_.on)),
      attention_(is_causal(model_->facts(), options.attention) ? GGE_ATTENTION_CAUSAL : GGE_ATTENTION_BIDIRECTIONAL),
      seats_(make_seats(options)),
      scheduler_({budget_.first.n_ubatch, budget_.first.n_seq_max, options.max_queued_tokens}) {
    n_working_ = seats_.size();
    try {
        for (Seat &seat : seats_) {
            seat.ended.reserve(static_cast<size_t>(budget_.first.n_seq_max));
            seat.thread = std::thread([this, &seat] { work(seat); });
        }
    } catch (...) {
        close();
        throw;
    }
}

Engine::~Engine() {
    close();
}

// A copy with less memory than the others has the word on the budget, which is one for all.
std::vector<Engine::Seat> Engine::make_seats(const EngineOptions &options) {
    std::vector<std::unique_ptr<BackendSession>> sessions;
    for (size_t copy = 0; copy < model_->n_copies(); ++copy) {
        sessions.push_back(open_first(model_->backend(copy), budget_, options, device_of(*model_, copy)));
    }
    std::vector<Seat> seats(sessions.size());
    WorkerHost &host = *this;
    for (size_t copy = 0; copy < seats.size(); ++copy) {
        seats[copy].worker = std::make_unique<Worker>(host, *model_, WorkerOptions{copy, budget_, tower_batch(options)},
                                                      std::move(sessions[copy]));
    }
    return seats;
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
    const Clock::time_point now = Clock::now();
    for (const Seat &seat : seats_) {
        const double seconds = std::chrono::duration<double>(now - seat.since).count();
        (seat.computes ? stats.seconds_computing : stats.seconds_waiting) += seconds;
    }
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
    const auto job = std::make_shared<Job>(*model_, borrowed, options, out, budget_.n_ctx, seats_.size());
    enqueue(job, false); // callers that wait are a bound by themselves
    wait(*job);
    job->report();
}

std::shared_ptr<Job> Engine::prepare(std::shared_ptr<const Tokens> tokens, const EncodeOptions &options,
                                     const RowsOut &out, gge_done_fn on_done, void *user_data) const {
    if (options.callbacks.progress != nullptr || options.callbacks.abort != nullptr) {
        throw Error(GGE_E_INVALID, "progress and abort are for calls that wait");
    }
    auto job = std::make_shared<Job>(*model_, std::move(tokens), options, out, budget_.n_ctx, seats_.size());
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
    bool joins = false;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        stop_all();
        if (!teller_.is_here()) { // only one of several closing threads gets to join
            joins = !joined_;
            joined_ = true;
        }
    }
    wake_.notify_all();
    idle_.notify_all();
    if (!joins) {
        return;
    }
    for (Seat &seat : seats_) {
        if (seat.thread.joinable()) {
            seat.thread.join();
        }
        seat.worker->release();
    }
    teller_.finish();
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

// Takes a job out of the queue; if workers compute it, it ends with their turns.
void Engine::stop(Job &job) noexcept {
    if (job.done) {
        return;
    }
    job.closed = closing_;
    job.abort = true;
    if (job.n_computing > 0) {
        stop_computing(job);
    } else {
        end(job)->changed.notify_all();
    }
}

// Of a job that is over: workers that compute for no other stop.
void Engine::stop_computing(Job &job) noexcept {
    scheduler_.drop(job.number);
    for (const Seat &seat : seats_) {
        seat.worker->look_at_jobs();
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

// Notes what a worker does from now on.
void Engine::clock(Seat &seat, bool computes) noexcept {
    const Clock::time_point now = Clock::now();
    (seat.computes ? stats_.seconds_computing : stats_.seconds_waiting) +=
        std::chrono::duration<double>(now - seat.since).count();
    seat.since = now;
    seat.computes = computes;
}

// ---------------------------------------------------------------- a worker's thread

void Engine::work(Seat &seat) noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    while (takes_turns(seat) || !seat.ended.empty()) {
        const bool begins = takes_turns(seat) && begin_turn(seat);
        if (!begins && seat.ended.empty()) {
            wake_.wait(lock, [&] { return closing_ || !scheduler_.empty(); });
            continue;
        }
        lock.unlock();
        wake_callers(seat);
        if (begins) {
            seat.worker->run_turn();
        }
        lock.lock();
        if (begins) {
            end_turn(seat);
        }
    }
    lock.unlock();
    if (seat.is_lost) {
        std::array<char, 128> text{};
        static_cast<void>(std::snprintf(text.data(), text.size(), "%s fails again and again, the other copies go on",
                                        model_->devices()[seat.worker->number()].name.c_str()));
        log_line(GGE_LOG_ERROR, text.data());
    }
}

// Of jobs that ended with the turn before: without the mutex, which is the first thing that they want, and while the next
// turn is computed.
void Engine::wake_callers(Seat &seat) noexcept {
    for (const std::shared_ptr<Job> &job : seat.ended) {
        job->changed.notify_all();
    }
    seat.ended.clear();
}

// Has the scheduler choose what runs. Returns whether there is something.
bool Engine::begin_turn(Seat &seat) noexcept {
    Worker &worker = *seat.worker;
    worker.clear_turn();
    for (const Scheduler::Input &input : scheduler_.next()) {
        worker.add(*jobs_[input.job], {input.i_input, 0, input.n_tokens});
    }
    for (Job *const job : worker.jobs()) {
        job->started = true;
        ++job->n_computing;
    }
    if (!scheduler_.empty()) {
        wake_.notify_one();
    }
    const bool begins = !worker.jobs().empty();
    clock(seat, begins);
    return begins;
}

void Engine::end_turn(Seat &seat) noexcept {
    const Worker::Counts &counts = seat.worker->counts();
    stats_.n_texts += counts.n_texts;
    stats_.n_tokens += counts.n_tokens;
    stats_.n_microbatches += counts.n_microbatches;
    stats_.n_tokens_offered += counts.n_tokens_offered;
    stats_.n_graphs_reused += counts.n_graphs_reused;
    clock(seat, false);
    seat.worker->compute_for(nullptr);
    for (Job *const job : seat.worker->jobs()) {
        --job->n_computing;
        if (job->has_media() && !job->abort) {
            scheduler_.set_left(job->number, job->n_left, job->n_total - job->n_done);
        }
        if (!job->over()) { // asked once: others that compute for it may be about to end it
            continue;
        }
        if (job->n_computing > 0) {
            stop_computing(*job);
        } else {
            seat.ended.push_back(end(*job));
        }
    }
    if (seat.worker->device_is_lost() && n_working_ > 1) {
        seat.is_lost = true;
        --n_working_;
        wake_.notify_one(); // of what this one would have taken
    }
}

// ---------------------------------------------------------------- what a worker asks for

void Engine::stop_with(Worker &worker, Job &job) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    worker.compute_for(&job);
}

int64_t Engine::take_longer(Job &job, int64_t n) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    return scheduler_.take_longer(job.number, n);
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
