// An input becomes a layout: tokens, texts between two of them, and rows of media. A text is tokenised as one string,
// whatever it was joined from, since merges reach across its joints: "Document: " and "<0.0 seconds>" share a token.
// What a user gives is never read for special tokens. Those around media come from the vocabulary, by their names.
#include "parts.h"

#include "inputs.h"
#include "template_text.h"
#include "text_tokenizer.h"

#include <algorithm>
#include <iomanip>
#include <locale>
#include <sstream>

namespace gge {
namespace {

// The tokens around a medium, or none.
struct Wrapper {
    int32_t begin = -1;
    int32_t end = -1;

    bool known() const noexcept { return begin >= 0; }
};

Wrapper find_wrapper(const SpecialTokens &special_tokens, std::string_view begin, std::string_view end) {
    const auto find = [&](std::string_view name) {
        const auto found = std::find_if(special_tokens.begin(), special_tokens.end(),
                                        [&](const auto &token) { return token.first == name; });
        return found == special_tokens.end() ? -1 : found->second;
    };
    const Wrapper wrapper = {find(begin), find(end)};
    return wrapper.begin >= 0 && wrapper.end >= 0 ? wrapper : Wrapper();
}

// A token, a text between two, or the rows of a unit of a medium.
struct Item {
    int32_t token = -1;
    std::string text;
    std::shared_ptr<const Media> media;
    size_t i_unit = 0;
    bool vision = false; // a unit of an image or video, or a token around it

    bool is_text() const noexcept { return token < 0 && media == nullptr; }
};

using Layout = std::vector<Item>;

void add_token(Layout &layout, int32_t token, bool vision = false) {
    Item item;
    item.token = token;
    item.vision = vision;
    layout.push_back(std::move(item));
}

void add_text(Layout &layout, std::string_view text) {
    if (text.empty()) {
        return;
    }
    if (layout.empty() || !layout.back().is_text()) {
        layout.emplace_back();
    }
    layout.back().text += text;
}

void add_unit(Layout &layout, const std::shared_ptr<const Media> &media, size_t i_unit, const Wrapper &wrapper) {
    const bool vision = media->modality() == GGE_MODALITY_VISION;
    if (wrapper.known()) {
        add_token(layout, wrapper.begin, vision);
    }
    Item item;
    item.media = media;
    item.i_unit = i_unit;
    item.vision = vision;
    layout.push_back(std::move(item));
    if (wrapper.known()) {
        add_token(layout, wrapper.end, vision);
    }
}

// When a pair of frames is shown.
std::string time_stamp(double seconds) {
    std::ostringstream text;
    text.imbue(std::locale::classic()); // the host's may want a comma
    text << '<' << std::fixed << std::setprecision(1) << seconds << " seconds>";
    return text.str();
}

// Whether an encoder takes what was made for another.
bool takes(const TowerFacts &a, const TowerFacts &b) {
    return a.modality == b.modality && a.n_embd == b.n_embd && a.patch_size == b.patch_size &&
           a.merge_size == b.merge_size && a.n_mel_bins == b.n_mel_bins;
}

std::string kind_of(const Media &media) {
    return media.modality() == GGE_MODALITY_AUDIO ? "a sound" : media.is_video() ? "a video" : "an image";
}

// The tokens of one input, counted from its first.
struct InputTokens {
    std::vector<int32_t> ids;
    std::vector<MediaSpan> media;
    PooledRows vision; // from the first token around an image through the last
};

class PartsTokenizer {
public:
    PartsTokenizer(const Model &model, const TokenizeOptions &options, bool uses_special)
        : model_(model), options_(options), texts_(model, options) {
        if (uses_special) {
            special_tokens_ = model.backend().special_tokens();
            vision_ = find_wrapper(special_tokens_, "<|vision_start|>", "<|vision_end|>");
            audio_ = find_wrapper(special_tokens_, "<|audio_start|>", "<|audio_end|>");
            if (!audio_.known()) {
                audio_ = find_wrapper(special_tokens_, "<|audio_bos|>", "<|audio_eos|>");
            }
        }
    }

    // Appends the tokens of input i.
    void add(const InputPart *begin, const InputPart *end, int64_t i, Tokens &tokens) {
        if (end - begin == 1 && begin->kind == GGE_PART_TEXT) {
            texts_.add(begin->text, i, tokens);
            return;
        }
        texts_.report(i, false, 0);
        check(begin, end, i);
        Layout layout = make_layout(begin, end);
        if (layout.empty() || (layout.size() == 1 && layout[0].is_text())) {
            texts_.add(layout.empty() ? "" : layout[0].text, i, tokens);
        } else {
            add_prompt(layout);
            append(tokenize(layout), i, tokens);
        }
    }

private:
    [[noreturn]] static void fail(gge_status status, int64_t i, const std::string &what) {
        throw Error(status, "input " + std::to_string(i) + " has " + what, i);
    }

    void check(const InputPart *begin, const InputPart *end, int64_t i) const {
        size_t n_bytes = options_.prompt.size();
        for (const InputPart *part = begin; part != end; ++part) {
            if (part->kind == GGE_PART_MEDIA) {
                check_media(*part->media, i);
                continue;
            }
            if (const std::string fault = find_fault(part->text, n_bytes); !fault.empty()) {
                fail(GGE_E_INVALID, i, "a text that " + fault);
            }
            n_bytes += part->text.size();
        }
    }

    void check_media(const Media &media, int64_t i) const {
        const std::string kind = kind_of(media);
        if (!model_.facts().cannot_take_rows.empty()) {
            fail(GGE_E_UNSUPPORTED, i, kind + ", but " + model_.facts().cannot_take_rows);
        }
        const auto &towers = model_.backend().towers();
        if (std::none_of(towers.begin(), towers.end(),
                         [&](const auto &tower) { return takes(tower->facts(), media.tower()); })) {
            fail(GGE_E_INVALID, i, kind + " that was made for another encoder than the model's");
        }
        if (media.modality() == GGE_MODALITY_AUDIO && !audio_.known()) {
            fail(GGE_E_UNSUPPORTED, i,
                 kind + ", but the vocabulary has neither <|audio_start|> and <|audio_end|> nor <|audio_bos|> and "
                        "<|audio_eos|> as special tokens");
        }
    }

    Layout make_layout(const InputPart *begin, const InputPart *end) const {
        Layout layout;
        for (const InputPart *part = begin; part != end; ++part) {
            if (part->kind == GGE_PART_TEXT) {
                add_text(layout, part->text);
            } else if (part->kind == GGE_PART_MEDIA) {
                add_media(layout, part->media);
            } else {
                add_template(layout, part->text);
            }
        }
        return layout;
    }

    void add_template(Layout &layout, std::string_view text) const {
        for (const TemplatePiece &piece : split_special(text, special_tokens_)) {
            if (piece.token >= 0) {
                add_token(layout, piece.token);
            } else {
                add_text(layout, piece.text);
            }
        }
    }

    void add_media(Layout &layout, const std::shared_ptr<const Media> &media) const {
        const Wrapper &wrapper = media->modality() == GGE_MODALITY_AUDIO ? audio_ : vision_;
        for (size_t u = 0; u < media->units().size(); ++u) {
            if (media->is_video() && wrapper.known()) {
                add_text(layout, time_stamp(media->units()[u].seconds));
            }
            add_unit(layout, media, u, wrapper);
        }
    }

    // An input that begins with the prompt has it already.
    void add_prompt(Layout &layout) const {
        if (options_.prompt.empty()) {
            return;
        }
        if (!layout[0].is_text()) {
            layout.emplace(layout.begin());
        }
        PromptedText(options_.prompt, std::string(layout[0].text)).whole([&](std::string_view text) {
            layout[0].text = text;
        });
    }

    InputTokens tokenize(const Layout &layout) const {
        InputTokens tokens;
        tokens.ids = texts_.prefix();
        for (const Item &item : layout) {
            const auto begin = static_cast<int64_t>(tokens.ids.size());
            if (item.token >= 0) {
                tokens.ids.push_back(item.token);
            } else if (item.media == nullptr) {
                model_.backend().tokenize(item.text, false, false, tokens.ids);
            } else {
                const int64_t n_rows = item.media->units()[item.i_unit].n_rows;
                tokens.media.push_back({begin, n_rows, item.media, item.i_unit});
                tokens.ids.insert(tokens.ids.end(), static_cast<size_t>(n_rows), -1);
            }
            if (item.vision) {
                tokens.vision.begin = tokens.vision.end == 0 ? begin : tokens.vision.begin;
                tokens.vision.end = static_cast<int64_t>(tokens.ids.size());
            }
        }
        tokens.ids.insert(tokens.ids.end(), texts_.suffix().begin(), texts_.suffix().end());
        return tokens;
    }

    void append(InputTokens input, int64_t i, Tokens &tokens) const {
        texts_.report(i, false, input.ids.size());
        if (options_.max_tokens > 0 && static_cast<int64_t>(input.ids.size()) > options_.max_tokens) {
            fail(GGE_E_TOO_LONG, i,
                 std::to_string(input.ids.size()) + " tokens, max_tokens is " + std::to_string(options_.max_tokens));
        }
        for (MediaSpan &span : input.media) {
            span.begin += static_cast<int64_t>(tokens.ids.size());
            tokens.media.push_back(std::move(span));
        }
        tokens.ids.insert(tokens.ids.end(), input.ids.begin(), input.ids.end());
        // jina-embeddings-v4 has no mean over the text around its images
        if (model_.facts().architecture == "qwen2vl" && input.vision.end > 0) {
            tokens.pooled[i] = input.vision;
        }
    }

    const Model &model_;
    const TokenizeOptions &options_;
    TextTokenizer texts_;
    SpecialTokens special_tokens_;
    Wrapper vision_;
    Wrapper audio_;
};

// Positions as Qwen2.5-VL has them: rows of an image share a time and differ in place, what follows goes on behind the
// largest number of the three; other rows and tokens count on.
void add_positions(Tokens &tokens) {
    tokens.positions.resize(tokens.ids.size());
    auto span = tokens.media.begin();
    for (int64_t i = 0; i < tokens.n_texts(); ++i) {
        int32_t next = 0;
        for (int64_t t = tokens.offsets[static_cast<size_t>(i)]; t < tokens.offsets[static_cast<size_t>(i) + 1];) {
            const bool is_media = span != tokens.media.end() && span->begin == t;
            const MediaUnit *unit = is_media ? &span->media->units()[span->i_unit] : nullptr;
            const int64_t n = is_media ? span->n_rows : 1;
            const bool is_grid = is_media && span->media->modality() == GGE_MODALITY_VISION;
            for (int64_t r = 0; r < n; ++r) {
                const auto row = static_cast<int32_t>(r);
                tokens.positions[static_cast<size_t>(t + r)] =
                    is_grid ? GridPosition{next, next + row / unit->rows_wide, next + row % unit->rows_wide}
                            : GridPosition{next + row, next + row, next + row};
            }
            next += is_grid ? std::max(unit->rows_wide, unit->rows_high) : static_cast<int32_t>(n);
            t += n;
            span += is_media ? 1 : 0;
        }
    }
}

} // namespace

Tokens tokenize_parts(std::shared_ptr<const Model> model, const std::vector<InputPart> &parts,
                      const std::vector<int64_t> &offsets, const TokenizeOptions &options) {
    check_tokenizer(*model, options);
    TokenizeOptions own = options;
    own.parse_special = false;
    const bool uses_special =
        std::any_of(parts.begin(), parts.end(), [](const InputPart &part) { return part.kind != GGE_PART_TEXT; });
    size_t n_bytes = 0;
    for (const InputPart &part : parts) {
        n_bytes += part.text.size();
    }
    Tokens tokens = add_inputs(static_cast<int64_t>(offsets.size()) - 1, n_bytes, own, [&]() -> AddInput {
        const auto tokenizer = std::make_shared<PartsTokenizer>(*model, own, uses_special);
        return [tokenizer, &parts, &offsets](int64_t i, Tokens &to) {
            tokenizer->add(parts.data() + offsets[static_cast<size_t>(i)],
                           parts.data() + offsets[static_cast<size_t>(i) + 1], i, to);
        };
    });
    if (model->facts().has_mrope && !tokens.media.empty()) {
        add_positions(tokens);
    }
    report_inputs(tokens, options);
    tokens.model = std::move(model);
    return tokens;
}

} // namespace gge
