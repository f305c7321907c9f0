#include "tokens.h"

#include "inputs.h"
#include "text_tokenizer.h"

#include <algorithm>

namespace gge {

int64_t Tokens::n_media(int64_t i) const noexcept {
    const auto from = [&](int64_t text) {
        return std::lower_bound(media.begin(), media.end(), offsets[static_cast<size_t>(text)],
                                [](const MediaSpan &span, int64_t at) { return span.begin < at; });
    };
    return from(i + 1) - from(i);
}

std::string Tokens::name(int64_t i) const {
    return (n_media(i) > 0 ? "input " : "text ") + std::to_string(i);
}

void report_inputs(const Tokens &tokens, const TokenizeOptions &options) {
    const InputReport &report = options.report;
    if (report.status != nullptr) {
        std::copy(tokens.status.begin(), tokens.status.end(), report.status);
    }
    for (const auto &[i, message] : tokens.messages) {
        if (report.on_error != nullptr) {
            report.on_error(options.callbacks.user_data, i, tokens.status[static_cast<size_t>(i)], message.c_str());
        }
    }
}

void check_tokenizer(const Model &model, const TokenizeOptions &options) {
    if (!model.facts().has_tokenizer) {
        throw Error(GGE_E_UNSUPPORTED, "the model file has no tokenizer, only token ids can be encoded");
    }
    const size_t bad = find_invalid_utf8(options.prompt);
    if (bad != std::string_view::npos) {
        throw Error(GGE_E_INVALID, "the prompt is not valid UTF-8 at byte " + std::to_string(bad));
    }
}

Tokens tokenize(std::shared_ptr<const Model> model, const Texts &texts, const TokenizeOptions &options) {
    check_tokenizer(*model, options);
    Tokens tokens = add_inputs(texts.size(), texts.n_bytes(), options, [&]() -> AddInput {
        const auto tokenizer = std::make_shared<TextTokenizer>(*model, options);
        return [tokenizer, &texts](int64_t i, Tokens &to) { tokenizer->add(texts[i], i, to); };
    });
    report_inputs(tokens, options);
    tokens.model = std::move(model);
    return tokens;
}

Tokens take_ids(std::shared_ptr<const Model> model, const int32_t *ids, const int64_t *offsets, int64_t n_texts) {
    check_offsets(offsets, n_texts);
    const int64_t begin = offsets[0];
    const int64_t end = offsets[n_texts];
    Tokens tokens;
    if (end > begin) {
        if (ids == nullptr) {
            throw Error(GGE_E_INVALID, "ids is NULL, but offsets reach " + std::to_string(end));
        }
        tokens.ids.assign(ids + begin, ids + end);
    }
    tokens.offsets.reserve(static_cast<size_t>(n_texts) + 1);
    for (int64_t i = 0; i <= n_texts; ++i) {
        tokens.offsets.push_back(offsets[i] - begin);
    }
    tokens.status.assign(static_cast<size_t>(n_texts), GGE_OK);

    const int32_t n_vocab = model->facts().n_vocab;
    const auto bad =
        std::find_if(tokens.ids.begin(), tokens.ids.end(), [&](int32_t id) { return id < 0 || id >= n_vocab; });
    if (bad != tokens.ids.end()) {
        const auto after = std::upper_bound(tokens.offsets.begin(), tokens.offsets.end(), bad - tokens.ids.begin());
        const int64_t i = after - tokens.offsets.begin() - 1;
        throw Error(GGE_E_INVALID,
                    "text " + std::to_string(i) + " has token id " + std::to_string(*bad) + ", the vocabulary has " +
                        std::to_string(n_vocab) + " tokens",
                    i);
    }
    tokens.model = std::move(model);
    return tokens;
}

} // namespace gge
