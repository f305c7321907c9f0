#include "parts.h"

namespace gge {

Tokens tokenize_parts(std::shared_ptr<const Model>, const std::vector<InputPart> &, const std::vector<int64_t> &,
                      const TokenizeOptions &) {
    throw Error(GGE_E_UNSUPPORTED, "inputs of several parts are not built yet");
}

} // namespace gge
