"""Who is measured. A peer is one more class with these methods and a line in CONTENDERS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from ggembed import Embedder


class Contender(Protocol):
    """A program that turns texts into rows. It is made in a process of its own, for one case."""

    def __init__(self, model: Path, *, n_threads: int | None, device: str) -> None:
        """Loads the model; `n_threads` None leaves the choice to the program."""

    def count_tokens(self, texts: Sequence[str]) -> Sequence[int]:
        """Tokens of each text, special ones included."""

    def encode(self, texts: list[str]) -> np.ndarray:
        """Unit rows, [n_texts, dim]."""

    def describe(self) -> dict[str, Any]:
        """Version, device, threads and whatever else explains the figures; `n_ctx` is needed."""

    def close(self) -> None:
        """Ends it."""


def describe_embedder(embedder: Embedder) -> dict[str, Any]:
    """What explains the figures of ggembed."""
    import ggembed

    info = embedder.info()
    build = ggembed.build_info()
    names = ("llama_cpp_commit", "compiler", "build_type", "cpu", "cuda", "metal")
    return {
        "version": ggembed.__version__,
        "device": info.device,
        "n_threads": info.n_threads,
        "n_ubatch": info.n_ubatch,
        "n_ctx": info.n_ctx,
        "n_params": info.n_params,
        "build": {name: build[name] for name in names if name in build},
    }


class GGEmbed:
    """This project, through its Python interface and with its defaults."""

    def __init__(self, model: Path, *, n_threads: int | None, device: str) -> None:
        from ggembed import Embedder

        self._embedder = Embedder(model, n_threads=n_threads, device=device)

    def count_tokens(self, texts: Sequence[str]) -> Sequence[int]:
        return [int(n) for n in self._embedder.count_tokens(list(texts))]

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._embedder.encode(texts)

    def describe(self) -> dict[str, Any]:
        return describe_embedder(self._embedder)

    def close(self) -> None:
        self._embedder.close()


CONTENDERS: dict[str, type[Contender]] = {"ggembed": GGEmbed}
