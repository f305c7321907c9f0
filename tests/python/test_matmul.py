"""The kernels for matrices against products of the weights as gguf's own Python code reads them."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

FLOATS = ("F16", "BF16")
BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
SUPERBLOCKS = ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
QUANTISED = BLOCKS + SUPERBLOCKS
# Where the halves stand in a block: those of scales are positive, those of mins any.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
}


@pytest.fixture(params=QUANTISED + FLOATS)
def kind(request, internals):
    if internals.matmul_kernel(request.param) is None:
        pytest.skip(f"no kernel of ours for {request.param} on this CPU")
    return request.param


def depths(kind: str) -> tuple[int, ...]:
    """Lengths of rows that a file may have."""
    if kind in FLOATS:
        return 2, 1, 15, 16, 33, 250
    return (256, 768) if kind in SUPERBLOCKS else (32, 96, 320)


def weights(kind: str, n_out: int, n_in: int, scale: float = 0.01) -> tuple[bytes, np.ndarray]:
    """Weights as a file has them, and their values: any bits, with scales of one size."""
    draw = np.random.default_rng(n_out * 1000 + n_in)
    if kind == "F16":
        halves = draw.standard_normal((n_out, n_in)).astype(np.float16)
        return halves.tobytes(), halves.astype(np.float64)
    if kind == "BF16":
        bits = (draw.standard_normal((n_out, n_in)).astype(np.float32).view(np.uint32) >> 16) << 16
        return (bits >> 16).astype(np.uint16).tobytes(), bits.view(np.float32).astype(np.float64)
    per_block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = draw.integers(0, 256, (n_out * n_in // per_block, n_bytes), dtype=np.uint8)
    for at in HALVES[kind]:
        halves = (scale * draw.uniform(0.1, 1, len(blocks))).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    values = dequantize(blocks.reshape(n_out, -1), GGMLQuantizationType[kind])
    return blocks.tobytes(), values.astype(np.float64)


def as_the_kernel_reads(kind: str, rows: np.ndarray) -> np.ndarray:
    """Activations rounded to bfloat16, or to bytes with a scale for each block of 32."""
    if kind in FLOATS:
        bits = rows.view(np.uint32).astype(np.uint64)
        return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)
    blocks = rows.reshape(len(rows), -1, 32)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    steps = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * steps) * (largest / np.float32(127))).reshape(rows.shape)


def rounded_weights(kind: str, values: np.ndarray) -> np.ndarray:
    """What is lost of halves when they become bfloat16."""
    return as_the_kernel_reads(kind, values.astype(np.float32)) if kind == "F16" else values


def activations(n_tokens: int, n_in: int) -> np.ndarray:
    return np.random.default_rng(n_in).standard_normal((n_tokens, n_in)).astype(np.float32)


def exact(kind: str, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    read = as_the_kernel_reads(kind, rows).astype(np.float64)
    return read @ rounded_weights(kind, values).astype(np.float64).T


# Sums of floats in another order, and scales of 11 bits beside a power of two for each row.
def assert_near(
    found: np.ndarray, wanted: np.ndarray, rows: np.ndarray, values: np.ndarray
) -> None:
    size = np.abs(rows).astype(np.float64) @ np.abs(values).T
    assert np.all(np.abs(found - wanted) <= 5e-4 * size + 1e-30)
    assert np.linalg.norm(found - wanted) <= 5e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("n_out", [1, 16, 31, 32, 33, 95])
def test_products_are_those_of_the_weights(kind, n_out, internals):
    for n_in in depths(kind):
        packed, values = weights(kind, n_out, n_in)
        rows = activations(17, n_in)
        found = internals.Matmul(kind, packed, n_out, n_in).run(rows)
        assert_near(found, exact(kind, rows, values), rows, values)


def test_a_product_has_the_same_bits_in_any_company_and_division(kind, internals):
    n_in, n_out = depths(kind)[-1], 70
    rows = activations(41, n_in)
    matmul = internals.Matmul(kind, weights(kind, n_out, n_in)[0], n_out, n_in)
    together = matmul.run(rows)
    for n_tokens in range(1, 20):
        np.testing.assert_array_equal(matmul.run(rows[:n_tokens]), together[:n_tokens])
    np.testing.assert_array_equal(matmul.run(rows[::-1].copy())[::-1], together)
    for panel_step, token_step in ((1, 3), (2, 14), (3, 5)):
        found = matmul.run(rows, panel_step=panel_step, token_step=token_step)
        np.testing.assert_array_equal(found, together)


def test_rows_of_zeros_give_zeros(kind, internals):
    n_in = depths(kind)[0]
    packed, _ = weights(kind, 40, n_in)
    found = internals.Matmul(kind, packed, 40, n_in).run(np.zeros((3, n_in), np.float32))
    assert not found.any()


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e4, 1e30])
def test_activations_of_any_size_are_multiplied(kind, size, internals):
    n_in = depths(kind)[-1]
    packed, values = weights(kind, 32, n_in)
    rows = activations(2, n_in) * np.float32(size)
    found = internals.Matmul(kind, packed, 32, n_in).run(rows)
    assert_near(found, exact(kind, rows, values), rows, values)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 100.0])
@pytest.mark.parametrize("kind", QUANTISED)
def test_scales_of_any_size_are_kept(kind, scale, internals):
    if internals.matmul_kernel(kind) is None:
        pytest.skip(f"no kernel of ours for {kind} on this CPU")
    n_in = depths(kind)[-1]
    packed, values = weights(kind, 32, n_in, scale)
    rows = activations(3, n_in)
    found = internals.Matmul(kind, packed, 32, n_in).run(rows)
    assert_near(found, exact(kind, rows, values), rows, values)


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_bytes_do_not_saturate(kind, sign, internals):
    """Every product of a block at its bound: 32 x 255 x 127 does not fit 16 bits, nor do pairs."""
    n_in = depths(kind)[-1]
    packed, values = weights(kind, 32, n_in)
    if kind in QUANTISED:
        _, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        blocks = np.frombuffer(packed, np.uint8).reshape(-1, n_bytes).copy()
        scales = [b for at in HALVES[kind] for b in (at, at + 1)]
        others = np.setdiff1d(np.arange(n_bytes), scales)
        blocks[:, others] = 0x7F if kind in ("Q8_0", "Q6_K") else 0xFF
        packed = blocks.tobytes()
        values = dequantize(blocks.reshape(32, -1), GGMLQuantizationType[kind]).astype(np.float64)
    rows = np.full((8, n_in), sign, np.float32)
    found = internals.Matmul(kind, packed, 32, n_in).run(rows)
    assert_near(found, exact(kind, rows, values), rows, values)


def test_values_that_are_not_finite_stay_so_in_their_row_alone(kind, internals):
    n_in = depths(kind)[-1]
    packed, _ = weights(kind, 32, n_in)
    matmul = internals.Matmul(kind, packed, 32, n_in)
    rows = activations(4, n_in)
    clean = matmul.run(rows)
    rows[1, 0], rows[2, 0] = np.nan, np.inf
    found = matmul.run(rows)
    assert not np.isfinite(found[1]).any()
    assert not np.isfinite(found[2]).any()
    np.testing.assert_array_equal(found[[0, 3]], clean[[0, 3]])
