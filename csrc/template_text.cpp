#include "template_text.h"

namespace gge {

std::vector<TemplatePiece> split_special(std::string_view text, const SpecialTokens &special_tokens) {
    std::vector<TemplatePiece> pieces;
    if (!text.empty()) {
        pieces.push_back({-1, std::string(text)});
    }
    for (const auto &[special, id] : special_tokens) {
        std::vector<TemplatePiece> cut;
        for (TemplatePiece &piece : pieces) {
            if (piece.token >= 0) {
                cut.push_back(std::move(piece));
                continue;
            }
            const std::string &rest = piece.text;
            size_t at = 0;
            for (size_t found; (found = rest.find(special, at)) != std::string::npos; at = found + special.size()) {
                if (found > at) {
                    cut.push_back({-1, rest.substr(at, found - at)});
                }
                cut.push_back({id, {}});
            }
            if (at < rest.size()) {
                cut.push_back({-1, rest.substr(at)});
            }
        }
        pieces = std::move(cut);
    }
    return pieces;
}

} // namespace gge
