"""Microseconds per text that the host needs around a model: 100 000 short strings, MiniLM.

    make build                                   # with the white-box module of the tests
    python benchmarks/host_overhead.py
    python benchmarks/host_overhead.py --texts 20000 --rounds 3 --no-save

The model's computing is left out: the white-box module's copy of the library returns rows of ones.
What Python needs is the time of a call of `encode` outside the functions of the library, where
nothing overlaps; that it does overlap is what the last line has over the one before.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
from ggembed import Embedder, _buffers, _native, _text_calls, demo_model

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "python"))

import corpus
import report
from faults import faulty_embedder

BUILD = Path(__file__).parents[1] / "build" / "wheel"
COLUMNS = (
    ("stage", "{stage}"),
    ("what", "{what}"),
    ("µs/text", "{us:.2f}"),
    ("min-max", "{least_us:.2f}-{most_us:.2f}"),
    ("CPU µs/text", "{cpu_us:.2f}"),
)
WHAT = {
    "bytes": "a list of str becomes bytes and offsets",
    "tokenise": "gge_tokenize, one thread",
    "tokenise n": "gge_tokenize, as many threads as there are cores",
    "engine": "gge_encode without the model: batches, pooling, scaling, rows",
    "python": "encode outside the library, bytes included",
    "one piece": "encode, tokenised before the engine begins",
    "chunks": "encode as it is, tokenised ahead of the engine",
}

Seconds = tuple[float, float]  # by the clock, and of CPUs


class TimedLibrary:
    """The functions of the native library, and how long those of the longest calls have run."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.seconds: Seconds = (0.0, 0.0)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._lib, name)
        if name not in ("gge_tokenize", "gge_encode"):
            return function

        def call(*args: Any) -> Any:
            start = now()
            status = function(*args)
            self.seconds = add(self.seconds, since(start))
            return status

        return call


def now() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


def add(a: Seconds, b: Seconds, sign: int = 1) -> Seconds:
    return a[0] + sign * b[0], a[1] + sign * b[1]


def timed(work: Callable[[], object]) -> Seconds:
    start = now()
    work()
    return since(start)


def short_texts(n: int) -> list[str]:
    """Texts of 5 words, which are about 8 tokens and the special ones."""
    words, draw = corpus.words(), random.Random(corpus.SEED)
    starts = (draw.randrange(len(words) - 5) for _ in range(n))
    return [" ".join(words[start : start + 5]) for start in starts]


@contextlib.contextmanager
def in_one_piece() -> Iterator[None]:
    """Calls are not cut into chunks."""
    before = _text_calls._LARGEST_CHUNK
    _text_calls._LARGEST_CHUNK = 1 << 40
    try:
        yield
    finally:
        _text_calls._LARGEST_CHUNK = before


def measure(embedder: Embedder, texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """One result per stage; all stages take turns."""
    model, engine = embedder._live()
    flat = _buffers.as_texts(texts)
    tokens = _native.Tokens(model, flat.data, flat.offsets)
    rows = np.empty((len(texts), embedder.dim), np.float32)
    stages: dict[str, Callable[[], object]] = {
        "bytes": lambda: _buffers.as_texts(texts),
        "tokenise": lambda: _native.Tokens(model, flat.data, flat.offsets, n_threads=1),
        "tokenise n": lambda: _native.Tokens(model, flat.data, flat.offsets),
        "engine": lambda: engine.encode(tokens, rows, pooling="mean"),
    }
    library = _native.library()
    library.lib = watch = TimedLibrary(library.lib)
    seconds: dict[str, list[Seconds]] = {name: [] for name in WHAT}
    for k in range(rounds + 1):
        found = {name: timed(work) for name, work in stages.items()}
        found["chunks"] = timed(lambda: embedder.encode(texts, out=rows))
        before = watch.seconds
        with in_one_piece():
            found["one piece"] = timed(lambda: embedder.encode(texts, out=rows))
        found["python"] = add(found["one piece"], add(watch.seconds, before, -1), -1)
        for name in WHAT:
            if k > 0:  # the first round fills caches
                seconds[name].append(found[name])
    scale = 1e6 / len(texts)
    return [
        {
            "stage": name,
            "what": WHAT[name],
            "us": scale * median(wall for wall, _ in pairs),
            "least_us": scale * min(wall for wall, _ in pairs),
            "most_us": scale * max(wall for wall, _ in pairs),
            "cpu_us": scale * median(cpu for _, cpu in pairs),
            "n_texts": len(texts),
            "n_tokens": int(tokens.offsets()[-1]),
            "rounds": rounds,
        }
        for name, pairs in seconds.items()
    ]


def internals(build: Path) -> ModuleType:
    """The white-box module of a build folder."""
    sys.path.insert(0, str(build / "tests"))
    try:
        return importlib.import_module("_ggembed_internals")
    except ImportError as err:
        raise SystemExit(f"{err}; build with GGEMBED_BUILD_TESTS=ON (make build)") from None


def main() -> None:
    parser = argparse.ArgumentParser(description="host time per text, by stage")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    module = internals(args.build)
    with faulty_embedder(module, demo_model.path()) as (embedder, _):
        module.set_idle(True)
        try:
            results = measure(embedder, short_texts(args.texts), args.rounds)
        finally:
            module.set_idle(False)
    print(report.table(results, COLUMNS))
    if not args.no_save:
        path = report.save(results, sys.argv[1:], script=Path(__file__).name, suffix="-host")
        path.with_suffix(".md").write_text(report.markdown(results, COLUMNS), "utf-8")
        print(f"saved in {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
