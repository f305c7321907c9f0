// One text -> its token ids: prompt, special tokens, the limit.
#pragma once

#include "cutting.h"
#include "tokens.h"

#include <optional>

namespace gge {

// The texts of one call, for one thread.
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

} // namespace gge
