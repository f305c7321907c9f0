"""Where the time of encoding goes, as shares of the CPU time of the process.

    python benchmarks/profile_pass.py        # MiniLM in F16 and the v5-small shape, two cases each
    python benchmarks/profile_pass.py --model minilm-q8_0 --case 8,512 --threads 2 --seconds 20

The model encodes the same texts again and again while Linux's `perf` looks 997 times a second at
what runs; functions are gathered by what they do. Names come from the library of the build folder,
which has to be the one that is installed. One thread by default: with more, waiting counts too.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import cases
import corpus
import models
import report
from ggembed import Embedder

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "build" / "wheel" / "csrc" / "libggembed.so"
OTHER = "all else"
# The first that is found in the name of a function; names of the kernel begin with [k].
PARTS = {
    "the system, also for waiting threads": r"^\[k\]",
    "waiting for other threads": r"ggml_barrier|secondary_thread|sched_yield",
    "rounding of activations": r"convert|round_block",
    "products with weights": r"Products|multiply_tile",
    "attention": r"attend|score_block|value_block|Tile::|in_parts|packed_attention",
    "norms": r"_norm|cvar_f32",
    "rotation of positions": r"rope|sincos",
    "activation functions": r"glu_|_unary|gelu|silu",
    "sums, biases, factors": r"forward_(add|mul|scale)|vec_(add|mul)",
    "tokenising": r"WordPiece|Trie|token|unicode|charsmap|llama_vocab",
}
COLUMNS: report.Columns = (
    ("model", "{model}"),
    ("case", "{case}"),
    ("part", "{part}"),
    ("threads", "{n_threads}"),
    ("% of CPU time", "{share:.1f}"),
    ("largest function", "{largest}"),
)


def perf(folder: str, *arguments: str) -> list[str]:
    """A command of perf, with a store of names of its own."""
    return ["perf", "--buildid-dir", folder, *arguments]


def functions(folder: str, data: str) -> list[tuple[float, str]]:
    """Percents of the samples, and what ran: "[.] name" or, of the system, "[k] name"."""
    command = perf(folder, "report", "-i", data, "--no-children", "--sort", "symbol", "-t", ";")
    run = subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    lines = [line.split(";") for line in run.stdout.splitlines() if not line.startswith("#")]
    return [
        (float(cells[0].strip().rstrip("%")), cells[1].strip()) for cells in lines if len(cells) > 1
    ]


def short(name: str) -> str:
    """A function without namespaces and arguments."""
    name = re.sub(r"^\[.\] ", "", name).replace("(anonymous namespace)::", "").replace("gge::", "")
    return name.split("<")[0].split("(")[0]


def gather(found: list[tuple[float, str]]) -> list[dict[str, Any]]:
    """Shares of the parts, the largest first."""
    parts: dict[str, list[tuple[float, str]]] = {}
    for share, name in found:
        part = next((part for part, form in PARTS.items() if re.search(form, name)), OTHER)
        parts.setdefault(part, []).append((share, name))
    lines = [
        {"part": part, "share": sum(share for share, _ in of), "largest": short(max(of)[1])}
        for part, of in parts.items()
    ]
    return sorted(lines, key=lambda line: -line["share"])


def profile(name: str, case: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each part of one model's work on one case."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Embedder(models.path_of(name), device="cpu", n_threads=args.threads) as embedder,
    ):
        known = cases.load("cases.toml")
        wanted = known.get(case) or {"tokens": int(case), "n_texts_large": max(1, 512 // int(case))}
        lengths = corpus.lengths(wanted, int(wanted["n_texts_large"]), embedder.info().n_ctx)
        texts = corpus.texts(lengths, embedder.count_tokens)
        embedder.encode(texts)
        subprocess.run(perf(folder, "buildid-cache", "--add", str(args.library)), check=True)
        data = f"{folder}/perf.data"
        record = ("record", "-q", "-e", "cpu-clock", "-F", "997", "-o", data)
        watched = ("-p", str(os.getpid()), "--", "sleep", str(args.seconds))
        with subprocess.Popen(perf(folder, *record, *watched)) as run:
            while run.poll() is None:
                embedder.encode(texts)
        if run.returncode != 0:
            sys.exit(f"perf record ended with {run.returncode}")
        lines = gather(functions(folder, data))
        about = {"model": name, "case": case, "n_threads": embedder.info().n_threads}
    return [about | line for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="profile the encoding of texts by parts")
    parser.add_argument("--model", default="minilm-f16,v5-small-q4_k_m", help="with commas")
    parser.add_argument(
        "--case", default="8,mixed", help="of cases.toml, or tokens of a text, with commas"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the one with names")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    results = [
        line
        for name in args.model.split(",")
        for case in args.case.split(",")
        for line in profile(name, case, args)
    ]
    print(report.table(results, COLUMNS))
    if not args.no_save:
        saved = report.save(results, sys.argv[1:], script="profile_pass.py", suffix="-profile")
        saved.with_suffix(".md").write_text(report.markdown(results, COLUMNS), "utf-8")
        print(f"saved {saved}")


if __name__ == "__main__":
    main()
