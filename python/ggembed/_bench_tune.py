"""The curves of ``ggembed bench --tune``: speed over tokens per micro-batch, and over threads."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from . import _info, _native
from ._bench import ROUNDS, Case, Timing, Workload, counter, make_texts, repeated
from ._buffers import flatten
from ._machine import GIB, available_memory, n_cpus
from .embedder import Embedder
from .errors import EmbedError
from .progress import ProgressBar
from .types import Pooling

SIZES = tuple(2**i for i in range(6, 14))  # tokens per micro-batch
ALIKE = 0.02  # points that are this close to the fastest count as equally fast
_DUEL_ROUNDS = 5
_CALL_LIMIT = 4  # a point whose call would take this many times the wanted seconds is left out
_MEMORY_SHARE = 0.5  # of what is available
_MAX_DIFFERENT = 512  # texts, which longer lists repeat
_ALL_COUNTS = 8  # up to here every number of threads is measured

# Threads of llama.cpp that have just worked go on spinning, and would disturb the next engine.
_PAUSE_S = 0.3


@dataclass
class Point:
    """A setting, and how fast it is."""

    n_ubatch: int
    n_threads: int
    timing: Timing
    failure: str = ""

    @property
    def speed(self) -> float:
        """Tokens per second of the median call."""
        return self.timing.tokens_per_s

    def record(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "n_ubatch": self.n_ubatch,
            "n_threads": self.n_threads,
            "memory_bytes": self.timing.memory_bytes,
            "n_tokens": self.timing.n_tokens,
            "tokens_per_s": round(self.speed, 1),
            "seconds": self.timing.seconds,
        }


@dataclass
class Curve:
    """Points along one setting, the others as they are; points without a call are not shown."""

    setting: str  # "n_ubatch" or "n_threads"
    default: int
    all_points: list[Point] = field(default_factory=list)
    left_out: str = ""  # which points were not measured, and why

    @property
    def points(self) -> list[Point]:
        """Those that were measured."""
        return [p for p in self.all_points if p.timing.seconds and not p.failure]

    @property
    def best(self) -> Point | None:
        """The smallest point that is as fast as the fastest."""
        if not self.points:
            return None
        enough = (1 - ALIKE) * max(point.speed for point in self.points)
        return next(point for point in self.points if point.speed >= enough)

    def value(self, point: Point) -> int:
        """What the setting is at a point."""
        return int(getattr(point, self.setting))

    def record(self) -> dict[str, Any]:
        """The figures as plain values."""
        best = self.best
        return {
            "setting": self.setting,
            "default": self.default,
            "best": None if best is None else self.value(best),
            "left_out": self.left_out,
            "failures": {self.value(p): p.failure for p in self.all_points if p.failure},
            "points": [point.record() for point in self.points],
        }


@dataclass
class Duel:
    """The default settings against the best ones, measured again in turns."""

    default: Point
    best: Point

    @property
    def is_over(self) -> bool:
        """Whether both have all of their calls."""
        return all(len(p.timing.seconds) == _DUEL_ROUNDS for p in (self.default, self.best))

    @property
    def gain(self) -> float:
        """How many times as fast the best settings are."""
        return self.best.speed / self.default.speed

    @property
    def is_certain(self) -> bool:
        """Whether every call with the best settings was faster than every one with the default."""
        return max(self.best.timing.seconds) < min(self.default.timing.seconds)

    @property
    def arguments(self) -> dict[str, int]:
        """What to pass to Embedder: the settings that differ, if the gain is more than noise."""
        if not (self.is_over and self.is_certain and self.gain >= 1 + ALIKE):
            return {}
        return {
            name: getattr(self.best, name)
            for name in ("n_ubatch", "n_threads")
            if getattr(self.best, name) != getattr(self.default, name)
        }

    def record(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "default": self.default.record(),
            "best": self.best.record(),
            "gain": round(self.gain, 4),
            "more_than_noise": bool(self.arguments),
        }


class Tuner:
    """Measures the curves. What is there can be read at any moment, also after Ctrl-C."""

    def __init__(
        self, embedder: Embedder, case: Case, *, seconds: float, fixed: Sequence[str]
    ) -> None:
        info = embedder.info()
        self.curves: list[Curve] = []
        self.duel: Duel | None = None
        self.call_limit_s = _CALL_LIMIT * seconds
        self.memory_limit = _memory_limit(info.device)
        self._info = info
        self._fixed = fixed
        self._seconds = seconds
        self._limit = embedder.max_seq_length
        self._count = counter(embedder)
        self._model = embedder._live()[0]
        self._engines: dict[tuple[int, int], _native.Engine] = {}
        self._pooling = str(Pooling.MEAN if info.pooling is Pooling.NONE else info.pooling)
        self._rate = Workload(embedder, case, seconds / 4).rate
        most = max(self._rate * self.call_limit_s, SIZES[0])
        self._sizes = [size for size in SIZES if size <= most]
        self.texts = self._make_texts(case)
        self.counts = self._count(self.texts)
        self._tokens: dict[int, _native.Tokens] = {}  # of the first texts, by their number
        self._rows = np.empty((len(self.texts), info.dim), np.float32)

    def run(self) -> None:
        """Measures all curves, then the default against the best."""
        info = self._info
        n_ubatch, n_threads = info.n_ubatch, info.n_threads
        if "n_ubatch" not in self._fixed:
            n_ubatch = self._measured(self._size_curve()) or n_ubatch
        if "n_threads" not in self._fixed and info.device == "cpu":
            n_threads = self._measured(self._thread_curve(n_ubatch)) or n_threads
        if (n_ubatch, n_threads) != (info.n_ubatch, info.n_threads):
            default = self._point(info.n_ubatch, info.n_threads)
            best = self._point(n_ubatch, n_threads)
            self.duel = Duel(default, best)
            self._time([default, best], _DUEL_ROUNDS, "comparing")

    def _make_texts(self, case: Case) -> list[str]:
        """Texts that fill the largest micro-batch, and take about the wanted time if that is more.

        None is longer than a quarter of them together: few long ones would hide the packing.
        """
        n_tokens = max(round(self._rate * self._seconds), self._sizes[-1])
        limit = min(self._limit, max(n_tokens // 4, SIZES[0]))
        lengths = case.lengths(n_tokens // (case.low or min(case.n_tokens, limit)) + 1, limit)
        n_texts = bisect_left(list(accumulate(lengths)), n_tokens) + 1
        return repeated(make_texts(lengths[: min(n_texts, _MAX_DIFFERENT)], self._count), n_texts)

    def _tokenized(self, n_texts: int) -> _native.Tokens:
        """The first texts."""
        if n_texts not in self._tokens:
            data, offsets = flatten(self.texts[:n_texts])
            end_token = self._info.end_token
            self._tokens[n_texts] = _native.Tokens(self._model, data, offsets, end_token=end_token)
        return self._tokens[n_texts]

    def _n_texts(self, n_tokens: float) -> int:
        """How many of the texts have that many tokens; all, if they have fewer."""
        return min(bisect_left(list(accumulate(self.counts)), n_tokens) + 1, len(self.counts))

    def _size_curve(self) -> Curve:
        info = self._info
        curve = Curve("n_ubatch", info.n_ubatch)
        self.curves.append(curve)
        slow = [size for size in SIZES if size not in (*self._sizes, info.n_ubatch)]
        if slow:
            curve.left_out = (
                f"n_ubatch from {slow[0]} on, where a call would take "
                f"{slow[0] / self._rate:.1f} s: the limit is {self.call_limit_s:g} s"
            )
        sizes = sorted({*self._sizes, info.n_ubatch})
        self._fill(curve, [self._point(size, info.n_threads) for size in sizes])
        return curve

    def _thread_curve(self, n_ubatch: int) -> Curve:
        default = self._info.n_threads
        curve = Curve("n_threads", default)
        self.curves.append(curve)
        counts = sorted({*thread_counts(n_cpus()), default})
        n_texts = self._n_texts(max(self._rate * self._seconds, n_ubatch))
        one_thread_s = sum(self.counts[:n_texts]) / self._rate * default
        slow = [n for n in counts if n < default and one_thread_s / n > self.call_limit_s]
        if slow:
            curve.left_out = (
                f"n_threads up to {slow[-1]}, where a call would take "
                f"{one_thread_s / slow[-1]:.1f} s: the limit is {self.call_limit_s:g} s"
            )
        self._fill(curve, [self._point(n_ubatch, n, n_texts) for n in counts if n not in slow])
        return curve

    def _fill(self, curve: Curve, points: list[Point]) -> None:
        """Adds as many points to a curve as there is memory for, all at once."""
        held = 0
        for point in points:
            held += point.timing.memory_bytes
            if self.memory_limit is not None and held > self.memory_limit:
                why = (
                    f"{curve.setting} from {curve.value(point)} on, where all points together "
                    f"would hold {held / GIB:.2f} GiB: the limit is "
                    f"{self.memory_limit / GIB:.2f} GiB"
                )
                curve.left_out = "; ".join(filter(None, [curve.left_out, why]))
                break
            curve.all_points.append(point)

    def _point(self, n_ubatch: int, n_threads: int, n_texts: int | None = None) -> Point:
        counts = self.counts[:n_texts]
        timing = Timing.of(counts, self._info, n_ubatch=n_ubatch, n_threads=n_threads)
        return Point(n_ubatch, n_threads, timing)

    def _measured(self, curve: Curve) -> int | None:
        """Measures a curve; returns the best value."""
        self._time(curve.all_points, ROUNDS, f"measuring {curve.setting}")
        self._engines.clear()
        return None if curve.best is None else curve.value(curve.best)

    def _time(self, points: list[Point], n_rounds: int, label: str) -> None:
        """Rounds of calls, back and forth through the points, so that none is always first."""
        with ProgressBar(label, "calls") as bar:
            n_all = n_rounds * len(points)
            for n_done, point in enumerate(_back_and_forth(points, n_rounds), 1):
                if not point.failure:
                    try:
                        point.timing.seconds.append(self._call(point))
                    except EmbedError as err:
                        point.failure = str(err)
                bar(n_done, n_all)

    def _call(self, point: Point) -> float:
        key = point.n_ubatch, point.n_threads
        if key not in self._engines:
            numbers = {"n_ubatch": point.n_ubatch, "n_threads": point.n_threads}
            self._engines[key] = _native.Engine(self._model, attention="default", **numbers)
            self._encode(self._engines[key], self._tokenized(self._n_texts(point.n_ubatch)))
        tokens = self._tokenized(point.timing.n_texts)
        time.sleep(_PAUSE_S)
        start = time.perf_counter()
        self._encode(self._engines[key], tokens)
        return time.perf_counter() - start

    def _encode(self, engine: _native.Engine, tokens: _native.Tokens) -> None:
        engine.encode(tokens, self._rows[: tokens.n_texts], pooling=self._pooling)


def thread_counts(n_logical: int) -> Iterator[int]:
    """Every number up to 8, then steps of a third and a half, and the last one."""
    n = 1
    while n < n_logical:
        yield n
        n = n + 1 if n < _ALL_COUNTS else n * 3 // 2 if n & (n - 1) == 0 else n * 4 // 3
    yield n_logical


def _back_and_forth(points: list[Point], n_rounds: int) -> Iterator[Point]:
    for i in range(n_rounds):
        yield from (points, points[::-1])[i % 2]


def _memory_limit(device: str) -> int | None:
    """Bytes that the engines of a curve may hold together."""
    if device == "cpu":
        free = available_memory()
    else:
        free = sum(d.memory_free for d in _info.devices() if d.name in device.split(","))
    return None if free is None else int(free * _MEMORY_SHARE)
