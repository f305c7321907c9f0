#include "backend_llama_towers.h"

namespace gge {

std::vector<std::unique_ptr<BackendTower>> load_towers(const std::vector<std::string> &paths, const Device &, bool,
                                                       int32_t) {
    if (!paths.empty()) {
        throw Error(GGE_E_UNSUPPORTED, "projector files are not built yet");
    }
    return {};
}

} // namespace gge
