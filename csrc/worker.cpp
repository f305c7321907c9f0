// A turn is a micro-batch that the scheduler makes of the inputs of all jobs, or an input that is longer than that.
//
// Pooling is done here and not in llama.cpp (docs/adr/0002): its mean over an input that spans micro-batches is only
// the mean of the last piece, and token rows serve every pooling type alike.
#include "worker.h"

#include "devices.h"

#include <algorithm>
#include <numeric>

namespace gge {
namespace {

// Faults in upstream that a call may meet and go on.
constexpr int max_n_faults = 8;
// Turns in succession that a device fails in, before it is given up.
constexpr int max_device_faults = 3;

} // namespace

Worker::Worker(WorkerHost &host, const Model &model, const WorkerOptions &options,
               std::unique_ptr<BackendSession> session)
    : host_(host), model_(model), options_(options), session_(std::move(session)),
      session_options_(options.budget.session_for(0, options.budget.first.rank)) {
    const SessionOptions &first = options_.budget.first;
    towers_ = std::make_unique<Towers>(model_, options_.number, first.n_threads, first.cuda_graphs);
    const auto n_seq_max = static_cast<size_t>(first.n_seq_max);
    turn_.reserve(n_seq_max);
    turn_jobs_.reserve(n_seq_max);
    batch_.reserve(n_seq_max);
    computed_.reserve(n_seq_max);
}

// ---------------------------------------------------------------- with the engine's mutex held

void Worker::clear_turn() noexcept {
    turn_.clear();
    turn_jobs_.clear();
    computed_.clear();
    stop_ = false;
    counts_ = {};
}

void Worker::add(Job &job, const Piece &piece) noexcept {
    turn_.push_back({&job, piece});
    if (turn_jobs_.empty() || turn_jobs_.back() != &job) {
        turn_jobs_.push_back(&job);
        computed_.push_back(&job);
    }
}

void Worker::look_at_jobs() noexcept {
    stop_ = std::all_of(computed_.begin(), computed_.end(), [](const Job *job) { return job->over(); });
}

void Worker::compute_for(Job *job) noexcept {
    computed_.clear();
    if (job != nullptr) {
        computed_.push_back(job);
        look_at_jobs();
    }
}

// ---------------------------------------------------------------- a turn

void Worker::run_turn() noexcept {
    try {
        try {
            Job &job = *turn_.front().job;
            job.has_media() ? run_media(job) : run_inputs();
        } catch (const Error &e) {
            if (model_.n_copies() == 1) {
                throw;
            }
            fail_turn(e);
        }
    } catch (...) { // no input's own
        for (Job *const job : turn_jobs_) {
            job->fail(std::current_exception());
        }
    }
}

// Without a compute state. What else its jobs have is for the other copies.
void Worker::fail_turn(const Error &error) {
    ++n_device_faults_;
    for (const auto &[job, piece] : turn_) {
        if (piece.i_input < 0) {
            job->fail(std::make_exception_ptr(error));
        } else if (!job->over() && job->finished[static_cast<size_t>(piece.i_input)] == 0) {
            job->fail(piece.i_input, error.status(), error.what());
        }
    }
}

// A micro-batch that holds inputs of one job or several, or an input that is longer than that.
void Worker::run_inputs() {
    const auto [first, piece] = turn_.front();
    const int64_t n_tokens = std::accumulate(turn_.begin(), turn_.end(), int64_t{0},
                                             [](int64_t n, const Share &share) { return n + share.piece.end; });
    if (!make_room(*first, piece.end, n_tokens)) {
        return;
    }
    const bool is_long = piece.end > options_.budget.first.n_ubatch;
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
void Worker::run_media(Job &job) {
    if (job.media == nullptr) {
        make_room(job, job.longest, 0);
        job.media = std::make_unique<MediaPlan>(
            MediaPlan{plan(job.n_tokens, limits(job.rank())), MediaRows(model_, *job.tokens, options_.n_tower_batch)});
    }
    MediaPlan &media = *job.media;
    bool ends = false;
    while (!job.over() && !ends) {
        run_media_batch(job, media.next++);
        ends = media.next == media.plan.size() || !media.plan[media.next].continues();
    }
}

void Worker::run_media_batch(Job &job, size_t at) {
    MediaPlan &media = *job.media;
    const Microbatch batch = media.plan[at];
    turn_.clear();
    for (const Piece &piece : batch) {
        turn_.push_back({&job, piece});
    }
    const int64_t n = job.n_tokens_of(batch[0].i_input); // 0: the input has failed
    if (n > 0 && make_room(job, n, batch.n_tokens())) {
        try {
            media.rows.prepare(*towers_, media.plan, at, stop_);
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
void Worker::retry_alone(const Error &error) {
    n_device_faults_ += error.status() == GGE_E_DEVICE ? 1 : 0;
    for (const Share &share : turn_) {
        Job &job = *share.job;
        if (job.over()) {
            continue;
        }
        if (turn_.size() == 1 || (error.status() == GGE_E_DEVICE && turn_jobs_.size() == 1)) {
            fail(job, share.piece.i_input, error);
            continue;
        }
        host_.stop_with(*this, job);
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
void Worker::retry_not_finite(Job &job) {
    std::vector<int64_t> &not_finite = desk(job).not_finite;
    if (not_finite.empty()) {
        return;
    }
    host_.stop_with(*this, job);
    const std::vector<int64_t> suspects = std::move(not_finite);
    not_finite.clear();
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
        if (!not_finite.empty()) {
            not_finite.clear();
            wipe();
            job.fail(i, GGE_E_NOT_FINITE, "the row of " + job.tokens->name(i) + " is not finite");
        }
    }
}

// Computes an input by itself, in as many pieces as it needs, which nobody else's come between.
void Worker::run_input(Job &job, int64_t i, bool tells) {
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
            job.media->rows.prepare_alone(*towers_, {&piece, &piece + 1}, stop_);
        }
        compute(batch_);
        if (job.media) {
            job.media->rows.release_alone();
        }
        if (tells) {
            job.n_done += piece.end - piece.begin;
            tell_progress(job);
        }
    }
}

// What became of an input alone. A fault in upstream costs the compute state it happened in, which is never freed
// (backend_llama.cpp), so that a few of them end the job.
void Worker::fail(Job &job, int64_t i, const Error &error) {
    if (job.over()) {
        return;
    }
    if (error.status() == GGE_E_INTERNAL && ++job.n_faults > max_n_faults) {
        job.fail(std::make_exception_ptr(error));
    } else {
        job.fail(i, error.status(), error.what());
    }
}

void Worker::tell_progress(Job &job) {
    if (job.options.callbacks.progress != nullptr) {
        job.changed.notify_one();
    }
}

// A micro-batch must give at least one row, so that a piece without pooled tokens gives one that is not pooled.
Worker::ReadRows Worker::rows_to_read(const Job &job, const Piece &piece) {
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

void Worker::fill_tokens(const std::vector<Share> &batch) {
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
void Worker::compute(const std::vector<Share> &batch) {
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
    } catch (const Error &e) {
        e.status() == GGE_E_ABORTED ? wipe() : drop_session();
        throw;
    } catch (...) {
        drop_session();
        throw;
    }
    n_device_faults_ = 0;
    counts_.n_graphs_reused += session_->n_graphs_reused() - n_graphs_;
    n_graphs_ = session_->n_graphs_reused();
    counts_.n_microbatches += 1;
    counts_.n_tokens += n_tokens;
    counts_.n_tokens_offered += std::max(n_tokens, options_.budget.first.n_ubatch);
    for (const auto &[job, piece] : batch) {
        const size_t n = job->rank() ? 1 : static_cast<size_t>(rows_to_read(*job, piece).n);
        write_rows(*job, piece, rows, n);
        rows += n * job->format.n_embd;
    }
}

// rows: the n rows that the backend computed for a piece
void Worker::write_rows(Job &job, const Piece &piece, const float *rows, size_t n) {
    const int64_t i = piece.i_input;
    const bool ends = piece.end == job.n_tokens_of(i);
    auto &[pooler, writer, not_finite] = desk(job);
    bool finite = true;
    if (job.pooling == GGE_POOLING_NONE) {
        const int64_t first = job.tokens->offsets[static_cast<size_t>(i)] + piece.begin;
        for (size_t t = 0; t < n; ++t) {
            finite = writer.write(rows + t * job.format.n_embd, job.row(first + static_cast<int64_t>(t))) && finite;
        }
    } else {
        if (piece.begin == 0) {
            pooler.start();
        }
        pooler.add(rows, rows_to_read(job, piece).pooled ? n : 0);
        if (ends) {
            finite = writer.write(pooler.finish(), job.row(i));
        }
    }
    if (!finite && (not_finite.empty() || not_finite.back() != i)) {
        not_finite.push_back(i);
    }
    if (ends && (not_finite.empty() || not_finite.back() != i)) {
        job.succeed(i);
        ++counts_.n_texts;
    }
}

// ---------------------------------------------------------------- its session

// Has a session with room for an input of that many tokens, the longest of those that the job has left. Without the memory
// for it, fails the inputs of the job that are longer than what there is memory for. Returns whether there is room.
// n_tokens: those that the session is wanted for.
bool Worker::make_room(Job &job, int64_t longest, int64_t n_tokens) {
    const bool is_long = job.longest > std::max(options_.budget.first.n_ctx, session_options_.n_ctx / 2);
    n_tokens_since_long_ = is_long ? 0 : n_tokens_since_long_ + n_tokens;
    std::string lack;
    int64_t most = longest;
    while (true) {
        try {
            fit_session(most, job.rank());
            break;
        } catch (const Error &e) {
            if (e.status() != GGE_E_MEMORY || most <= options_.budget.first.n_ctx) {
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
    fail_longer(job, room, lack);
    return longest <= room;
}

// Those of the turn and of the queue; another worker may have room for those that it computes.
void Worker::fail_longer(Job &job, int64_t room, const std::string &lack) {
    std::vector<int64_t> longer;
    for (const Share &share : turn_) {
        if (share.job == &job && share.piece.end > room) {
            longer.push_back(share.piece.i_input);
        }
    }
    for (int64_t i = host_.take_longer(job, room); i >= 0; i = host_.take_longer(job, room)) {
        longer.push_back(i);
    }
    std::sort(longer.begin(), longer.end());
    for (const int64_t i : longer) {
        if (!job.over() && job.finished[static_cast<size_t>(i)] == 0) {
            job.fail(i, GGE_E_MEMORY,
                     job.tokens->name(i) + " has " + std::to_string(job.n_tokens_of(i)) +
                         " tokens, there is memory for " + std::to_string(room) + ": " + lack);
        }
    }
}

// There is one session: a reranker that also computes rows opens it anew for each change, which takes less memory than
// two. One that was grown is kept until jobs without long inputs have had so many tokens that opening another costs
// little beside them, and no job with one is there.
void Worker::fit_session(int64_t longest, bool rank) {
    const Budget &budget = options_.budget;
    if (longest > budget.n_room) {
        throw Error(GGE_E_MEMORY, "memory_limit is " + show_bytes(budget.memory_limit));
    }
    const bool fits = session_ != nullptr && rank == session_options_.rank && longest <= session_options_.n_ctx;
    const SessionOptions wanted = budget.session_for(fits ? longest_of_late() : longest, rank);
    if (fits && wanted.n_ctx >= session_options_.n_ctx) {
        return;
    }
    drop_session(); // before the new one is made, so that both need not fit at once
    open_session(wanted);
}

// Tokens that the session must still have room for.
int64_t Worker::longest_of_late() {
    const int64_t room = session_options_.n_ctx;
    if (room <= std::max(options_.budget.first.n_ctx, options_.budget.n_reserved) || n_tokens_since_long_ < room) {
        return room;
    }
    const int64_t longest = host_.longest_of_jobs();
    n_tokens_since_long_ = 0;
    return longest > room / 2 ? room : longest;
}

void Worker::open_session(const SessionOptions &options) {
    session_ = model_.backend(options_.number).open(options);
    session_options_ = options;
    n_tokens_since_long_ = 0;
}

void Worker::drop_session() noexcept {
    n_graphs_ = 0;
    session_.reset();
}

void Worker::wipe() {
    if (session_ != nullptr) {
        session_->reset(true);
    }
}

bool Worker::device_is_lost() const noexcept {
    return n_device_faults_ >= max_device_faults;
}

void Worker::release() noexcept {
    towers_.reset();
    session_.reset();
}

// Scores come out of the last micro-batch of a sequence alone, so that an input to be ranked is never split.
PlanLimits Worker::limits(bool rank) const {
    return {options_.budget.first.n_ubatch, options_.budget.first.n_seq_max, options_.budget.may_split && !rank};
}

} // namespace gge
