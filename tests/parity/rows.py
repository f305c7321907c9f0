"""Rows and token ids out of ggembed, by text and by ready token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ggembed import Embedder, _native

if TYPE_CHECKING:
    from pathlib import Path


def embedder(path: Path, **options: object) -> Embedder:
    """An Embedder on one CPU thread: tiny models gain nothing from more, and wait for them."""
    return Embedder(path, device="cpu", n_threads=1, **options)


def tokens_from_ids(embedder: Embedder, inputs: list[list[int]]) -> _native.Tokens:
    """Token ids as they are, by gge_tokens_from_ids, which the Python interface does not call."""
    model, _ = embedder._live()
    lib = _native.library()
    offsets = np.cumsum([0, *map(len, inputs)]).astype(np.int64)
    ids = np.fromiter((i for ids in inputs for i in ids), dtype=np.int32, count=int(offsets[-1]))
    out, err = lib.ffi.new("gge_tokens **"), lib.error()
    status = lib.lib.gge_tokens_from_ids(
        model.pointer,
        lib.ffi.from_buffer("int32_t[]", ids),
        lib.ffi.from_buffer("int64_t[]", offsets),
        len(inputs),
        out,
        err,
    )
    _native.check(status, err)
    tokens = object.__new__(_native.Tokens)
    tokens.pointer = lib.owned(out[0], lib.lib.gge_tokens_free)
    tokens.n_texts = len(inputs)
    return tokens


def encode_ids(
    embedder: Embedder, inputs: list[list[int]], *, pooling: str, normalize: bool = False
) -> np.ndarray:
    """Rows of token ids, [n_inputs, dim]; with pooling "none" [n_tokens, dim]."""
    tokens = tokens_from_ids(embedder, inputs)
    n_rows = int(tokens.offsets()[-1]) if pooling == "none" else len(inputs)
    rows = np.full((n_rows, embedder.dim), np.nan, np.float32)
    _, engine = embedder._live()
    engine.encode(tokens, rows, pooling=pooling, truncate_dim=0, normalize=normalize, progress=None)
    return rows
