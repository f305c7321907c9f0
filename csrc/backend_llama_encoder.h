// Projector files. Private to the backend_llama*.cpp files.
#pragma once

#include "backend.h"

namespace gge {

// Loads the towers of projector files for a text model with rows of n_embd values, vision first. Throws Error.
std::vector<std::unique_ptr<BackendTower>> load_towers(const std::vector<std::string> &paths, const Device &device,
                                                       bool mmap, int32_t n_embd);

} // namespace gge
