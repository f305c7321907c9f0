"""Whether sequences that are packed together pay for each other.

    python benchmarks/packing.py                             # 32 texts of 256 tokens, v5-small
    python benchmarks/packing.py --model v5-nano-q8_0 --texts 8 --rounds 5

The same texts go through the model in micro-batches of one text, of the default budget, and all in
one. They take turns; the table has the medians, and what the work is by its count of operations:
with attention of each text to itself only, and with attention over whole micro-batches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import corpus
import models
import numpy as np
import report
from ggembed import Embedder

COLUMNS: report.Columns = (
    ("model", "{model}"),
    ("packing", "{packing}"),
    ("micro-batches", "{batches}"),
    ("s", "{median_s:.3f}"),
    ("min-max", "{least_s:.3f}-{most_s:.3f}"),
    ("by time", "{by_time:.3f}"),
    ("CPU s", "{cpu_s:.2f}"),
    ("by that", "{by_cpu:.3f}"),
    ("TFLOP, own text", "{own_tflop:.3f}"),
    ("by that", "{by_own:.3f}"),
    ("TFLOP, whole batch", "{whole_tflop:.3f}"),
    ("by that", "{by_whole:.3f}"),
    ("min cosine", "{min_cosine:.7f}"),
)
ALONE = "one text each"


def _linear_flop(shape: models.Shape, n_tokens: int, n_rows: int) -> int:
    """Of all matrix products; the last feed-forward part sees only the rows that are pooled."""
    width, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    attention = 2 * shape.n_embd * (2 * width + 2 * n_kv)
    forward = 2 * shape.n_embd * 3 * shape.n_ff
    in_all = shape.n_layer * attention + (shape.n_layer - 1) * forward
    last = n_rows if shape.pooling == 3 else n_tokens
    return n_tokens * in_all + last * forward


def flop(shape: models.Shape, batches: list[list[int]], *, whole: bool) -> int:
    """Floating-point operations of micro-batches, given the lengths of their texts.

    With `whole` each token is multiplied with all of its micro-batch, as under a mask; else with
    those that it may attend to.
    """
    causal = shape.keys.get("attention.causal", True)
    pairs = 0
    for lengths in batches:
        if whole:
            pairs += sum(lengths) ** 2
        else:
            pairs += sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    n_tokens, n_rows = sum(map(sum, batches)), sum(map(len, batches))
    # Two products per pair and head, each with a multiplication and an addition per value.
    attention = shape.n_layer * 4 * shape.n_head * shape.head_dim * pairs
    return attention + _linear_flop(shape, n_tokens, n_rows)


def _split(lengths: list[int], n_ubatch: int) -> list[list[int]]:
    """Micro-batches of at most n_ubatch tokens, filled in order."""
    batches: list[list[int]] = []
    for n in lengths:
        if not batches or sum(batches[-1]) + n > n_ubatch:
            batches.append([])
        batches[-1].append(n)
    return batches


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    shape = models.SHAPES[args.model.rpartition("-")[0]]
    path = models.path_of(args.model)
    budgets = {ALONE: args.tokens, "default budget": None, "all in one": args.texts * args.tokens}
    engines = {
        name: Embedder(path, device=args.device, n_threads=args.threads, n_ubatch=n)
        for name, n in budgets.items()
    }
    first = engines[ALONE]
    texts = corpus.texts([args.tokens] * args.texts, first.count_tokens)
    lengths = [int(n) for n in first.count_tokens(texts)]
    default = engines["default budget"]
    calls: dict[str, Callable[[], np.ndarray]] = {
        name: lambda engine=engine: engine.encode(texts) for name, engine in engines.items()
    }
    calls["a call each"] = lambda: np.concatenate([default.encode([text]) for text in texts])
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in calls}
    rows = {name: call() for name, call in calls.items()}
    for _ in range(args.rounds):
        for name, call in calls.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            rows[name] = call()
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)

    batches = {name: _split(lengths, engine.info().n_ubatch) for name, engine in engines.items()}
    batches["a call each"] = batches[ALONE] = [[n] for n in lengths]
    own = {name: flop(shape, x, whole=False) for name, x in batches.items()}
    whole = {name: flop(shape, x, whole=True) for name, x in batches.items()}
    medians = {name: statistics.median(x) for name, x in seconds.items()}
    cpu_s = {name: statistics.median(x) for name, x in cpu_seconds.items()}
    results = [
        {
            "model": args.model,
            "packing": name,
            "lengths": lengths,
            "batches": len(batches[name]),
            "seconds": seconds[name],
            "median_s": medians[name],
            "least_s": min(seconds[name]),
            "most_s": max(seconds[name]),
            "by_time": medians[name] / medians[ALONE],
            "cpu_s": cpu_s[name],
            "by_cpu": cpu_s[name] / cpu_s[ALONE],
            "own_tflop": own[name] / 1e12,
            "by_own": own[name] / own[ALONE],
            "whole_tflop": whole[name] / 1e12,
            "by_whole": whole[name] / whole[ALONE],
            "min_cosine": float((rows[name] * rows[ALONE]).sum(axis=1).min()),
        }
        for name in calls
    ]
    for engine in engines.values():
        engine.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="v5-small-q4_k_m", help="default: %(default)s")
    parser.add_argument("--texts", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=256, help="of each; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="default: what ggembed chooses")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    if args.model.rpartition("-")[0] not in models.SHAPES:
        parser.error(f"the shape of {args.model!r} is not known; see models.py --list")
    results = measure(args)
    print(report.table(results, COLUMNS))
    if not args.no_save:
        path = report.save(results, sys.argv[1:], script="packing.py", suffix="-packing")
        path.with_suffix(".md").write_text(report.markdown(results, COLUMNS), "utf-8")
        print(f"saved {path.relative_to(Path(__file__).parent.parent)} and .md")


if __name__ == "__main__":
    main()
