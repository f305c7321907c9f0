"""Texts with wanted numbers of tokens, and how fast a model is with them."""

from __future__ import annotations

import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from . import _info, corpus
from ._machine import cpu_quota, n_cpus, number_in
from .embedder import Embedder
from .errors import UnsupportedError
from .files import estimate
from .progress import ProgressBar
from .types import ModelInfo, Pooling

ROUNDS = 3
_SEED = 1
_POOL_TOKENS, _MIN_POOL, _MAX_POOL = 16_384, 8, 64  # different texts, which longer lists repeat
_MAX_TEXTS = 100_000
_FIRST_TOKENS = 256
_ROUNDS_LIMIT = 6  # a case that has run this many times the wanted seconds gets no more rounds
_N_SINGLE = 3  # calls in a round, at least
_FILLERS = (" a", " the", ".", ",", " 1")

CountTokens = Callable[[list[str]], list[int]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Case:
    """Lengths of texts: all the same, or log-normal. `alone`: a call for each text."""

    n_tokens: int = 0
    median: float = 0.0
    sigma: float = 0.0
    low: int = 0
    high: int = 0
    alone: bool = False

    def lengths(self, n: int, limit: int) -> list[int]:
        """Lengths of n texts, none over the limit; always the same ones."""
        if self.n_tokens:
            return [min(self.n_tokens, limit)] * n
        draw = random.Random(_SEED)  # noqa: S311 - the same texts every time
        wanted = [round(self.median * draw.lognormvariate(0.0, self.sigma)) for _ in range(n)]
        return [min(max(length, self.low), self.high, limit) for length in wanted]


CASES = {
    "short": Case(8),
    "medium": Case(128),
    "long": Case(2000),
    "mixed": Case(median=90.0, sigma=1.0, low=4, high=2000),
    "single": Case(8, alone=True),
}


def make_texts(lengths: Sequence[int], count_tokens: CountTokens) -> list[str]:
    """Texts of Python's docstrings with these numbers of tokens: words, then fillers of one token.

    A tokenizer that knows none of the fillers as one token makes them a little shorter.
    """
    words = [word for document in corpus.stdlib_docstrings() for word in document.text.split()]
    draw = random.Random(_SEED)  # noqa: S311 - the same texts every time
    starts = [draw.randrange(len(words)) for _ in lengths]

    def text(i: int, n_words: int) -> str:
        return " ".join(words[(starts[i] + k) % len(words)] for k in range(n_words))

    low, high = [0] * len(lengths), [length + 1 for length in lengths]
    while any(b - a > 1 for a, b in zip(low, high, strict=True)):
        middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
        counts = count_tokens([text(i, n) for i, n in enumerate(middle)])
        for i, (n, count) in enumerate(zip(middle, counts, strict=True)):
            low[i], high[i] = (n, high[i]) if count <= lengths[i] else (low[i], max(n, low[i] + 1))
    return [_filled(text(i, low[i]), length, count_tokens) for i, length in enumerate(lengths)]


def _filled(text: str, length: int, count_tokens: CountTokens) -> str:
    (count,) = count_tokens([text])
    while count < length:
        longer = [text + filler for filler in _FILLERS]
        counts = count_tokens(longer)
        best = min(range(len(longer)), key=lambda i: (counts[i] <= count, counts[i]))
        if not count < counts[best] <= length:
            break
        text, count = longer[best], counts[best]
    return text


@dataclass
class Timing:
    """Calls with the same texts."""

    n_texts: int
    n_tokens: int
    longest: int
    memory_bytes: int  # what such calls need beside the weights
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        info: ModelInfo,
        *,
        n_ubatch: int | None = None,
        n_threads: int | None = None,
    ) -> Timing:
        """Of texts with these numbers of tokens, with some settings other than the model's."""
        needs = estimate(
            info.path,
            n_ctx=max(counts),
            n_ubatch=n_ubatch or info.n_ubatch,
            n_threads=n_threads or info.n_threads,
            device=info.device,
        )
        memory = needs.total - needs.weights_device - needs.weights_host
        return cls(len(counts), sum(counts), max(counts), memory)

    @property
    def median(self) -> float:
        """Of the seconds; there is at least one."""
        return statistics.median(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of the median call."""
        return self.n_tokens / self.median

    @property
    def texts_per_s(self) -> float:
        """Texts per second of the median call."""
        return self.n_texts / self.median

    def record(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "n_texts": self.n_texts,
            "n_tokens": self.n_tokens,
            "longest_text": self.longest,
            "memory_bytes": self.memory_bytes,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "texts_per_s": round(self.texts_per_s, 2),
            "median_s": self.median,
            "seconds": self.seconds,
        }


class Workload:
    """The texts of a case, as many as take about the wanted time."""

    def __init__(self, embedder: Embedder, case: Case, seconds: float) -> None:
        self._embedder = embedder
        n_pool = _POOL_TOKENS // (case.n_tokens or round(case.median))
        n_pool = 1 if case.alone else min(max(n_pool, _MIN_POOL), _MAX_POOL)
        self._pool = make_texts(case.lengths(n_pool, embedder.max_seq_length), counter(embedder))
        self._counts = counter(embedder)(self._pool)
        self.rate = 0.0  # tokens per second, of many texts
        self.call(self._pool[:1])
        self.texts = repeated(self._pool, 1 if case.alone else self._calibrated(seconds))
        self.counts = repeated(self._counts, len(self.texts))

    def call(self, texts: list[str] | None = None) -> float:
        """Seconds that a call takes."""
        start = time.perf_counter()
        self._embedder.encode(self.texts if texts is None else texts, prompt="")
        return time.perf_counter() - start

    def _calibrated(self, seconds: float) -> int:
        """How many texts take about that long; finds the rate."""
        mean = sum(self._counts) // len(self._counts)
        n = max(1, _FIRST_TOKENS // mean)  # one short text would tell little of many
        self.call(repeated(self._pool, n))
        while True:
            took = max(self.call(repeated(self._pool, n)), 1e-9)
            self.rate = sum(repeated(self._counts, n)) / took
            if took >= seconds / 4 or n >= _MAX_TEXTS:
                return max(1, min(_MAX_TEXTS, round(n * seconds / took)))
            n *= 2


def counter(embedder: Embedder) -> CountTokens:
    """Counts the tokens of texts as numbers of Python."""
    return lambda texts: [int(n) for n in np.atleast_1d(embedder.count_tokens(texts))]


def repeated(items: list[_T], n: int) -> list[_T]:
    """The first n of a list that starts again at its end."""
    return [items[i % len(items)] for i in range(n)]


def run_cases(
    embedder: Embedder, names: Sequence[str], seconds: float, timings: dict[str, Timing]
) -> None:
    """Measures cases in turns, and puts their timings there as soon as they have a call."""
    info = embedder.info()
    works, found = {}, {}
    for name in names:
        works[name] = Workload(embedder, CASES[name], seconds)
        found[name] = Timing.of(works[name].counts, info)
    with ProgressBar("measuring", "calls") as bar:
        for n_done, name in enumerate(ROUNDS * list(names), 1):
            timing = found[name]
            if sum(timing.seconds) < _ROUNDS_LIMIT * seconds:
                timing.seconds += _round(works[name], seconds if CASES[name].alone else 0.0)
                timings[name] = timing
            bar(n_done, ROUNDS * len(names))


def _round(work: Workload, seconds: float) -> list[float]:
    """Seconds of one call, or of calls for a share of that long."""
    taken = [work.call()]
    while seconds and (len(taken) < _N_SINGLE or sum(taken) < seconds / ROUNDS):
        taken.append(work.call())
    return taken


def check_model(info: ModelInfo) -> None:
    """Refuses what gives no rows of texts."""
    if info.pooling is Pooling.RANK:
        raise UnsupportedError("the model is a reranker, which scores pairs; bench measures rows")


def weights(info: ModelInfo) -> int:
    """Bytes of the weights, wherever they are."""
    needs = estimate(info.path, n_ctx=1, device=info.device)
    return needs.weights_device + needs.weights_host


def describe_machine() -> dict[str, Any]:
    """What figures depend on; no names of hosts or users."""
    cpu = next(device for device in _info.devices() if device.kind == "cpu")
    return {
        "cpu": cpu.description,
        "n_cpus": n_cpus(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": cpu.memory_total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def describe_model(info: ModelInfo) -> dict[str, Any]:
    """The model that figures are of; of its path only the file's name."""
    names = ("name", "architecture", "quantization", "n_params", "file_bytes", "dim", "n_ctx")
    return {"file": Path(info.path).name, **{name: getattr(info, name) for name in names}}


def peak_memory(root: Path = Path("/")) -> int | None:
    """The most memory that the process has had, mapped files included, where the system tells."""
    # Unlike ru_maxrss, VmHWM forgets what the parent had before exec; not every kernel tells it.
    kib = number_in(root / "proc/self/status", r"^VmHWM:\s+(\d+) kB")
    if kib is not None:
        return kib * 1024
    try:
        import resource
    except ImportError:
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
