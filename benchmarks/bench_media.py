"""Measures images, seconds of sound, videos and pages per second, against other programs.

    python benchmarks/bench_media.py --quick                      # a few minutes on two cores
    python benchmarks/bench_media.py --case image,audio --rounds 5
    python benchmarks/bench_media.py --torch path/to/python       # the one that has transformers

All contenders of a case are loaded, each in a process of its own, and take turns: A B C A B C ...
The median round counts. llama-server is built by benchmarks/upstream.py when it is wanted.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import cases
import media_inputs
import models
import numpy as np
import report
import turns
import upstream

CONTENDERS = ("ggembed", "llama-server", "transformers-bf16", "transformers-f32")
FIRST = CONTENDERS[0]

COLUMNS = (
    ("case", "{case}"),
    ("contender", "{contender}"),
    ("unit", "{unit}"),
    ("units/s", "{units_per_s:.3f}"),
    ("ratio", "{ratio:.2f}"),
    ("s/round", "{median_s:.2f}"),
    ("min-max", "{least_s:.2f}-{most_s:.2f}"),
    ("CPU s", "{cpu_s:.1f}"),
    ("others' cores", "{other_cores:.2f}"),
    ("tokens", "{n_tokens:.0f}"),
    ("peak MB", "{peak_mb:.0f}"),
    ("cosine", "{cosine:.5f}"),
)


def _start(contender: str, job: dict[str, Any], args: argparse.Namespace) -> turns.Worker:
    """A contender, loaded and warm."""
    if contender == "llama-server":
        job = {**job, "program": str(upstream.program("llama-server"))}
    python = args.torch if contender.startswith("transformers") else sys.executable
    worker = turns.Worker(python, "media_contenders.py", {**job, "contender": contender})
    worker.ask("warm")
    return worker


def measure(name: str, n: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders of one case."""
    case = cases.load("media_cases.toml")[name]
    tower = "audio" if case["kind"] == "audio" else "vision"
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "model": str(models.path_of(f"{args.model}-{args.type}")),
            "mmproj": str(models.path_of(f"{args.model}-{tower}")),
            "inputs": media_inputs.inputs(case, n, Path(folder)),
            "n_threads": args.threads,
        }
        starts = {x: partial(_start, x, job, args) for x in args.contender}
        match = turns.Match(name, starts)
        match.play(args.rounds)
    label = {"case": name, "unit": case["unit"], "n_inputs": n}
    units = media_inputs.n_units(case, n)
    results = {
        contender: {**label, "contender": contender, **_figures(entry, n, units)}
        for contender, entry in match.entries.items()
    }
    _compare(results, {x: entry.rows for x, entry in match.entries.items() if not entry.error})
    return list(results.values())


def _figures(entry: turns.Entry, n: int, units: float) -> dict[str, Any]:
    found = entry.figures()
    if "error" in found:
        return found
    n_tokens = found["n_tokens"] / n if found["n_tokens"] else float("nan")
    return {**found, "units": units, "units_per_s": units / found["median_s"], "n_tokens": n_tokens}


def _compare(results: dict[str, dict[str, Any]], rows: dict[str, np.ndarray]) -> None:
    """Adds how many times faster ggembed is, and how near rows are to its rows and each other."""
    first = results.get(FIRST, {})
    for contender, result in results.items():
        if "error" in result:
            continue
        speed, own = first.get("units_per_s", float("nan")), rows[contender]
        result["ratio"] = speed / result["units_per_s"]
        same = (own * rows[FIRST]).sum(axis=1) if FIRST in rows else [float("nan")]
        result["cosine"] = float(min(same))
        pairs = (own @ own.T)[np.triu_indices(len(own), 1)]
        result["cosine_between_inputs"] = float(max(pairs)) if len(pairs) else None


def arguments() -> argparse.Namespace:
    known = cases.load("media_cases.toml")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help=f"one or several of: {','.join(known)}")
    parser.add_argument("--model", default="omni-small", choices=["omni-small", "omni-nano"])
    parser.add_argument(
        "--type", default="q8_0", choices=list(models.FILE_TYPES), help="of the text model"
    )
    parser.add_argument(
        "--contender", help=f"default: all that are there, of {','.join(CONTENDERS)}"
    )
    parser.add_argument("--torch", default=sys.executable, help="Python that has transformers")
    parser.add_argument("--threads", type=int, help="default: what each contender chooses")
    parser.add_argument("--inputs", type=int, help="number of inputs, instead of the case's own")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="fewer cases and inputs")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 3)
    count = "n_quick" if args.quick else "n"
    names = args.case.split(",") if args.case else [x for x in known if known[x][count]]
    for name in names:
        if name not in known:
            parser.error(f"no case is named {name!r}; there are {', '.join(known)}")
    args.counts = {x: args.inputs or known[x][count] or known[x]["n"] for x in names}
    args.contender = args.contender.split(",") if args.contender else _found(args)
    for contender in args.contender:
        if contender not in CONTENDERS:
            parser.error(f"no contender is named {contender!r}; there are {', '.join(CONTENDERS)}")
    return args


def _found(args: argparse.Namespace) -> list[str]:
    """The default contenders. With --quick the slow one in F32 stays away."""
    probe = [args.torch, "-c", "import torch, transformers, gguf"]
    has_torch = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    found = [x for x in CONTENDERS if has_torch or not x.startswith("transformers")]
    return [x for x in found if not (args.quick and x == CONTENDERS[-1])]


def main() -> int:
    args = arguments()
    if "llama-server" in args.contender:
        upstream.program("llama-server")  # built before anything is measured
    results: list[dict[str, Any]] = []
    path = None
    given = [re.sub(r"[^,=]*/", "", arg) for arg in sys.argv[1:]]
    for name, n in args.counts.items():
        results += measure(name, n, args)
        if not args.no_save:  # after each case, for a run is long
            path = report.save(results, given, script="bench_media.py", suffix="-media", path=path)
            path.with_suffix(".md").write_text(report.markdown(results, COLUMNS), "utf-8")
    print(report.table(results, COLUMNS))
    if path:
        print(f"saved {path.relative_to(Path(__file__).parent.parent)} and .md")
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
