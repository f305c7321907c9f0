"""Tokens/s of whole models with our matrix kernels and with llama.cpp's, by weights and length.

    python benchmarks/cpu_kernels.py             # MiniLM in many types, the v5-small shape in some
    python benchmarks/cpu_kernels.py --model minilm-q8_0 --length 8,128 --rounds 9

Both load the same file in one process and take turns; medians count. Other types of MiniLM than
those of models.py are quantised from its F32 file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import corpus
import ggembed
import models
import report
from ggembed import Embedder, demo_model

MINILM = "minilm-"
MODELS = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_0", "q5_1", "q4_k_m", "q4_0", "q4_1"),
    *("iq4_nl", "iq4_xs"),
)
SHAPES = ("v5-small-q8_0", "v5-small-q4_k_m", "v5-small-bf16", "v5-small-f16")
TOKENS = 2048  # of a round of MiniLM; larger models have a quarter
LARGE = 200_000_000
COLUMNS: report.Columns = (
    ("model", "{model}"),
    ("tokens per text", "{length}"),
    ("kernels", "{kernels}"),
    ("tokens/s", "{ours:.0f}"),
    ("with llama.cpp's", "{theirs:.0f}"),
    ("ratio", "{ratio:.2f}"),
)


def path_of(name: str, folder: Path) -> Path:
    """The file of a model, quantised now if models.py has it not."""
    if name in models.NAMES:
        return models.path_of(name)
    level = name.removeprefix(MINILM).upper()
    return ggembed.quantize(demo_model.path("F32"), folder / f"{name}.gguf", level)


def measure(name: str, path: Path, lengths: list[int], args: argparse.Namespace) -> list[Any]:
    """A line for each length."""
    results = []
    embedders = {
        kernels: Embedder(path, device="cpu", n_threads=args.threads, cpu_kernels=kernels)
        for kernels in ("auto", "upstream")
    }
    own = embedders["auto"]
    n_tokens = TOKENS // (4 if own.info().n_params > LARGE else 1)
    for length in lengths:
        wanted = [min(length, own.info().n_ctx)] * max(1, n_tokens // length)
        texts = corpus.texts(wanted, own.count_tokens)
        total = int(sum(own.count_tokens(texts)))
        seconds: dict[str, list[float]] = {kernels: [] for kernels in embedders}
        for i in range(args.rounds + 1):
            for kernels, embedder in embedders.items():
                start = time.perf_counter()
                embedder.encode(texts)
                if i > 0:  # the first warms up
                    seconds[kernels].append(time.perf_counter() - start)
        ours, theirs = (total / statistics.median(seconds[k]) for k in ("auto", "upstream"))
        line = {"model": name, "length": length, "kernels": own.info().cpu_kernels or "none"}
        results.append(
            {**line, "ours": ours, "theirs": theirs, "ratio": ours / theirs, "seconds": seconds}
        )
        print(report.table(results[-1:], COLUMNS).splitlines()[-1], file=sys.stderr, flush=True)
    for embedder in embedders.values():
        embedder.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="compare matrix kernels in whole models")
    known = ",".join([*(MINILM + level for level in MODELS), *SHAPES])
    parser.add_argument("--model", default=known, help="with commas; default: %(default)s")
    parser.add_argument("--length", default="8,32,128,512", help="tokens of a text, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.model.split(","):
            path = path_of(name, Path(folder))
            results += measure(name, path, [int(n) for n in args.length.split(",")], args)
    print(report.table(results, COLUMNS))
    if not args.no_save:
        saved = report.save(results, sys.argv[1:], script="cpu_kernels.py", suffix="-kernels")
        saved.with_suffix(".md").write_text(report.markdown(results, COLUMNS), "utf-8")
        print(f"saved {saved}")


if __name__ == "__main__":
    main()
