"""Mixed load for minutes: memory, threads and handles of the process stay as they are.

    python soak.py MODEL [MODEL] [--seconds 600] [--seed N] [--openers 0] [--save]

8 threads and 8 coroutines embed on one Embedder, with aborts, errors and collecting calls, while
two more Embedders are opened, used and closed over and over: of the other models, if there are any,
which should be small beside the first, since what is open at a moment counts. Every row is compared
with that of its text alone. Resident memory, threads and file descriptors are read from /proc every
second.

Memory is flat if its median in the last fifth of the time is no more than 1 % above the median in
the middle fifth; of 10 minutes a fifth is 2 minutes, so that 4 are for warm-up. What is opened and
closed leaves holes in the arenas that glibc's malloc has for each thread: with openers memory is
flat within minutes where MALLOC_ARENA_MAX=2 is set, and takes longer where it is not. At the end,
when all is closed, no thread and no file descriptor may be left. Ends with 1 otherwise. Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import random
import statistics
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ggembed import Embedder
from load import N_CTX, Load, draw_texts

LIMIT = 0.01
EVERY_S = 1.0


@dataclass(frozen=True)
class Sample:
    """The process at a moment."""

    seconds: float
    rss_mb: float
    anonymous_mb: float
    in_use_mb: float  # of what malloc has taken; NaN without glibc
    n_threads: int
    n_files: int


class _Mallinfo2(ctypes.Structure):
    """What glibc's function of that name returns."""

    _fields_ = (
        ("unused", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),
        ("unused_2", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),
        ("unused_3", ctypes.c_size_t * 2),
    )


def in_use() -> float:
    """Megabytes that malloc has handed out."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return math.nan
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20


def sample(start: float) -> Sample:
    """Reads /proc."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines()
    )

    def megabytes(name: str) -> float:
        return int(fields[name].split()[0]) / 1024

    return Sample(
        seconds=round(time.monotonic() - start, 1),
        rss_mb=megabytes("VmRSS"),
        anonymous_mb=megabytes("RssAnon"),
        in_use_mb=in_use(),
        n_threads=int(fields["Threads"]),
        n_files=len([*Path("/proc/self/fd").iterdir()]) - 1,  # but for that of the listing
    )


class Opener:
    """Opens and closes an Embedder over and over, on a thread."""

    def __init__(self, model: Path, seed: int) -> None:
        self.n_opened = 0
        self.faults: list[str] = []
        self._model = model
        self._draw = random.Random(seed)
        self._texts = draw_texts(seed, 20)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._guard)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the thread."""
        self._is_over.set()
        self._thread.join()

    def _guard(self) -> None:
        try:
            self._open_and_close()
        except BaseException:
            self.faults.append(traceback.format_exc())

    def _open_and_close(self) -> None:
        expected = None
        while not self._is_over.is_set():
            embedder = self._open()
            found = embedder.encode(self._texts)
            expected = found if expected is None else expected
            np.testing.assert_allclose(found, expected, atol=1e-6)
            self._is_over.wait(self._draw.random())
            if self._draw.randrange(4):
                embedder.close()
            del embedder  # closes it, too
            self.n_opened += 1

    def _open(self) -> Embedder:
        return Embedder(
            self._model, n_threads=1, n_ctx=N_CTX, n_ubatch=self._draw.choice((64, 512))
        )


def run(
    models: list[Path], seconds: float, seed: int, limit: float = LIMIT, n_openers: int = 2
) -> dict[str, Any]:
    """Runs the load; returns what came of it."""
    with Embedder(models[0], n_threads=1, n_ctx=N_CTX) as embedder:  # what is loaded once
        embedder.encode("a")
    gc.collect()
    before = sample(time.monotonic())
    embedder = Embedder(models[0], n_threads=2, n_ctx=N_CTX)
    load = Load(embedder, seed)
    load.start(n_threads=8, n_coroutines=8, daemon=False)
    others = models[1:] or models
    openers = [Opener(others[i % len(others)], seed + i) for i in range(n_openers)]
    start = time.monotonic()
    samples = []
    while time.monotonic() < start + seconds:
        time.sleep(EVERY_S)
        samples.append(sample(start))
    for opener in openers:
        opener.stop()
    faults = load.stop() + [fault for opener in openers for fault in opener.faults]
    embedder.close()
    del load.embedder, embedder
    gc.collect()
    after = sample(start)
    fifths = [window(samples, seconds, k) for k in range(5)]
    growth = fifths[4]["rss_mb"] / fifths[2]["rss_mb"] - 1
    for what, n in (
        ("thread", after.n_threads - before.n_threads),
        ("file", after.n_files - before.n_files),
    ):
        if n > 0:
            faults.append(f"{n} {what}s are left")
    if growth > limit:
        faults.append(f"resident memory grew by {growth:.2%}")
    return {
        "model": models[0].stem,
        "seconds": seconds,
        "seed": seed,
        "n_calls": load.n_calls,
        "n_rows": load.n_rows,
        "n_errors": load.n_errors,
        "n_opened": sum(opener.n_opened for opener in openers),
        "growth": growth,
        "before": asdict(before),
        "fifths": fifths,
        "after": asdict(after),
        "samples": [asdict(s) for s in samples[:: max(1, len(samples) // 60)]],
        "faults": faults,
    }


def window(samples: list[Sample], seconds: float, k: int) -> dict[str, float]:
    """Medians of the k-th fifth of the time, and the most threads and files in it."""
    part = [
        s
        for s in samples
        if k <= s.seconds / seconds * 5 < k + 1 or k == 4 < s.seconds / seconds * 5
    ]
    return {
        "rss_mb": statistics.median(s.rss_mb for s in part),
        "anonymous_mb": statistics.median(s.anonymous_mb for s in part),
        "in_use_mb": statistics.median(s.in_use_mb for s in part),
        "n_threads": max(s.n_threads for s in part),
        "n_files": max(s.n_files for s in part),
    }


COLUMNS = (
    ("model", "{model}"),
    ("when", "{when}"),
    ("calls", "{n_calls}"),
    ("rows", "{n_rows}"),
    ("opened", "{n_opened}"),
    ("RSS", "{rss_mb:.2f} MB"),
    ("anonymous", "{anonymous_mb:.2f} MB"),
    ("malloc in use", "{in_use_mb:.2f} MB"),
    ("threads", "{n_threads}"),
    ("files", "{n_files}"),
)


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table."""
    minutes = result["seconds"] / 300
    names = [f"from {minutes * k:.3g} min" for k in range(5)]
    named = [("before", result["before"]), *zip(names, result["fifths"], strict=True)]
    named.append(("all closed", result["after"]))
    totals = {key: result[key] for key in ("n_calls", "n_rows", "n_opened")}
    return [
        {"model": result["model"], **dict.fromkeys(totals, ""), **what, "when": name}
        | (totals if name == "all closed" else {})
        for name, what in named
    ]


def main() -> int:
    """Runs it, prints the table, and saves it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=LIMIT, help="of growth, %(default)s")
    parser.add_argument("--openers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--save", action="store_true", help="to benchmarks/results")
    args = parser.parse_args()
    result = run(args.models, args.seconds, args.seed, args.limit, args.openers)
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import report

    print(report.table(rows(result), COLUMNS))
    print(
        f"soak: {args.seconds:.0f} s, {result['n_calls']} calls, {result['n_rows']} rows, "
        f"{result['n_opened']} embedders opened and closed, RSS {result['growth']:+.2%} "
        f"after warm-up, {len(result['faults'])} faults"
    )
    for fault in result["faults"]:
        print("FAULT:", fault)
    if args.save:
        arguments = ["MODEL"] * len(args.models) + ["--seconds", f"{args.seconds:g}"]
        arguments += ["--openers", str(args.openers)]
        path = report.save([result], arguments, script="../tests/stress/soak.py", suffix="-soak")
        path.with_suffix(".md").write_text(report.markdown(rows(result), COLUMNS), "utf-8")
        print(f"saved to {path}")
    return int(bool(result["faults"]))


if __name__ == "__main__":
    sys.exit(main())
