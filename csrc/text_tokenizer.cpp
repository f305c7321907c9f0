#include "text_tokenizer.h"

#include <algorithm>

namespace gge {
namespace {

// Up to here, a text that is too long is tokenised to its end to say by how much.
constexpr size_t max_counted_bytes = 1 << 20;

// What tokenising appends.
std::vector<int32_t> suffix_of(const Model &model, const TokenizeOptions &options) {
    if (!options.add_special) {
        return {};
    }
    return options.end_token < 0 ? model.suffix() : std::vector<int32_t>{options.end_token};
}

size_t n_common(const std::vector<int32_t> &a, const std::vector<int32_t> &b) {
    const auto n = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
    return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

} // namespace

TextTokenizer::TextTokenizer(const Model &model, const TokenizeOptions &options)
    : model_(model), options_(options), prefix_(options.add_special ? model.prefix() : std::vector<int32_t>()),
      suffix_(suffix_of(model, options)), cutter_(
                                              [this](std::string_view text, std::vector<int32_t> &ids) {
                                                  model_.backend().tokenize(text, false, options_.parse_special, ids);
                                              },
                                              limited() ? model.backend().seams(options.parse_special) : nullptr) {
    if (options.end_token >= model.facts().n_vocab) {
        throw Error(GGE_E_INVALID, "end_token is " + std::to_string(options.end_token) + ", the vocabulary has " +
                                       std::to_string(model.facts().n_vocab) + " tokens");
    }
    if (limited() && max_tokens() <= n_special()) {
        throw Error(GGE_E_INVALID, "max_tokens is " + std::to_string(options.max_tokens) + ", but " +
                                       std::to_string(n_special()) + " special tokens go around every text");
    }
}

void TextTokenizer::add(std::string_view text, int64_t i, Tokens &tokens) {
    report(i, false, 0);
    const std::string fault = find_fault(text, options_.prompt.size());
    if (!fault.empty()) {
        throw Error(GGE_E_INVALID, "text " + std::to_string(i) + " " + fault, i);
    }
    const PromptedText prompted(options_.prompt, text);
    TokenRun run = tokens_of(prompted);
    const bool fits = !limited() || run.ids.size() <= room();
    report(i, !fits && options_.overflow != Overflow::error, run.ids.size() + n_special());
    if (!fits) {
        cut(prompted, i, run);
    }
    for (const std::vector<int32_t> *ids : {&prefix_, &std::as_const(run.ids), &suffix_}) {
        tokens.ids.insert(tokens.ids.end(), ids->begin(), ids->end());
    }
}

void TextTokenizer::report(int64_t i, bool truncated, size_t n_tokens) const {
    if (options_.truncated != nullptr) {
        options_.truncated[i] = truncated ? 1 : 0;
    }
    if (options_.n_tokens_original != nullptr) {
        options_.n_tokens_original[i] = static_cast<int64_t>(n_tokens);
    }
}

// As many as it takes to know whether there is room, and to fill it.
TokenRun TextTokenizer::tokens_of(const PromptedText &text) const {
    const bool counted = options_.n_tokens_original != nullptr ||
                         (options_.overflow == Overflow::error && text.size() <= max_counted_bytes);
    if (!limited() || counted) {
        return cutter_.all(text);
    }
    return options_.overflow == Overflow::truncate_start ? cutter_.last(text, room() + 1)
                                                         : cutter_.first(text, room() + 1);
}

// run: more tokens than there is room for.
void TextTokenizer::cut(const PromptedText &text, int64_t i, TokenRun &run) {
    const bool from_start = options_.overflow == Overflow::truncate_start;
    const bool has_begin = run.all || !from_start || prompt_ids().empty();
    const TokenRun head = has_begin ? TokenRun() : cutter_.first(text, prompt_ids().size());
    const std::vector<int32_t> &begin = has_begin ? run.ids : head.ids;
    const size_t n_prompt = n_common(prompt_ids(), begin);
    if (n_prompt >= room()) {
        throw Error(GGE_E_INVALID, "the prompt has " + std::to_string(n_prompt + n_special()) +
                                       " tokens with the special ones, which leaves no room for text: max_tokens is " +
                                       std::to_string(options_.max_tokens));
    }
    if (options_.overflow == Overflow::error) {
        const std::string n =
            run.all ? std::to_string(run.ids.size() + n_special()) : "more than " + std::to_string(options_.max_tokens);
        throw Error(GGE_E_TOO_LONG,
                    "text " + std::to_string(i) + " has " + n + " tokens, max_tokens is " +
                        std::to_string(options_.max_tokens),
                    i);
    }
    if (from_start) {
        const auto n_kept = static_cast<std::ptrdiff_t>(n_prompt);
        std::vector<int32_t> kept(begin.begin(), begin.begin() + n_kept);
        kept.insert(kept.end(), run.ids.end() - (static_cast<std::ptrdiff_t>(room()) - n_kept), run.ids.end());
        run.ids = std::move(kept);
    }
    run.ids.resize(room());
}

const std::vector<int32_t> &TextTokenizer::prompt_ids() {
    if (!prompt_ids_) {
        prompt_ids_ = cutter_.all(PromptedText("", options_.prompt)).ids;
    }
    return *prompt_ids_;
}

} // namespace gge
