"""Measures tokens per second, texts per second and peak memory.

    python benchmarks/bench.py                                    # MiniLM, all cases
    python benchmarks/bench.py --model v5-small-q8_0 --case short,mixed
    python benchmarks/bench.py --model path/to/model.gguf

Every case runs in a process of its own: memory peaks are then its own, and one that fails takes no
other with it. This process imports nothing large. bench_peers.py compares with other programs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import cases
import report

LARGE = 200_000_000
DEFAULT_MODELS = "minilm-f16,minilm-q8_0"


def peak_bytes() -> int:
    """The most memory that this process has had, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, VmHWM forgets what the parent had before exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One model, one case, in this process."""
    import contenders
    import corpus
    import models
    import numpy as np

    name = job["model"]
    path = Path(name) if name.endswith(".gguf") else models.path_of(name)
    start = time.perf_counter()
    contender = contenders.GGEmbed({**job, "model": str(path)})
    load_s = time.perf_counter() - start
    about = contender.describe()
    case = cases.load("cases.toml")[job["case"]]
    large = about.get("n_params", 0) > LARGE
    n_texts = job["n_texts"] or case["n_texts_large" if large else "n_texts"]
    wanted = corpus.lengths(case, n_texts, about["n_ctx"])
    texts = corpus.texts(wanted, contender.count_tokens)
    n_tokens = sum(contender.count_tokens(texts))
    per_call = case.get("per_call", n_texts)
    calls = [texts[i : i + per_call] for i in range(0, n_texts, per_call)]

    contender.encode(texts[:1])
    seconds = []
    for _ in range(job["repeat"]):
        start = time.perf_counter()
        rows = np.concatenate([contender.encode(call) for call in calls])
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes()

    # Speed without the right rows is worth nothing: some texts alone against the same in the batch.
    shortest = sorted(range(len(texts)), key=lambda i: len(texts[i]))[:8]
    alone = np.stack([contender.encode([texts[i]])[0] for i in shortest])
    cosine = (alone * rows[shortest]).sum(axis=1)
    contender.close()
    best = min(seconds)
    return {
        **label(job),
        "n_texts": len(texts),
        "n_tokens": n_tokens,
        "tokens_per_s": n_tokens / best,
        "texts_per_s": len(texts) / best,
        "seconds": seconds,
        "peak_mb": peak / 1e6,
        "load_s": load_s,
        "file_mb": path.stat().st_size / 1e6,
        "min_cosine": float(cosine.min()),
        "about": about,
    }


def label(job: dict[str, Any]) -> dict[str, Any]:
    """What names a result; of a path only the file's name."""
    return {"contender": "ggembed", "case": job["case"], "model": Path(job["model"]).name}


def run_apart(job: dict[str, Any]) -> dict[str, Any]:
    """Measures in a child process."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"exit status {done.returncode}"
    return {**label(job), "error": reason}


def arguments() -> argparse.Namespace:
    known = cases.load("cases.toml")
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Names of models: python benchmarks/models.py --list; or the path of a GGUF file.",
    )
    parser.add_argument("--case", default=",".join(known), help="one or several of: %(default)s")
    parser.add_argument("--model", default=DEFAULT_MODELS, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="default: what ggembed chooses")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--texts", type=int, help="number of texts, instead of the case's own")
    parser.add_argument("--repeat", type=int, default=3, help="the best of %(default)s counts")
    parser.add_argument("--no-save", action="store_true", help="write no JSON file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for case in args.case.split(","):
        if case not in known:
            parser.error(f"no case is named {case!r}; there are {', '.join(known)}")
    return args


def main() -> int:
    args = arguments()
    if args.job:
        print(json.dumps(measure(json.loads(args.job))))
        return 0
    results = []
    for model in args.model.split(","):
        for case in args.case.split(","):
            job = {
                "model": model,
                "case": case,
                "n_threads": args.threads,
                "device": args.device,
                "n_texts": args.texts,
                "repeat": args.repeat,
            }
            print(f"{model} {case} ...", file=sys.stderr, flush=True)
            results.append(run_apart(job))
    print(report.table(results))
    if not args.no_save and any("error" not in result for result in results):
        path = report.save(results, [re.sub(r"[^,=]*/", "", arg) for arg in sys.argv[1:]])
        print(f"saved {path.relative_to(Path(__file__).parent.parent)}")
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
