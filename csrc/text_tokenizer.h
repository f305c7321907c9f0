// One text -> its token ids: prompt, special tokens, the limit.
#pragma once

#include "abort_timer.h"
#include "cutting.h"
#include "tokens.h"

#include <optional>

namespace gge {

// The texts of one call.
class TextTokenizer {
public:
    // Both are borrowed. Throws Error.
    TextTokenizer(const Model &model, const TokenizeOptions &options);

    // Appends the tokens of text, which is input i. An error that names it is the text's own.
    void add(std::string_view text, int64_t i, Tokens &tokens);

    // Says what became of input i.
    void report(int64_t i, bool truncated, size_t n_tokens) const;

    // What stands around every text.
    const std::vector<int32_t> &prefix() const noexcept { return prefix_; }
    const std::vector<int32_t> &suffix() const noexcept { return suffix_; }

private:
    bool limited() const noexcept { return options_.max_tokens > 0; }
    size_t max_tokens() const noexcept { return static_cast<size_t>(options_.max_tokens); }
    size_t n_special() const noexcept { return prefix_.size() + suffix_.size(); }
    size_t room() const noexcept { return max_tokens() - n_special(); }
    TokenRun tokens_of(const PromptedText &text) const;
    void cut(const PromptedText &text, int64_t i, TokenRun &run);
    const std::vector<int32_t> &prompt_ids();

    const Model &model_;
    const TokenizeOptions &options_;
    const std::vector<int32_t> prefix_;
    const std::vector<int32_t> suffix_;
    const Cutter cutter_;
    std::optional<std::vector<int32_t>> prompt_ids_;
};

// Calls add(i) for n inputs, each of which appends its ids to tokens, or throws an error that names it.
template <typename Add> void add_inputs(int64_t n, const TokenizeOptions &options, Tokens &tokens, Add add) {
    tokens.offsets.reserve(static_cast<size_t>(n) + 1);
    tokens.offsets.push_back(0);
    tokens.status.reserve(static_cast<size_t>(n));
    AbortTimer timer(options.callbacks);
    for (int64_t i = 0; i < n; ++i) {
        timer.check();
        try {
            add(i);
            tokens.status.push_back(GGE_OK);
        } catch (const Error &e) {
            if (e.input_index() != i || !options.report.collects()) {
                throw;
            }
            tokens.status.push_back(e.status());
            tokens.messages[i] = e.what();
        }
        tokens.offsets.push_back(static_cast<int64_t>(tokens.ids.size()));
    }
}

} // namespace gge
