#include "scheduler.h"

#include "error.h"

#include <algorithm>

namespace gge {
namespace {

// Tokens that smaller jobs get for each of the oldest's.
constexpr int64_t n_for_small = 3;
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

size_t Scheduler::add(Shelf inputs, const JobKind &kind, bool bounded) {
    if (free_.empty()) { // with room in all lists, so that nothing but this needs memory
        const size_t n = entries_.size() + 1;
        for (std::vector<size_t> *list : {&free_, &by_size_, &by_age_}) {
            if (list->capacity() < n) {
                list->reserve(2 * n);
            }
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
    entry.size = std::max(entry.shelf.n_tokens(), limits_.n_ubatch);
    if (by_size_.empty()) {
        owed_ = 0;
    }
    note_left(job, entry.shelf.n_inputs(), entry.shelf.n_tokens());
    if (entry.n_inputs > 0) {
        const auto larger = std::upper_bound(by_size_.begin(), by_size_.end(), entry.size,
                                             [&](int64_t size, size_t other) { return size < entries_[other].size; });
        by_size_.insert(larger, job);
        by_age_.push_back(job);
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
    if (empty()) {
        return next_;
    }
    const size_t first = choose_first();
    Entry &entry = entries_[first];
    if (entry.kind.alone) {
        entry.debit = debit_;
        entry.lent = true;
        ++n_lent_;
        next_.push_back({first, -1, 0});
        return next_;
    }
    int64_t room = limits_.n_ubatch;
    fill_from(first, room);
    int n_misses = 0;
    for (size_t k = 0; k < by_size_.size() && room > 0 && n_misses < max_misses;) {
        const size_t job = by_size_[k];
        const size_t before = next_.size();
        if (entries_[job].kind.shares_with(entry.kind)) {
            fill_from(job, room);
        }
        n_misses = next_.size() > before ? 0 : n_misses + 1;
        k += k < by_size_.size() && by_size_[k] == job ? size_t{1} : size_t{0}; // one without inputs has left
    }
    return next_;
}

// The smallest, or the oldest when it is owed a micro-batch.
size_t Scheduler::choose_first() noexcept {
    const size_t smallest = first_there(by_size_);
    const size_t oldest = first_there(by_age_);
    const bool pays = owed_ >= n_for_small * limits_.n_ubatch;
    debit_ = smallest == oldest ? 0 : pays ? -n_for_small : 1;
    return pays ? oldest : smallest;
}

// Of a list of jobs that are not all lent.
size_t Scheduler::first_there(const std::vector<size_t> &list) const noexcept {
    return *std::find_if(list.begin(), list.end(), [&](size_t job) { return !entries_[job].lent; });
}

void Scheduler::take_back(Entry &entry) noexcept {
    n_lent_ -= entry.lent ? 1 : 0;
    entry.lent = false;
}

void Scheduler::drop(size_t job) noexcept {
    entries_[job].shelf = Shelf();
    note_left(job, 0, 0);
}

int64_t Scheduler::take_longer(size_t job, int64_t n) noexcept {
    Shelf &shelf = entries_[job].shelf;
    const int64_t longest = shelf.longest();
    if (longest <= n) {
        return -1;
    }
    const int64_t i = shelf.take(longest);
    note_left(job, shelf.n_inputs(), shelf.n_tokens());
    return i;
}

void Scheduler::set_left(size_t job, int64_t n_inputs, int64_t n_tokens) noexcept {
    take_back(entries_[job]);
    owed_ += entries_[job].debit * (entries_[job].n_tokens - n_tokens);
    note_left(job, n_inputs, n_tokens);
}

// Takes of one job what fits, of the first one whatever is its longest.
void Scheduler::fill_from(size_t job, int64_t &room) noexcept {
    Shelf &shelf = entries_[job].shelf;
    for (int64_t n = next_.empty() ? shelf.longest() : shelf.longest(room); n > 0; n = shelf.longest(room)) {
        next_.push_back({job, shelf.take(n), n});
        owed_ += debit_ * n;
        room = next_.size() < static_cast<size_t>(limits_.n_seq_max) ? std::max(room - n, int64_t{0}) : 0;
    }
    note_left(job, shelf.n_inputs(), shelf.n_tokens());
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
        take_back(entry);
        owed_ = by_age_.front() == job ? 0 : owed_; // it is of that one alone
        by_size_.erase(std::find(by_size_.begin(), by_size_.end(), job));
        by_age_.erase(std::find(by_age_.begin(), by_age_.end(), job));
    }
}

int64_t Scheduler::counted(const Entry &entry) const noexcept {
    return entry.bounded ? std::min(entry.n_tokens, limits_.max_queued * 3 / 4) : 0;
}

} // namespace gge
