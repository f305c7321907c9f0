// Sizes, resizing, mel spectrograms for tests in Python.
#include "internals.h"
#include "media.h"
#include "mel.h"
#include "resize.h"

void bind_media(pybind11::module_ &) {}
