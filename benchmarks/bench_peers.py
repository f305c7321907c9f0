"""Measures ggembed against its peers: the same weights, the same texts, one run, in turns.

    python benchmarks/bench_peers.py --quick --torch path/to/python     # some minutes on two cores
    python benchmarks/bench_peers.py --model v5-small-q4_k_m --case mixed --rounds 5
    python benchmarks/bench_peers.py --contender ggembed,llama-server --no-save

Each contender first tries its settings and keeps the fastest. Then they take turns, each in a
process of its own, A B C A B C ..., and the median round counts. What they need is built when it is
wanted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import cases
import contenders
import corpus
import environments
import models
import numpy as np
import peer_settings
import peers
import report
import turns
from environments import UnavailableError

CONTENDERS = tuple(contenders.CLASSES)
FIRST, REFERENCE = CONTENDERS[0], "sentence-transformers-f32"
QUICK = {"minilm-f16": "short,mixed,single", "v5-small-q4_k_m": "mixed"}
QUICK_TEXTS = 8  # of a large model, so that it ends within a quarter of an hour
FULL = (
    "minilm-f16",
    "minilm-q8_0",
    "v5-small-q4_k_m",
    "v5-small-f16",
    "v5-nano-q4_k_m",
    "v4-q4_k_m",
)
LARGE = 200_000_000  # parameters above which a case has its fewer texts
REFERENCE_TOKENS = 2500
MEMORY_SHARE = 0.85  # of what is free that all contenders of a case may take together

COLUMNS: report.Columns = (
    ("model", "{model}"),
    ("case", "{case}"),
    ("contender", "{contender}"),
    ("tokens", "{n_tokens:.0f}"),
    ("tokens/s", "{tokens_per_s:.0f}"),
    ("texts/s", "{texts_per_s:.1f}"),
    ("ratio", "{ratio:.2f}"),
    ("s/round", "{median_s:.3f}"),
    ("min-max", "{least_s:.3f}-{most_s:.3f}"),
    ("CPU s", "{cpu_s:.2f}"),
    ("others' cores", "{other_cores:.2f}"),
    ("peak MB", "{peak_mb:.0f}"),
    ("above weights", "{above_mb:.0f}"),
    ("cosine", "{cosine:.6f}"),
    ("setting", "{shown}"),
)
DEVICE_COLUMN = ("GPU MB", "{device_mb:.0f}")


@dataclass(frozen=True)
class Subject:
    """A model with the texts of a case."""

    model: str
    path: Path
    case: str
    texts: list[str]
    n_ctx: int
    facts: peer_settings.Facts

    @property
    def label(self) -> dict[str, Any]:
        return {"model": Path(self.model).name, "case": self.case, "n_texts": len(self.texts)}

    def job(self, args: argparse.Namespace) -> dict[str, Any]:
        """What the jobs of all contenders have in common."""
        return {
            "inputs": self.texts,
            "n_tokens": sum(self.facts.n_tokens),
            "per_call": self.facts.per_call,
            "pooling": self.facts.pooling,
            "n_ctx": self.n_ctx,
            "n_threads": args.threads,
        }


def subject(model: str, name: str, args: argparse.Namespace) -> Subject:
    """Makes the texts, with lengths by the tokenizer of ggembed."""
    from ggembed import Embedder

    path = Path(model) if model.endswith(".gguf") else models.path_of(model)
    case = cases.load("cases.toml")[name]
    with Embedder(path, n_threads=args.threads) as embedder:
        info = embedder.info()
        n_texts = args.texts or case["n_texts_large" if info.n_params > LARGE else "n_texts"]
        if args.quick and info.n_params > LARGE:
            n_texts = min(n_texts, QUICK_TEXTS)
        wanted = corpus.lengths(case, n_texts, info.n_ctx)
        texts = corpus.texts(wanted, embedder.count_tokens)
        n_tokens = [int(n) for n in embedder.count_tokens(texts)]
    causal = info.attention.value == "causal"
    facts = peer_settings.Facts(n_tokens, case.get("per_call"), info.pooling.value, causal)
    return Subject(model, path, name, texts, info.n_ctx, facts)


def _some(n_tokens: list[int]) -> list[int]:
    """Places of a few texts, the shortest first, that are cheap to compute once more."""
    order = sorted(range(len(n_tokens)), key=lambda i: n_tokens[i])
    places, total = order[:1], n_tokens[order[0]]
    for place in (order[len(order) // 2], order[-1]):
        total += n_tokens[place]
        if place not in places and total <= REFERENCE_TOKENS:
            places.append(place)
    return places


def reference(what: Subject, args: argparse.Namespace) -> tuple[list[int], np.ndarray] | None:
    """Rows of a few texts by PyTorch in F32 on the CPU, one text at a time; kept for later runs."""
    places = _some(what.facts.n_tokens)
    texts = [what.texts[place] for place in places]
    key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = environments.FOLDER / "reference" / f"{peers.key(what.path)}-{key}.npy"
    if not path.exists():
        place = peers.Place(args.torch, "cpu")
        print(f"{what.label['model']} {what.case} reference ...", file=sys.stderr, flush=True)
        try:
            prepared = peers.prepare(REFERENCE, what.model, what.path, place)
            job = {**prepared, **what.job(args), "inputs": texts, "per_call": None}
            worker = peers.start(job, {"load": {}, "call": {"batch_size": 1}})
            try:
                worker.ask("encode")
                path.parent.mkdir(parents=True, exist_ok=True)
                worker.ask(f"save {path}")
            finally:
                worker.close()
        except (UnavailableError, turns.UnableError) as error:
            print(f"no reference: {error}", file=sys.stderr)
            return None
    return places, np.load(path)


class Trials:
    """Settings of one contender, each tried once."""

    def __init__(self, contender: str, what: Subject, job: dict[str, Any]) -> None:
        self.found: list[dict[str, Any]] = []
        self._job = job
        self._worker: turns.Worker | None = None
        self._load: dict[str, Any] | None = None
        settings = peer_settings.candidates(contender, what.facts)
        try:
            for setting in settings:
                self.found.append({**setting, **self._try(setting)})
        finally:
            self._close()
        able = [x for x in self.found if "seconds" in x]
        if not able:
            raise UnavailableError(self.found[0]["error"])
        best = min(able, key=lambda x: x["seconds"])
        self.best = {"load": best["load"], "call": best["call"]}
        self.peak_bytes: int = max(x["peak_bytes"] for x in able)

    def _try(self, setting: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._worker is None or self._load != setting["load"]:
                self._close()
                self._load = setting["load"]
                self._worker = peers.start(self._job, setting)
            else:
                peers.tune(self._worker, setting)
            seconds = self._worker.ask("encode")["seconds"]
            return {"seconds": seconds, "peak_bytes": self._worker.peak_bytes()}
        except turns.UnableError as error:
            self._close()
            return {"error": str(error)}

    def _close(self) -> None:
        if self._worker:
            self._worker.close()
            self._worker = None


def _start(job: dict[str, Any], setting: dict[str, Any]) -> turns.Worker:
    """A contender for the rounds: what loading took is not in its peak."""
    worker = peers.start(job, setting)
    worker.forget_peak()
    return worker


def _free_bytes() -> int:
    text = Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024


def measure(what: Subject, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders of one case of one model."""
    found = reference(what, args)
    place = peers.Place(args.torch, args.device)
    jobs: dict[str, dict[str, Any]] = {}
    trials: dict[str, Trials] = {}
    errors: dict[str, str] = {}
    for contender in args.contender:
        print(f"{what.label['model']} {what.case} {contender}: trials ...", file=sys.stderr)
        try:
            prepared = peers.prepare(contender, what.model, what.path, place)
            jobs[contender] = {**what.job(args), **prepared}
            trials[contender] = Trials(contender, what, jobs[contender])
        except UnavailableError as error:
            errors[contender] = str(error)
    together = sum(x.peak_bytes for x in trials.values()) < MEMORY_SHARE * _free_bytes()
    starts = {x: partial(_start, jobs[x], trials[x].best) for x in trials}
    match = turns.Match(f"{what.label['model']} {what.case}", starts, together=together)
    match.play(args.rounds)

    results = []
    for contender in args.contender:
        result: dict[str, Any] = {**what.label, "contender": contender, "together": together}
        if contender in errors:
            result["error"] = errors[contender]
        else:
            tried = trials[contender]
            result |= {"setting": tried.best, "trials": tried.found}
            result |= _figures(match.entries[contender], what, found)
        results.append(result)
    _compare(results)
    return results


def _figures(
    entry: turns.Entry, what: Subject, found: tuple[list[int], np.ndarray] | None
) -> dict[str, Any]:
    figures = entry.figures()
    if "error" in figures:
        return figures
    weights_mb = figures["about"].get("weights_mb", what.path.stat().st_size / 1e6)
    n_tokens = figures["n_tokens"]
    figures |= {
        "tokens_per_s": n_tokens / figures["median_s"],
        "texts_per_s": len(what.texts) / figures["median_s"],
        "above_mb": figures["peak_mb"] - weights_mb,
        "same_tokens": round(n_tokens) == sum(what.facts.n_tokens),
        "cosine": float("nan"),
    }
    if found and entry.rows is not None:
        places, rows = found
        own = entry.rows[places]
        norms = np.linalg.norm(own, axis=1) * np.linalg.norm(rows, axis=1)
        figures["cosine"] = float(((own * rows).sum(axis=1) / norms).min())
    return figures


def _compare(results: list[dict[str, Any]]) -> None:
    """Adds how many times as fast ggembed is, and the setting in words."""
    speed = next(
        (x["texts_per_s"] for x in results if x["contender"] == FIRST and "error" not in x), 0
    )
    for result in results:
        if "error" in result:
            continue
        result["ratio"] = speed / result["texts_per_s"] if speed else float("nan")
        setting = {**result["setting"]["load"], **result["setting"]["call"]}
        options = setting.pop("options", [])
        words = [*options, *(f"{name}={value}" for name, value in setting.items())]
        result["shown"] = " ".join(words) or "default"


def _columns(results: list[dict[str, Any]]) -> report.Columns:
    on_device = any("device_mb" in result for result in results)
    if not on_device:
        return COLUMNS
    for result in results:
        result.setdefault("device_mb", float("nan"))
    return (*COLUMNS[:-2], DEVICE_COLUMN, *COLUMNS[-2:])


def _save(results: list[dict[str, Any]], path: Path | None, args: argparse.Namespace) -> Path:
    given = [re.sub(r"[^,=]*/", "", arg) for arg in sys.argv[1:]]
    suffix = f"-peers{args.label}"
    path = report.save(results, given, script="bench_peers.py", suffix=suffix, path=path)
    path.with_suffix(".md").write_text(report.markdown(results, _columns(results)), "utf-8")
    return path


def _plot(path: Path) -> None:
    script = Path(__file__).with_name("plot.py")
    try:
        subprocess.run([environments.python("plot"), str(script), str(path)], check=True)
    except (UnavailableError, subprocess.CalledProcessError) as error:
        print(f"no plot: {error}", file=sys.stderr)


def _several(given: str, known: tuple[str, ...], parser: argparse.ArgumentParser) -> list[str]:
    names = given.split(",")
    for name in names:
        if name not in known and not name.endswith(".gguf"):
            parser.error(f"there is no {name!r}; there are {', '.join(known)}")
    return names


def arguments() -> argparse.Namespace:
    known = tuple(cases.load("cases.toml"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=f"default: {','.join(FULL)}")
    parser.add_argument("--case", help=f"default: {','.join(known)}")
    parser.add_argument("--contender", default=",".join(CONTENDERS), help="default: %(default)s")
    parser.add_argument(
        "--torch", default=sys.executable, help="Python that has sentence-transformers and gguf"
    )
    parser.add_argument("--threads", type=int, help="default: what each contender chooses")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--texts", type=int, help="number of texts, instead of the case's own")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a small set of models and cases")
    parser.add_argument("--label", default="", help="goes into the names of the result files")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    args.contender = _several(args.contender, CONTENDERS, parser)
    given = args.model or ",".join(QUICK if args.quick else FULL)
    args.pairs = [
        (model, case)
        for model in _several(given, models.NAMES, parser)
        for case in _several(
            args.case or (args.quick and QUICK.get(model)) or ",".join(known), known, parser
        )
    ]
    return args


def main() -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    args = arguments()
    results: list[dict[str, Any]] = []
    path = None
    for model, case in args.pairs:
        results += measure(subject(model, case, args), args)
        if not args.no_save:  # after each case, for a run is long
            path = _save(results, path, args)
    print(report.table(results, _columns(results)))
    if path:
        _plot(path)
        print(f"saved {path.relative_to(Path(__file__).parent.parent)}, .md and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
