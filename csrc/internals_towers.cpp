// Towers of projector files for tests in Python.
#include "internals.h"
#include "model.h"

void bind_towers(pybind11::module_ &) {}
