// The inputs of a call -> token ids, on several threads where that is worth it.
#pragma once

#include "tokens.h"

#include <functional>

namespace gge {

// Appends the ids of input i to tokens, or throws an error; one that names i is the input's own.
using AddInput = std::function<void(int64_t i, Tokens &tokens)>;

// The tokens of n inputs with n_bytes of text, without their model. make: gives each thread its own; it is called on
// the thread of the caller, who may be left with an exception of it. Throws what a single thread would throw.
Tokens add_inputs(int64_t n, size_t n_bytes, const TokenizeOptions &options, const std::function<AddInput()> &make);

} // namespace gge
