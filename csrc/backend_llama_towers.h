// Projector files and the towers in them (docs/adr/0010).
#pragma once

#include "backend.h"

namespace gge {

// Loads the towers of options.mmproj for a text model with rows of n_embd values, vision first. Throws Error.
std::vector<std::unique_ptr<BackendTower>> load_towers(const LoadOptions &options, const Device &device,
                                                       int32_t n_embd);

// What the towers and a session of each would hold after passes of that many rows, without loading the weights. Throws
// Error as load_towers does.
gge_memory estimate_towers(const Device &device, const LoadOptions &options, int32_t n_embd, int64_t n_tower_batch);

} // namespace gge
