"""Texts to flat UTF-8 bytes with offsets, and checks of arrays before their pointer is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _arrow
from .errors import InvalidInputError

FloatArray = npt.NDArray[np.float32]
Bytes = bytes | npt.NDArray[np.uint8]


class NotTextsError(TypeError):
    """An argument that is not texts alone: `items` are its elements, or the one that it is."""

    def __init__(self, message: str, items: list[Any], *, single: bool = False) -> None:
        super().__init__(message)
        self.items = items
        self.single = single


@dataclass(frozen=True)
class Texts:
    """Texts as the native library takes them: text i is ``data[offsets[i]:offsets[i + 1]]``."""

    data: Bytes
    offsets: npt.NDArray[np.int64]
    single: bool

    @property
    def n_texts(self) -> int:
        return len(self.offsets) - 1


def as_texts(texts: object, *, keep_invalid: bool = False) -> Texts:
    """The texts of an argument; those of an Arrow column of large_string stay where they are.

    A lone surrogate is an error, or with `keep_invalid` becomes bytes that the native library
    reports as invalid UTF-8 of that input, which is what a call that collects errors wants.
    """
    column = _arrow.string_column(texts)
    if column is not None:
        return Texts(*column, single=False)
    listed, single = as_list(texts)
    return Texts(*flatten(listed, keep_invalid=keep_invalid), single)


def as_list(texts: object) -> tuple[list[Any], bool]:
    """The texts of an argument as a list, and whether it was a single str."""
    if isinstance(texts, str):
        return [texts], True
    if isinstance(texts, list):
        return texts, False
    if isinstance(texts, (bytes, bytearray, memoryview, Mapping)) or not isinstance(
        texts, Iterable
    ):
        kind = type(texts).__name__
        message = f"texts must be a str or an iterable of str, got {kind}"
        raise NotTextsError(message, [texts], single=True)
    shape = getattr(texts, "shape", None)  # numpy arrays, pandas and polars columns and frames
    if isinstance(shape, tuple) and len(shape) != 1:
        raise ValueError(
            f"texts must be one-dimensional, got shape {shape}; pixels go into Image(...)"
        )
    # pyarrow's elements are scalar objects until they are converted, and numpy's object arrays,
    # pandas and polars convert faster as a whole.
    for method in ("to_pylist", "tolist", "to_list"):
        convert = getattr(texts, method, None)
        if callable(convert):
            return list(convert()), False
    return list(texts), False


def flatten(texts: list[Any], *, keep_invalid: bool = False) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Texts as one byte string, and where each begins in it: int64 offsets, (n_texts + 1,)."""
    try:
        encoded = list(map(str.encode, texts))
    except (TypeError, UnicodeEncodeError):
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                message = f"texts must be str, got {type(text).__name__} at index {i}"
                raise NotTextsError(message, texts) from None
        encoded = [encode_one(text, i, keep_invalid=keep_invalid) for i, text in enumerate(texts)]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return b"".join(encoded), offsets


def encode_one(text: str, i: int, *, keep_invalid: bool) -> bytes:
    """UTF-8 of text i, or the error that names it."""
    if keep_invalid:
        return text.encode("utf-8", "surrogatepass")
    return encode_text(text, f"text {i}", i)


def encode_text(text: str, what: str, input_index: int | None = None) -> bytes:
    """UTF-8 of one text; the error names it, the code point and the position."""
    try:
        return text.encode()
    except UnicodeEncodeError as err:
        code_point = ord(text[err.start])
        raise InvalidInputError(
            f"{what} has the lone surrogate U+{code_point:04X} at position {err.start}, "
            "which UTF-8 cannot hold",
            input_index=input_index,
        ) from None


def check_out(
    out: object, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[Any]:
    """`out` as an array of `dtype` that the library may write rows of `shape` to."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise ValueError(f"out must have dtype {np.dtype(dtype)}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable")
    item = out.itemsize
    stride = row_stride(out) * item
    contiguous = out.shape[-1] == 1 or out.strides[-1] == item
    apart = out.ndim == 1 or out.shape[0] <= 1 or out.strides[0] == stride >= shape[-1] * item
    if not (contiguous and apart and out.flags.aligned):
        raise ValueError(
            f"rows of out must be contiguous and must not overlap, got strides {out.strides}"
        )
    return out


def row_stride(rows: npt.NDArray[Any]) -> int:
    """Distance between rows in elements."""
    if rows.ndim == 1 or rows.shape[0] <= 1:
        return int(rows.shape[-1])
    return int(rows.strides[0]) // rows.itemsize
