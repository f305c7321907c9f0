"""The kernels for matrices against products of the weights as gguf's own Python code reads them.

Every kernel that this CPU can run is tested, not only the one that it would choose.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

FLOATS = ("F16", "BF16", "F32")
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


# Where the values stand, and scales that are no halves.
BYTES = {
    "Q4_0": (slice(2, None), slice(0)),
    "Q4_1": (slice(4, None), slice(0)),
    "Q5_0": (slice(2, None), slice(0)),
    "Q5_1": (slice(4, None), slice(0)),
    "Q8_0": (slice(2, None), slice(0)),
    "IQ4_NL": (slice(2, None), slice(0)),
    "Q4_K": (slice(16, None), slice(4, 16)),
    "Q5_K": (slice(16, None), slice(4, 16)),
    "Q6_K": (slice(0, 192), slice(192, 208)),
    "IQ4_XS": (slice(8, None), slice(2, 8)),
}
# Of all CPUs; which of them a machine can run is known only where the tests run.
INT8_KERNELS = ("avx512-vnni", "avx-vnni", "avx2")
FLOAT_KERNELS = ("avx512-bf16", "avx512", "avx2")


def cases(quantised: Iterable[str] = QUANTISED, floats: Iterable[str] = FLOATS) -> list[str]:
    """Names of a type and a kernel."""
    pairs = [*itertools.product(quantised, INT8_KERNELS), *itertools.product(floats, FLOAT_KERNELS)]
    return [" ".join(pair) for pair in pairs if pair != ("F32", "avx512-bf16")]


@pytest.fixture(params=cases())
def case(request, internals):
    kind, kernel = request.param.split()
    if kernel not in internals.matmul_kernels(kind):
        pytest.skip(f"this CPU has no kernel {kernel} for {kind}")
    return Case(internals, kind, kernel)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel for a type of weights."""

    internals: Any
    kind: str
    kernel: str

    def matmul(self, packed: bytes, n_out: int, n_in: int) -> Any:
        return self.internals.Matmul(self.kind, packed, n_out, n_in, self.kernel)


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
    if kind == "F32":
        floats = draw.standard_normal((n_out, n_in)).astype(np.float32)
        return floats.tobytes(), floats.astype(np.float64)
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


def bfloats(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


def has_groups(kind: str) -> bool:
    """Whether four blocks of activations share a scale."""
    return kind in ("Q4_K", "Q5_K", "Q6_K")


def n_shared(kind: str) -> int:
    """Activations that share a scale."""
    return 128 if has_groups(kind) else 32


def as_the_kernel_reads(case: Case, rows: np.ndarray) -> np.ndarray:
    """Activations: floats, bfloat16, or bytes with a scale for each block or four of them."""
    if case.kind in FLOATS:
        return bfloats(rows) if case.kernel == "avx512-bf16" else rows
    blocks = rows.reshape(len(rows), -1, n_shared(case.kind))
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    steps = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * steps) * (largest / np.float32(127))).reshape(rows.shape)


def as_the_kernel_holds(case: Case, values: np.ndarray) -> np.ndarray:
    """Weights: halves that become bfloat16 lose some bits."""
    return bfloats(values.astype(np.float32)) if case.kernel == "avx512-bf16" else values


def activations(n_tokens: int, n_in: int) -> np.ndarray:
    return np.random.default_rng(n_in).standard_normal((n_tokens, n_in)).astype(np.float32)


# Of a block of activations, as the kernels for quantised weights read it.
INPUTS = np.dtype([("scale", "f4"), ("sum", "f4"), ("begin", "i4", 2), ("values", "i1", 32)])


def rounded(kind: str, rows: np.ndarray) -> np.ndarray:
    """Blocks of activations, of which only finite ones have values and a sum that count."""
    blocks = rows.reshape(len(rows), -1, 32)
    groups = rows.reshape(len(rows), -1, n_shared(kind))
    largest = np.abs(groups).max(axis=2).repeat(n_shared(kind) // 32, axis=1)
    finite = np.isfinite(largest)
    largest = np.where(largest < np.float32(1e-35), np.float32(0), largest)
    steps = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    found = np.zeros(largest.shape, INPUTS)
    found["scale"] = np.where(finite, largest / np.float32(127), np.nan)
    with np.errstate(invalid="ignore"):
        found["values"] = np.where(finite[..., None], np.rint(blocks * steps[..., None]), 0)
    found["sum"] = found["values"].sum(axis=2, dtype=np.int32)
    return found


def sums(kind: str, blocks: np.ndarray) -> np.ndarray:
    """The sum of each block: a float, or 16 bits in every second block."""
    if not has_groups(kind):
        return blocks["sum"]
    return blocks["sum"][:, ::2].copy().view(np.int16)


def exact(case: Case, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    read = as_the_kernel_reads(case, rows).astype(np.float64)
    return read @ as_the_kernel_holds(case, values).astype(np.float64).T


# Sums of floats in another order, and scales of 11 bits beside a power of two for each row.
def assert_near(
    found: np.ndarray, wanted: np.ndarray, rows: np.ndarray, values: np.ndarray
) -> None:
    size = np.abs(rows).astype(np.float64) @ np.abs(values).T
    assert np.all(np.abs(found - wanted) <= 5e-4 * size + 1e-30)
    assert np.linalg.norm(found - wanted) <= 5e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("n_out", [1, 8, 15, 16, 17, 31, 33, 95])
def test_products_are_those_of_the_weights(case, n_out):
    for n_in in depths(case.kind):
        packed, values = weights(case.kind, n_out, n_in)
        rows = activations(17, n_in)
        found = case.matmul(packed, n_out, n_in).run(rows)
        assert_near(found, exact(case, rows, values), rows, values)


@pytest.mark.parametrize("case", cases(floats=()), indirect=True)
def test_activations_are_rounded_to_the_same_bits_as_one_block_at_a_time(case):
    for n_in in (32, 96, 256, 288, 1024, 2304, 2336):
        if n_in % 256 != 0 and case.kind in SUPERBLOCKS:
            continue
        rows = activations(9, n_in) * np.float32(10) ** np.arange(-34, 29, 7)[:, None]
        rows = rows.astype(np.float32)
        rows[2, ::3], rows[3] = 0, 0
        rows[4, :32], rows[5, 5], rows[6, -1], rows[7, 0] = 1e-36, np.nan, np.inf, -np.inf
        rows[8, :2] = 127, 0.5  # halves go to the even number
        matmul = case.matmul(weights(case.kind, 1, n_in)[0], 1, n_in)
        found, wanted = matmul.converted(rows).view(INPUTS), rounded(case.kind, rows)
        np.testing.assert_array_equal(found["scale"], wanted["scale"])
        is_finite = np.isfinite(wanted["scale"])
        np.testing.assert_array_equal(found["values"][is_finite], wanted["values"][is_finite])
        np.testing.assert_array_equal(sums(case.kind, found)[is_finite], wanted["sum"][is_finite])


def test_a_product_has_the_same_bits_in_any_company_and_division(case):
    n_in, n_out = depths(case.kind)[-1], 230  # panels of 16 or 32 rows: 4 + 4 + 4 + 2 + 1, or 4 + 4
    rows = activations(41, n_in)
    matmul = case.matmul(weights(case.kind, n_out, n_in)[0], n_out, n_in)
    together = matmul.run(rows)
    for n_tokens in range(1, 20):
        for panel_step in (1, 7, 15):
            found = matmul.run(rows[:n_tokens], panel_step=panel_step)
            np.testing.assert_array_equal(found, together[:n_tokens])
    np.testing.assert_array_equal(matmul.run(rows[::-1].copy())[::-1], together)
    for panel_step, token_step in ((1, 3), (2, 14), (3, 5)):
        found = matmul.run(rows, panel_step=panel_step, token_step=token_step)
        np.testing.assert_array_equal(found, together)


def test_rows_of_zeros_give_zeros(case):
    n_in = depths(case.kind)[0]
    packed, _ = weights(case.kind, 40, n_in)
    found = case.matmul(packed, 40, n_in).run(np.zeros((3, n_in), np.float32))
    assert not found.any()


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e4, 1e30])
def test_activations_of_any_size_are_multiplied(case, size):
    n_in = depths(case.kind)[-1]
    packed, values = weights(case.kind, 32, n_in)
    rows = activations(2, n_in) * np.float32(size)
    found = case.matmul(packed, 32, n_in).run(rows)
    assert_near(found, exact(case, rows, values), rows, values)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 100.0])
@pytest.mark.parametrize("case", cases(floats=()), indirect=True)
def test_scales_of_any_size_are_kept(case, scale):
    n_in = depths(case.kind)[-1]
    packed, values = weights(case.kind, 32, n_in, scale)
    rows = activations(3, n_in)
    found = case.matmul(packed, 32, n_in).run(rows)
    assert_near(found, exact(case, rows, values), rows, values)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fill", [0x00, 0xFF])
@pytest.mark.parametrize("case", cases(floats=()), indirect=True)
def test_sums_of_the_largest_bytes_do_not_saturate(case, fill, sign):
    """Every product of a block at its bound: 32 x 255 x 127 does not fit 16 bits, nor do pairs."""
    n_in = depths(case.kind)[-1]
    _, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[case.kind]]
    blocks = np.frombuffer(weights(case.kind, 32, n_in)[0], np.uint8).reshape(-1, n_bytes).copy()
    values_at, scales_at = BYTES[case.kind]
    blocks[:, scales_at] = 0x7F
    blocks[:, values_at] = fill ^ 0x80 if case.kind == "Q8_0" else fill  # its values have a sign
    values = dequantize(blocks.reshape(32, -1), GGMLQuantizationType[case.kind]).astype(np.float64)
    rows = np.full((8, n_in), sign, np.float32)
    found = case.matmul(blocks.tobytes(), 32, n_in).run(rows)
    assert_near(found, exact(case, rows, values), rows, values)


def test_values_that_are_not_finite_stay_so_in_their_row_alone(case):
    n_in = depths(case.kind)[-1]
    packed, _ = weights(case.kind, 32, n_in)
    matmul = case.matmul(packed, 32, n_in)
    rows = activations(4, n_in)
    clean = matmul.run(rows)
    rows[1, 0], rows[2, 0] = np.nan, np.inf
    found = matmul.run(rows)
    assert not np.isfinite(found[1]).any()
    assert not np.isfinite(found[2]).any()
    np.testing.assert_array_equal(found[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("kind", QUANTISED + FLOATS)
def test_kernels_that_round_nothing_else_give_the_same_bits(kind, internals):
    kernels = [k for k in internals.matmul_kernels(kind) if k != "avx512-bf16"]
    if len(kernels) < 2:
        pytest.skip(f"this CPU has no two kernels for {kind}: {kernels}")
    n_in = depths(kind)[-1]
    packed, _ = weights(kind, 45, n_in)
    rows = activations(23, n_in)
    first, *others = (internals.Matmul(kind, packed, 45, n_in, k).run(rows) for k in kernels)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_kernels_are_listed_once_and_an_unknown_one_is_refused(internals):
    for kind in QUANTISED + FLOATS:
        kernels = internals.matmul_kernels(kind)
        known = INT8_KERNELS if kind in QUANTISED else FLOAT_KERNELS
        assert kernels == [k for k in known if k in kernels]
    with pytest.raises(ValueError, match="this CPU has no kernel sse2 for F32"):
        internals.Matmul("F32", b"", 0, 0, "sse2")
