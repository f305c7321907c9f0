"""Milliseconds that the attention of one layer takes on the CPU, in our way and in ggml's.

    python benchmarks/micro_attention.py                    # every shape and batch, 1 and 2 threads
    python benchmarks/micro_attention.py qwen3 --batch 4x128 --threads 2 --rounds 100

ggml's flash attention gets what llama.cpp gives it: keys and values in F16 and a mask over all
tokens of the batch. Both are ops of a graph and take turns; the fastest round of each counts.
GFLOP/s are those of our way and count only what tokens see of each other: 4 operations per token,
token that it sees, head and dimension. Needs a build with GGEMBED_BUILD_TESTS.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Shape:
    n_heads: int
    n_heads_kv: int
    n_dims: int
    causal: bool


SHAPES = {
    "minilm": Shape(12, 12, 32, causal=False),
    "bert-base": Shape(12, 12, 64, causal=False),
    "qwen3": Shape(16, 8, 128, causal=True),
    "gemma3": Shape(3, 1, 256, causal=False),
}
BATCHES = {
    "1x512": [512],
    "4x128": [128] * 4,
    "64x8": [8] * 64,
    "mixed": [200, 7, 30, 90, 3, 14, 60, 33, 21, 54],
    "1x2048": [2048],
}


def n_operations(shape: Shape, lengths: list[int]) -> int:
    pairs = sum(n * (n + 1) // 2 if shape.causal else n * n for n in lengths)
    return 4 * pairs * shape.n_heads * shape.n_dims


def main() -> None:
    parser = argparse.ArgumentParser(description="time the attention of one layer")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--batch", help=f"of {', '.join(BATCHES)}, with commas")
    parser.add_argument("--threads", default="1,2", help="with commas")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "wheel")
    args = parser.parse_args()
    sys.path.insert(0, str(args.build / "tests"))
    internals = importlib.import_module("_ggembed_internals")
    columns = "".join(f"{name:>10}" for name in ("ours ms", "ggml ms", "ratio", "GFLOP/s"))
    print(f"{'shape':12}{'batch':10}{'threads':>8}{columns}")
    for name in args.shapes or SHAPES:
        shape = SHAPES[name]
        for batch in args.batch.split(",") if args.batch else BATCHES:
            for n_threads in map(int, args.threads.split(",")):
                ours, theirs, _ = internals.compare_attention(
                    lengths=BATCHES[batch],
                    n_heads=shape.n_heads,
                    n_heads_kv=shape.n_heads_kv,
                    n_dims=shape.n_dims,
                    causal=shape.causal,
                    n_threads=n_threads,
                    n_rounds=args.rounds,
                )
                a, b = min(ours), min(theirs)
                speed = n_operations(shape, BATCHES[batch]) / a / 1e9
                figures = f"{a * 1e3:10.3f}{b * 1e3:10.3f}{b / a:10.1f}{speed:10.1f}"
                print(f"{name:12}{batch:10}{n_threads:8}{figures}", flush=True)


if __name__ == "__main__":
    main()
