// The parts of _ggembed_internals that stand in files of their own.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

// Of those that this CPU has for a type of weights.
size_t index_of_kernel(const std::string &type, const std::string &name);

void bind_attention(pybind11::module_ &m);
void bind_matmul(pybind11::module_ &m);
void bind_devices(pybind11::module_ &m);
void bind_media(pybind11::module_ &m);
void bind_products(pybind11::module_ &m);
void bind_towers(pybind11::module_ &m);
