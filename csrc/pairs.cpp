// A layout says what a pair looks like: tokens, and runs of text with the query and the document in them. A run is
// tokenised as one string, since merges reach across its joints: in "<Query>: what", " what" is one token. What a user
// gives is never read for special tokens; the template's own text is, when the layout is made.
#include "pairs.h"

#include "inputs.h"
#include "template_text.h"

#include <algorithm>
#include <array>

namespace gge {
namespace {

enum class Role { text, query, document };

struct Span {
    Role role = Role::text;
    std::string text; // of role text
};

// A token, or a run of spans between two tokens.
struct Part {
    int32_t token = -1;
    std::vector<Span> run;
};

using Layout = std::vector<Part>;

struct Pair {
    std::string_view query;
    std::string_view document;
};

// Cuts a template at its marks.
std::vector<Span> split_marks(const std::string &text) {
    static const std::array<std::pair<std::string, Role>, 2> marks = {
        {{"{query}", Role::query}, {"{document}", Role::document}}};
    std::vector<Span> spans;
    std::array<int, 2> n_found = {0, 0};
    for (size_t at = 0; at < text.size();) {
        size_t end = std::string::npos;
        size_t next = 0;
        for (size_t m = 0; m < marks.size(); ++m) {
            if (const size_t found = text.find(marks[m].first, at); found < end) {
                end = found;
                next = m;
            }
        }
        if (end != at) {
            spans.push_back({Role::text, text.substr(at, end - at)});
        }
        if (end == std::string::npos) {
            break;
        }
        spans.push_back({marks[next].second, ""});
        ++n_found[next];
        at = end + marks[next].first.size();
    }
    if (n_found[0] != 1 || n_found[1] != 1) {
        throw Error(GGE_E_FORMAT,
                    "the file's tokenizer.chat_template.rerank must hold {query} and {document} once each");
    }
    return spans;
}

void append(Layout &layout, Part part) {
    if (part.token < 0 && !layout.empty() && layout.back().token < 0) {
        std::move(part.run.begin(), part.run.end(), std::back_inserter(layout.back().run));
    } else {
        layout.push_back(std::move(part));
    }
}

Layout template_layout(const std::string &text, const SpecialTokens &special_tokens) {
    Layout layout;
    for (Span &span : split_marks(text)) {
        if (span.role != Role::text) {
            append(layout, {-1, {std::move(span)}});
            continue;
        }
        for (TemplatePiece &piece : split_special(span.text, special_tokens)) {
            append(layout, piece.token >= 0 ? Part{piece.token, {}} : Part{-1, {{Role::text, std::move(piece.text)}}});
        }
    }
    return layout;
}

Layout default_layout(const Model &model) {
    Layout layout;
    const auto append_tokens = [&](const std::vector<int32_t> &ids) {
        for (const int32_t id : ids) {
            layout.push_back({id, {}});
        }
    };
    append_tokens(model.prefix());
    layout.push_back({-1, {{Role::query, ""}}});
    append_tokens(model.suffix());
    if (model.facts().pair_has_sep) {
        append_tokens({model.facts().token_sep});
    }
    if (layout.back().token < 0) {
        throw Error(GGE_E_UNSUPPORTED,
                    "the file has no template for pairs, and its vocabulary no token that ends a text");
    }
    layout.push_back({-1, {{Role::document, ""}}});
    append_tokens(model.suffix());
    return layout;
}

Layout make_layout(const Model &model) {
    const std::string &text = model.facts().pair_template;
    return text.empty() ? default_layout(model) : template_layout(text, model.backend().special_tokens());
}

std::string join(std::vector<Span>::const_iterator begin, std::vector<Span>::const_iterator end, const Pair &pair) {
    std::string text;
    for (; begin != end; ++begin) {
        text += begin->role == Role::query      ? pair.query
                : begin->role == Role::document ? pair.document
                                                : std::string_view(begin->text);
    }
    return text;
}

auto find_document(const std::vector<Span> &run) {
    return std::find_if(run.begin(), run.end(), [](const Span &span) { return span.role == Role::document; });
}

// The tokens of one pair, and the run that holds the document.
struct PairTokens {
    std::vector<int32_t> ids;
    const std::vector<Span> *run = nullptr;
    size_t run_begin = 0; // its place in ids
    size_t run_end = 0;
};

PairTokens tokenize_pair(const Model &model, const Layout &layout, const Pair &pair) {
    PairTokens tokens;
    for (const Part &part : layout) {
        if (part.token >= 0) {
            tokens.ids.push_back(part.token);
            continue;
        }
        const size_t begin = tokens.ids.size();
        model.backend().tokenize(join(part.run.begin(), part.run.end(), pair), false, false, tokens.ids);
        if (find_document(part.run) != part.run.end()) {
            tokens.run = &part.run;
            tokens.run_begin = begin;
            tokens.run_end = tokens.ids.size();
        }
    }
    return tokens;
}

// The tokens of the document: those of its run, less what the text around it has in common with them at the ends. A
// token that reaches across a joint belongs to the document.
std::pair<size_t, size_t> find_document_tokens(const Model &model, const PairTokens &tokens, const Pair &pair) {
    const auto document = find_document(*tokens.run);
    std::vector<int32_t> before;
    std::vector<int32_t> after;
    model.backend().tokenize(join(tokens.run->begin(), document, pair), false, false, before);
    model.backend().tokenize(join(document + 1, tokens.run->end(), pair), false, false, after);
    const auto first = tokens.ids.begin() + static_cast<std::ptrdiff_t>(tokens.run_begin);
    const auto last = tokens.ids.begin() + static_cast<std::ptrdiff_t>(tokens.run_end);
    const auto begin = std::mismatch(first, last, before.begin(), before.end()).first;
    const auto end =
        std::mismatch(std::make_reverse_iterator(last), std::make_reverse_iterator(begin), after.rbegin(), after.rend())
            .first.base();
    return {static_cast<size_t>(begin - tokens.ids.begin()), static_cast<size_t>(end - tokens.ids.begin())};
}

// Cuts the document so that the pair has max_tokens.
void cut(const Model &model, PairTokens &tokens, const Pair &pair, const TokenizeOptions &options) {
    const auto [begin, end] = find_document_tokens(model, tokens, pair);
    const size_t n_over = tokens.ids.size() - static_cast<size_t>(options.max_tokens);
    if (end - begin <= n_over) {
        throw Error(GGE_E_TOO_LONG, "has " + std::to_string(tokens.ids.size() - (end - begin)) +
                                        " tokens without its document, which leaves none of max_tokens " +
                                        std::to_string(options.max_tokens) + " for it");
    }
    const auto from = tokens.ids.begin() +
                      static_cast<std::ptrdiff_t>(options.overflow == Overflow::truncate_start ? begin : end - n_over);
    tokens.ids.erase(from, from + static_cast<std::ptrdiff_t>(n_over));
}

void check_text(const char *name, std::string_view text, size_t other_bytes) {
    if (const std::string fault = find_fault(text, other_bytes); !fault.empty()) {
        throw Error(GGE_E_INVALID, std::string("has a ") + name + " that " + fault);
    }
}

// What becomes of one pair.
struct Outcome {
    std::vector<int32_t> ids;
    int64_t n_original = 0; // tokens before cutting
    gge_status status = GGE_OK;
    std::string why;
};

Outcome run_pair(const Model &model, const Layout &layout, const Pair &pair, const TokenizeOptions &options) {
    Outcome outcome;
    try {
        const size_t n_template = model.facts().pair_template.size();
        check_text("query", pair.query, n_template);
        check_text("document", pair.document, n_template + pair.query.size());
        PairTokens tokens = tokenize_pair(model, layout, pair);
        outcome.n_original = static_cast<int64_t>(tokens.ids.size());
        if (options.max_tokens > 0 && outcome.n_original > options.max_tokens) {
            if (options.overflow == Overflow::error) {
                throw Error(GGE_E_TOO_LONG, "has " + std::to_string(outcome.n_original) + " tokens, max_tokens is " +
                                                std::to_string(options.max_tokens));
            }
            cut(model, tokens, pair, options);
        }
        outcome.ids = std::move(tokens.ids);
    } catch (const Error &e) {
        if (e.status() != GGE_E_INVALID && e.status() != GGE_E_TOO_LONG) {
            throw; // the pair is not at fault
        }
        outcome.status = e.status();
        outcome.why = e.what();
    }
    return outcome;
}

} // namespace

Tokens tokenize_pairs(std::shared_ptr<const Model> model, const Texts &texts, const TokenizeOptions &options) {
    if (!model->facts().has_tokenizer) {
        throw Error(GGE_E_UNSUPPORTED, "the model file has no tokenizer, only token ids can be encoded");
    }
    if (model->facts().n_cls_out == 0) {
        throw Error(GGE_E_UNSUPPORTED, model->facts().cannot_rank);
    }
    const Layout layout = make_layout(*model);
    const AddInput add = [&](int64_t i, Tokens &to) {
        const Outcome outcome = run_pair(*model, layout, {texts[2 * i], texts[2 * i + 1]}, options);
        if (options.truncated != nullptr) {
            options.truncated[i] =
                outcome.status == GGE_OK && static_cast<int64_t>(outcome.ids.size()) < outcome.n_original ? 1 : 0;
        }
        if (options.n_tokens_original != nullptr) {
            options.n_tokens_original[i] = outcome.n_original;
        }
        if (outcome.status != GGE_OK) {
            throw Error(outcome.status, "pair " + std::to_string(i) + " " + outcome.why, i);
        }
        to.ids.insert(to.ids.end(), outcome.ids.begin(), outcome.ids.end());
    };
    Tokens tokens = add_inputs(texts.size() / 2, texts.n_bytes(), options, [&] { return add; });
    report_inputs(tokens, options);
    tokens.model = std::move(model);
    return tokens;
}

} // namespace gge
