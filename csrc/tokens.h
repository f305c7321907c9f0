// Texts -> token ids: prompt, special tokens, the limit.
#pragma once

#include "model.h"
#include "texts.h"

#include <map>

namespace gge {

class Media;

// A unit of a medium, whose rows stand in place of tokens.
struct MediaSpan {
    int64_t begin = 0; // of its rows, counted like Tokens.ids
    int64_t n_rows = 0;
    std::shared_ptr<const Media> media;
    size_t i_unit = 0;
};

// Which rows of an input are pooled, counted from the input's first.
struct PooledRows {
    int64_t begin = 0;
    int64_t end = 0;
};

// The place of a token for M-RoPE.
struct GridPosition {
    int32_t t = 0;
    int32_t height = 0;
    int32_t width = 0;
};

// The tokens of a list of texts, flat. Immutable once made.
struct Tokens {
    std::shared_ptr<const Model> model;
    std::vector<int32_t> ids;
    std::vector<int64_t> offsets; // [n_texts + 1]
    std::vector<gge_status> status;
    std::map<int64_t, std::string> messages; // why, for those whose status is not GGE_OK

    std::vector<MediaSpan> media;         // in the order of their rows; their ids are -1
    std::vector<GridPosition> positions;  // [n_ids]; empty: 0, 1, 2, ... in each text
    std::map<int64_t, PooledRows> pooled; // by text, for those of which not all rows are pooled

    int64_t n_texts() const noexcept { return static_cast<int64_t>(status.size()); }
    int64_t n_tokens(int64_t i) const noexcept {
        return offsets[static_cast<size_t>(i) + 1] - offsets[static_cast<size_t>(i)];
    }
    int64_t n_media(int64_t i) const noexcept; // spans
    std::string name(int64_t i) const;         // in messages: "text 3", or "input 3" if it holds media
};

// Throws unless there is a tokenizer, and the prompt is fit for it.
void check_tokenizer(const Model &model, const TokenizeOptions &options);

// Tells the caller, who collects errors, which texts have no tokens.
void report_inputs(const Tokens &tokens, const TokenizeOptions &options);

// Fills what options points to.
Tokens tokenize(std::shared_ptr<const Model> model, const Texts &texts, const TokenizeOptions &options);

Tokens take_ids(std::shared_ptr<const Model> model, const int32_t *ids, const int64_t *offsets, int64_t n_texts);

} // namespace gge
