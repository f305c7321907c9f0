// A template's own text -> its special tokens and what stands between them. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gge {

using SpecialTokens = std::vector<std::pair<std::string, int32_t>>; // as BackendModel.special_tokens() gives them

// A special token, or text between two.
struct TemplatePiece {
    int32_t token = -1;
    std::string text;
};

// Cuts text at special tokens, one kind after the other as upstream does. No piece is empty.
std::vector<TemplatePiece> split_special(std::string_view text, const SpecialTokens &special_tokens);

} // namespace gge
