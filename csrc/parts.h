// Inputs made of texts and media -> token ids, places of media rows, positions.
#pragma once

#include "media.h"
#include "tokens.h"

namespace gge {

// A piece of an input.
struct InputPart {
    gge_part_kind kind = GGE_PART_TEXT;
    std::string_view text;
    std::shared_ptr<const Media> media;
};

// The parts of input i are parts[offsets[i]] to parts[offsets[i + 1] - 1]; parse_special is not used.
Tokens tokenize_parts(std::shared_ptr<const Model> model, const std::vector<InputPart> &parts,
                      const std::vector<int64_t> &offsets, const TokenizeOptions &options);

} // namespace gge
