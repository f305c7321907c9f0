#include "scheduler.h"

#include "error.h"

#include <algorithm>

namespace gge {
namespace {

// With 4, a bulk job that has at least a quarter of the device to itself is done before it is due.
constexpr int64_t due_factor = 4;
// Jobs in succession that have nothing that fits, before a micro-batch is left as it is.
constexpr int max_misses = 256;

} // namespace

Scheduler::Scheduler(const SchedulerLimits &limits) : limits_(limits) {
    if (limits.n_ubatch < 1 || limits.n_seq_max < 1) {
        throw Error(GGE_E_INTERNAL, "a micro-batch needs room for at least one token and one sequence");
    }
    next_.reserve(static_cast<size_t>(limits.n_seq_max));
}

bool Scheduler::has_room(int64_t n_tokens) const noexcept {
    return n_counted_ == 0 || n_counted_ + std::min(n_tokens, limits_.max_queued * 3 / 4) <= limits_.max_queued;
}

size_t Scheduler::add(Shelf inputs, const JobKind &kind, bool bounded, int64_t now) {
    if (free_.empty()) { // with room in all lists, so that nothing but this needs memory
        const size_t n = entries_.size() + 1;
        if (order_.capacity() < n) {
            order_.reserve(2 * n);
        }
        if (free_.capacity() < n) {
            free_.reserve(2 * n);
        }
        entries_.emplace_back();
        free_.push_back(n - 1);
    }
    const size_t job = free_.back();
    free_.pop_back();
    Entry &entry = entries_[job];
    entry.shelf = std::move(inputs);
    entry.kind = kind;
    entry.bounded = bounded;
    entry.due = now + due_factor * std::max(entry.shelf.n_tokens(), limits_.n_ubatch);
    note_left(job, entry.shelf.n_inputs(), entry.shelf.n_tokens());
    if (entry.n_inputs > 0) {
        const auto later = std::upper_bound(order_.begin(), order_.end(), entry.due,
                                            [&](int64_t due, size_t other) { return due < entries_[other].due; });
        order_.insert(later, job);
    }
    return job;
}

void Scheduler::remove(size_t job) noexcept {
    Entry &entry = entries_[job];
    entry.shelf = Shelf();
    note_left(job, 0, 0);
    free_.push_back(job);
}

const std::vector<Scheduler::Input> &Scheduler::next() noexcept {
    next_.clear();
    if (order_.empty()) {
        return next_;
    }
    const size_t first = order_.front();
    Entry &entry = entries_[first];
    if (entry.kind.alone) {
        next_.push_back({first, -1, 0});
        return next_;
    }
    int64_t room = limits_.n_ubatch;
    const int64_t longest = entry.shelf.longest();
    if (longest > room) {
        next_.push_back({first, entry.shelf.take(longest), longest});
        note_left(first, entry.shelf.n_inputs(), entry.shelf.n_tokens());
        room = 0;
    }
    int n_misses = 0;
    for (size_t k = 0; k < order_.size() && room > 0 && n_misses < max_misses;) {
        const size_t job = order_[k];
        const size_t before = next_.size();
        if (entries_[job].kind.shares_with(entry.kind)) {
            fill_from(job, room);
        }
        n_misses = next_.size() > before ? 0 : n_misses + 1;
        room = next_.size() < static_cast<size_t>(limits_.n_seq_max) ? room : 0;
        k += k < order_.size() && order_[k] == job ? size_t{1} : size_t{0}; // one without inputs has left
    }
    return next_;
}

void Scheduler::drop_longer(size_t job, int64_t n) noexcept {
    Entry &entry = entries_[job];
    entry.shelf.drop_longer(n);
    note_left(job, entry.shelf.n_inputs(), entry.shelf.n_tokens());
}

// Takes of one job what fits.
void Scheduler::fill_from(size_t job, int64_t &room) noexcept {
    Entry &entry = entries_[job];
    const auto n_seq_max = static_cast<size_t>(limits_.n_seq_max);
    for (int64_t n = entry.shelf.longest(room); n > 0 && next_.size() < n_seq_max; n = entry.shelf.longest(room)) {
        next_.push_back({job, entry.shelf.take(n), n});
        room -= n;
    }
    note_left(job, entry.shelf.n_inputs(), entry.shelf.n_tokens());
}

void Scheduler::note_left(size_t job, int64_t n_inputs, int64_t n_tokens) noexcept {
    Entry &entry = entries_[job];
    n_counted_ -= counted(entry);
    n_queued_inputs_ += n_inputs - entry.n_inputs;
    n_queued_tokens_ += n_tokens - entry.n_tokens;
    const bool ends = entry.n_inputs > 0 && n_inputs == 0;
    entry.n_inputs = n_inputs;
    entry.n_tokens = n_tokens;
    n_counted_ += counted(entry);
    if (ends) {
        order_.erase(std::find(order_.begin(), order_.end(), job));
    }
}

int64_t Scheduler::counted(const Entry &entry) const noexcept {
    return entry.bounded ? std::min(entry.n_tokens, limits_.max_queued * 3 / 4) : 0;
}

} // namespace gge
