"""What many callers of one text each get out of one engine, against one call with all texts.

    python benchmarks/concurrency.py                                # MiniLM, 1000 texts
    python benchmarks/concurrency.py --model v5-small-q4_k_m --texts 200 --rounds 5

The same texts go through one engine in one call of encode, from threads that send one text after
the other, and from as many coroutines as there are texts. They take turns; the medians of the
seconds count, and `ratio` is the tokens/s as a part of those of the one call.

The second part is the latency of one short query on an idle engine. `bare pass` is what the engine
itself needs for the query's tokens: gge_encode on tokens that are there already, into an array that
is there already, with no Python around it but the call. `forward` is the part of it in which the
worker computes, from the counter seconds_computing. encode and aencode are whole calls on the text.
These take turns too, query by query; `ratio` is the median over that of the bare pass.

The third part is how long the coroutines of the first hold up their loop: another one sleeps a
millisecond at a time, and a gap is what it sleeps longer. `CPU` is the largest gap in CPU time of
the loop's thread, which other programs of the machine do not stretch. All coroutines begin at once,
on asyncio's loop and on uvloop's where it is installed; `encode` is the gaps of a loop without
calls while a thread encodes the same texts. Python's garbage collector, whose full passes hold up
any loop by tens of milliseconds, is off meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import queue
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import corpus
import models
import numpy as np
import report
from ggembed import Embedder, _native

COLUMNS: report.Columns = (
    ("model", "{model}"),
    ("case", "{case}"),
    ("callers", "{callers}"),
    ("texts", "{n_texts}"),
    ("tokens", "{n_tokens}"),
    ("median", "{median}"),
    ("min-max", "{least}-{most}"),
    ("tokens/s", "{tokens_per_s:.0f}"),
    ("ratio", "{ratio:.3f}"),
    ("fill", "{fill:.2f}"),
)

GAP_COLUMNS: report.Columns = (
    ("model", "{model}"),
    ("case", "{case}"),
    ("callers", "{callers}"),
    ("texts", "{n_texts}"),
    ("99 %", "{gap_99_ms:.1f} ms"),
    ("largest", "{largest_gap_ms:.1f} ms"),
    ("CPU", "{largest_cpu_ms:.1f} ms"),
)
TICK_S = 0.001


def from_threads(engine: Embedder, texts: list[str], n_threads: int) -> np.ndarray:
    """Rows of texts that threads send one by one."""
    rows = np.empty((len(texts), engine.dim), np.float32)
    left: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for i in [*range(len(texts)), *[None] * n_threads]:
        left.put(i)

    def work() -> None:
        while (i := left.get()) is not None:
            engine.encode(texts[i], out=rows[i])

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def from_coroutines(engine: Embedder, texts: list[str], n: int) -> np.ndarray:
    """Rows of texts that n coroutines send one by one."""
    rows = np.empty((len(texts), engine.dim), np.float32)
    asyncio.run(_coroutines(engine, texts, n, rows))
    return rows


async def _coroutines(engine: Embedder, texts: list[str], n: int, rows: np.ndarray) -> None:
    left = iter(range(len(texts)))

    async def work() -> None:
        for i in left:
            await engine.aencode(texts[i], out=rows[i])

    await asyncio.gather(*(work() for _ in range(n)))


def throughput(engine: Embedder, texts: list[str], args: argparse.Namespace) -> list[dict]:
    calls: dict[str, tuple[int, Callable[[], np.ndarray]]] = {
        "one call": (1, lambda: engine.encode(texts)),
        "threads": (args.callers, lambda: from_threads(engine, texts, args.callers)),
        "coroutines": (
            args.coroutines,
            lambda: from_coroutines(engine, texts, args.coroutines),
        ),
    }
    n_tokens = int(engine.count_tokens(texts).sum())
    expected = {name: call() for name, (_, call) in calls.items()}["one call"]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    fills: dict[str, list[float]] = {name: [] for name in calls}
    cosines: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, (_, call) in calls.items():
            before, start = engine.stats(), time.perf_counter()
            rows = call()
            seconds[name].append(time.perf_counter() - start)
            after = engine.stats()
            offered = after.n_tokens_offered - before.n_tokens_offered
            fills[name].append((after.n_tokens - before.n_tokens) / offered)
            cosines[name] = float((rows * expected).sum(axis=1).min())
    bulk = statistics.median(seconds["one call"])
    return [
        {
            "case": name,
            "callers": n_callers,
            "n_texts": len(texts),
            "n_tokens": n_tokens,
            "seconds": seconds[name],
            "tokens_per_s": n_tokens / statistics.median(seconds[name]),
            "ratio": bulk / statistics.median(seconds[name]),
            "fill": statistics.median(fills[name]),
            "min_cosine": cosines[name],
            **_shown(seconds[name]),
        }
        for name, (n_callers, _) in calls.items()
    ]


def latency(engine: Embedder, query: str, n: int) -> list[dict[str, Any]]:
    loop = asyncio.new_event_loop()
    model, native = engine._live()
    data = query.encode()
    tokens = _native.Tokens(
        model, data, np.array([0, len(data)]), end_token=engine.info().end_token
    )
    row = np.empty((1, engine.dim), np.float32)
    pooling = engine.info().pooling.value
    calls: dict[str, Callable[[], Any]] = {
        "bare pass": lambda: native.encode(tokens, row, pooling=pooling),
        "encode": lambda: engine.encode(query),
        "aencode": lambda: loop.run_until_complete(engine.aencode(query)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*calls, "forward"]}
    for i in range(n + n // 10):
        for name, call in calls.items():
            before, start = engine.stats().seconds_computing, time.perf_counter()
            call()
            took = time.perf_counter() - start
            computed = engine.stats().seconds_computing - before
            if i >= n // 10:
                seconds[name].append(took)
                if name == "bare pass":
                    seconds["forward"].append(computed)
    loop.close()
    bare = statistics.median(seconds["bare pass"])
    n_tokens = int(tokens.offsets()[-1])
    return [
        {
            "case": f"query, {name}",
            "callers": 1,
            "n_texts": 1,
            "n_tokens": n_tokens,
            "seconds": taken,
            "tokens_per_s": n_tokens / statistics.median(taken),
            "ratio": statistics.median(taken) / bare,
            "fill": n_tokens / engine.info().n_ubatch,
            **_shown(taken),
        }
        for name, taken in seconds.items()
    ]


async def _gaps(work: Awaitable[Any]) -> np.ndarray:
    """What a coroutine sleeps longer than it asks for while others work, and the CPU time of it."""
    gaps: list[tuple[float, float]] = []

    async def tick() -> None:
        while True:
            start, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            gaps.append((time.perf_counter() - start - TICK_S, time.thread_time() - cpu))

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(5 * TICK_S)
    gaps.clear()
    await work
    await asyncio.sleep(2 * TICK_S)
    ticker.cancel()
    return np.array(gaps)


def loop_gaps(engine: Embedder, texts: list[str], n: int, rounds: int) -> list[dict[str, Any]]:
    rows = np.empty((len(texts), engine.dim), np.float32)
    cases: dict[str, tuple[int, Callable[[], Any], Callable[[], Awaitable[Any]]]] = {
        "encode": (0, asyncio.new_event_loop, lambda: asyncio.to_thread(engine.encode, texts)),
        "asyncio": (n, asyncio.new_event_loop, lambda: _coroutines(engine, texts, n, rows)),
    }
    if importlib.util.find_spec("uvloop"):
        import uvloop

        cases["uvloop"] = (n, uvloop.new_event_loop, cases["asyncio"][2])
    found: dict[str, list[np.ndarray]] = {name: [] for name in cases}
    gc.disable()
    for _ in range(rounds):
        for name, (_, make, work) in cases.items():
            gc.collect()
            loop = make()
            found[name].append(loop.run_until_complete(_gaps(work())))
            loop.close()
    gc.enable()
    results = []
    for name, (n_callers, _, _) in cases.items():
        gaps = np.concatenate(found[name]) * 1e3
        results.append(
            {
                "case": f"loop gap, {name}",
                "callers": n_callers,
                "n_texts": len(texts),
                "gap_99_ms": float(np.quantile(gaps[:, 0], 0.99)),
                "largest_gap_ms": float(gaps[:, 0].max()),
                "largest_cpu_ms": float(gaps[:, 1].max()),
                "largest_gaps_ms": [float(1e3 * one[:, 0].max()) for one in found[name]],
                "largest_cpus_ms": [float(1e3 * one[:, 1].max()) for one in found[name]],
            }
        )
    return results


def _shown(seconds: list[float]) -> dict[str, str]:
    """Median and spread as the table has them."""
    found = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    if found["median"] < 0.1:
        return {name: f"{value * 1e3:.2f} ms" for name, value in found.items()}
    return {name: f"{value:.2f} s" for name, value in found.items()}


def measure(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the first table and of the second."""
    path = models.path_of(args.model)
    with Embedder(path, device=args.device, n_threads=args.threads) as engine:
        texts = corpus.texts([args.tokens] * args.texts, engine.count_tokens)
        query = corpus.texts([args.query_tokens], engine.count_tokens)[0]
        results = throughput(engine, texts, args) + latency(engine, query, args.queries)
        gaps = loop_gaps(engine, texts, args.coroutines, args.rounds)
    first, second = ([{"model": args.model, **one} for one in part] for part in (results, gaps))
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm-f16", help="default: %(default)s")
    parser.add_argument("--texts", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=32, help="of each; default: %(default)s")
    parser.add_argument("--callers", type=int, default=64, help="threads; default: %(default)s")
    parser.add_argument("--coroutines", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--queries", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--query-tokens", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="of the engine; default: what it chooses")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    results, gaps = measure(args)
    print(report.table(results, COLUMNS), report.table(gaps, GAP_COLUMNS), sep="\n\n")
    if not args.no_save:
        everything = [*results, *gaps]
        path = report.save(everything, sys.argv[1:], script="concurrency.py", suffix="-concurrency")
        tables = report.markdown(results, COLUMNS), report.markdown(gaps, GAP_COLUMNS)
        path.with_suffix(".md").write_text("\n".join(tables), "utf-8")
        print(f"saved {path.relative_to(Path(__file__).parent.parent)} and .md")


if __name__ == "__main__":
    main()
