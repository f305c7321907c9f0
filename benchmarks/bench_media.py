"""Measures images, seconds of sound, videos and pages per second, against other programs.

    python benchmarks/bench_media.py --quick                      # a few minutes on two cores
    python benchmarks/bench_media.py --case image,audio --rounds 5
    python benchmarks/bench_media.py --torch path/to/python       # the one that has transformers

All contenders of a case are loaded, each in a process of its own, and take turns: A B C A B C ...
The median round counts. llama-server is built by benchmarks/llama_server.py when it is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import llama_server
import media_inputs
import models
import numpy as np
import report

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


def cases() -> dict[str, dict[str, Any]]:
    """The content of media_cases.toml."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(Path(__file__).with_name("media_cases.toml").read_text("utf-8"))


class UnableError(Exception):
    """A contender cannot do the input, and says why."""


class Worker:
    """A contender in a process of its own."""

    def __init__(self, python: str, job: dict[str, Any]) -> None:
        script = Path(__file__).with_name("media_contenders.py")
        self._process = subprocess.Popen(
            [python, str(script), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        hello = self._read()
        self.about: dict[str, Any] = hello["about"]
        self._pids: list[int] = hello["pids"]

    def ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"exit status {self._process.wait()}"}
        if "error" in answer:
            raise UnableError(answer["error"])
        return answer

    def cpu_seconds(self) -> float:
        """Of all its processes, those included that have ended."""
        return sum(_cpu_ticks(pid) for pid in self._pids) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """The most memory that its largest process has had, pages of mapped files included."""
        return max(_peak_bytes(pid) for pid in self._pids)

    def close(self) -> None:
        self._process.communicate()


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _busy_ticks() -> int:
    """Of all cores of the machine since it started."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq)))


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


class Round:
    """The figures of one round of one contender."""

    def __init__(self, worker: Worker) -> None:
        busy, own = _busy_ticks(), worker.cpu_seconds()
        answer = worker.ask("encode")
        self.seconds: float = answer["seconds"]
        self.n_tokens: float | None = answer["n_tokens"]
        self.cpu_s = worker.cpu_seconds() - own
        all_cpu_s = (_busy_ticks() - busy) / os.sysconf("SC_CLK_TCK")
        self.other_cores = max(0.0, all_cpu_s - self.cpu_s) / self.seconds


class Match:
    """The contenders of one case. One that fails leaves, and the others go on."""

    def __init__(self, name: str, job: dict[str, Any], args: argparse.Namespace) -> None:
        self.label = {"case": name, "unit": cases()[name]["unit"], "n_inputs": len(job["inputs"])}
        self.workers: dict[str, Worker] = {}
        self.rounds: dict[str, list[Round]] = {}
        self.errors: dict[str, str] = {}
        for contender in args.contender:
            python = args.torch if contender.startswith("transformers") else sys.executable
            with self._turn(contender):
                self.workers[contender] = Worker(python, {**job, "contender": contender})
                self.workers[contender].ask("warm")

    @contextmanager
    def _turn(self, contender: str) -> Iterator[None]:
        print(f"{self.label['case']} {contender} ...", file=sys.stderr, flush=True)
        try:
            yield
        except UnableError as error:
            self.workers.pop(contender, None)
            self.errors[contender] = str(error)

    def play(self, n_rounds: int) -> None:
        for _ in range(n_rounds):
            for contender, worker in list(self.workers.items()):
                with self._turn(contender):
                    self.rounds.setdefault(contender, []).append(Round(worker))

    def rows(self, folder: str) -> dict[str, np.ndarray]:
        """The rows of each contender's last round."""
        path = f"{folder}/rows.npy"
        found = {}
        for contender, worker in self.workers.items():
            worker.ask(f"save {path}")
            found[contender] = np.load(path)
        return found

    def result(self, contender: str, units: float) -> dict[str, Any]:
        label = {**self.label, "contender": contender}
        if contender in self.errors:
            return {**label, "error": self.errors[contender]}
        worker = self.workers[contender]
        return {
            **label,
            **_figures(self.rounds[contender], units),
            "peak_mb": worker.peak_bytes() / 1e6,
            "parts": worker.ask("parts"),
            "about": worker.about,
        }

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def measure(name: str, n: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders of one case."""
    case = cases()[name]
    tower = "audio" if case["kind"] == "audio" else "vision"
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "model": str(models.path_of(f"{args.model}-{args.type}")),
            "mmproj": str(models.path_of(f"{args.model}-{tower}")),
            "inputs": media_inputs.inputs(case, n, Path(folder)),
            "n_threads": args.threads,
        }
        match = Match(name, job, args)
        try:
            match.play(args.rounds)
            rows = match.rows(folder)
            units = media_inputs.n_units(case, n)
            results = {x: match.result(x, units) for x in args.contender}
        finally:
            match.close()
    _compare(results, rows)
    return list(results.values())


def _figures(rounds: list[Round], units: float) -> dict[str, Any]:
    seconds = [x.seconds for x in rounds]
    median = statistics.median(seconds)
    return {
        "units": units,
        "units_per_s": units / median,
        "seconds": seconds,
        "median_s": median,
        "least_s": min(seconds),
        "most_s": max(seconds),
        "cpu_s": statistics.median(x.cpu_s for x in rounds),
        "other_cores": statistics.median(x.other_cores for x in rounds),
        "n_tokens": rounds[-1].n_tokens or float("nan"),
    }


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
    known = cases()
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
        llama_server.build()
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
