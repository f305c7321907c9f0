"""Rows, scores and token ids out of ggembed, by text and by ready token ids."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import numpy as np
from ggembed import Embedder, _buffers, _native

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType


def embedder(path: Path, **options: object) -> Embedder:
    """An Embedder on one CPU thread: tiny models gain nothing from more, and wait for them."""
    return Embedder(path, device="cpu", n_threads=1, **options)


def tokens_from_ids(model: _native.Model, inputs: list[list[int]]) -> _native.Tokens:
    """Token ids as they are, by gge_tokens_from_ids, which the Python interface does not call."""
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
    model, engine = embedder._live()
    tokens = tokens_from_ids(model, inputs)
    return _encode(engine, tokens, embedder.dim, pooling=pooling, normalize=normalize)


def _encode(
    engine: _native.Engine, tokens: _native.Tokens, width: int, *, pooling: str, **options: object
) -> np.ndarray:
    n_rows = int(tokens.offsets()[-1]) if pooling == "none" else tokens.n_texts
    rows = np.full((n_rows, width), np.nan, np.float32)
    engine.encode(tokens, rows, pooling=pooling, **options)
    return rows


class Native:
    """A model with adapters and projectors, and an engine, by the binding itself."""

    def __init__(
        self,
        path: Path,
        adapters: Sequence[Path] = (),
        mmproj: Sequence[Path] = (),
        **numbers: int,
    ) -> None:
        self.model = _native.Model(
            os.fspath(path),
            device="cpu",
            n_gpu_layers=0,
            mmap=True,
            progress=None,
            adapters=[os.fspath(a) for a in adapters],
            mmproj=[os.fspath(m) for m in mmproj],
        )
        self.info = self.model.info()
        self.engine = _native.Engine(self.model, attention="default", **{"n_threads": 1, **numbers})

    def __enter__(self) -> Native:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.engine.close()

    def tokens_of_pairs(self, pairs: list[tuple[str, str]], **options: object) -> _native.Tokens:
        """Tokens of pairs of a query and a document."""
        flat = [text for pair in pairs for text in pair]
        return _native.Tokens(self.model, *_buffers.flatten(flat), pairs=True, **options)

    def encode(
        self, tokens: _native.Tokens | list[list[int]], *, pooling: str, **options: object
    ) -> np.ndarray:
        """Rows, or with pooling "rank" scores, of tokens or token ids; not normalised."""
        if isinstance(tokens, list):
            tokens = tokens_from_ids(self.model, tokens)
        width = self.info["n_cls_out" if pooling == "rank" else "n_embd"]
        options = {"normalize": False, **options}
        return _encode(self.engine, tokens, width, pooling=pooling, **options)


def ids_of(tokens: _native.Tokens) -> list[list[int]]:
    """The ids of each text."""
    ids, offsets = tokens.ids(), tokens.offsets()
    return [ids[begin:end].tolist() for begin, end in itertools.pairwise(offsets)]
