// Token counts and limits in, micro-batches out. Pure: no model, no I/O, no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gge {

// Inputs that are in no micro-batch yet, by length; those without tokens are left out. Takes O(n) to make, and O(1) on
// average to take one out.
class Shelf {
public:
    Shelf() = default;
    explicit Shelf(const std::vector<int64_t> &n_tokens);

    int64_t n_inputs() const noexcept { return n_inputs_; }
    int64_t n_tokens() const noexcept { return n_tokens_; }

    // Tokens of the longest input that is there, 0 if there is none.
    int64_t longest() noexcept { return longest(longest_); }
    // And of those that have no more than n.
    int64_t longest(int64_t n) noexcept;

    // Takes out the first input of n tokens, n as longest() returned it.
    int64_t take(int64_t n) noexcept;

private:
    std::vector<size_t> next_;    // by input: the next of its length
    std::vector<size_t> first_;   // by length
    std::vector<size_t> shorter_; // by length: a shorter one; in between there are no inputs
    int64_t n_inputs_ = 0;
    int64_t n_tokens_ = 0;
    int64_t shortest_ = 0; // there is none below that
    int64_t longest_ = 0;  // nor above that
};

struct PlanLimits {
    int64_t n_ubatch = 0;   // tokens that inputs are packed up to
    int64_t n_seq_max = 0;  // sequences per micro-batch
    bool may_split = false; // an input that is longer runs in several micro-batches (causal, with a cache)
};

// Tokens [begin, end) of one input.
struct Piece {
    int64_t i_input;
    int64_t begin;
    int64_t end;
};

// The pieces that are computed together, at least one, borrowed from a plan. Piece k is sequence k.
class Microbatch {
public:
    Microbatch(const Piece *begin, const Piece *end) : begin_(begin), end_(end) {}

    const Piece *begin() const noexcept { return begin_; }
    const Piece *end() const noexcept { return end_; }
    size_t size() const noexcept { return static_cast<size_t>(end_ - begin_); }
    const Piece &operator[](size_t k) const noexcept { return begin_[k]; }

    int64_t n_tokens() const noexcept;
    // Its only piece goes on where the micro-batch before it stopped.
    bool continues() const noexcept { return begin_->begin > 0; }

private:
    const Piece *begin_;
    const Piece *end_;
};

// Micro-batches in the order in which they run.
class Plan {
public:
    size_t size() const noexcept { return ends_.size(); }
    Microbatch operator[](size_t b) const noexcept {
        return {pieces_.data() + (b == 0 ? 0 : ends_[b - 1]), pieces_.data() + ends_[b]};
    }

    void reserve(size_t n_pieces) { pieces_.reserve(n_pieces); }
    void add(const Piece &piece) { pieces_.push_back(piece); }
    // What was added since the last one is a micro-batch.
    void close() { ends_.push_back(pieces_.size()); }

private:
    std::vector<Piece> pieces_;
    std::vector<size_t> ends_; // of micro-batches, in pieces_
};

// Packs inputs. n_tokens[i] == 0 leaves input i out. Those that are longer than n_ubatch come first, each with a
// micro-batch of its own, or with may_split several, one after the other. Any other micro-batch takes the longest input
// that is left, then the longest that still fits, and so on, which leaves hardly any room; equal lengths keep the order
// of the inputs. Every token of every input is in exactly one piece. Takes O(n).
Plan plan(const std::vector<int64_t> &n_tokens, const PlanLimits &limits);

} // namespace gge
