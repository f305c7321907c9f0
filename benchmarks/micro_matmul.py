"""GOP/s of products with weights on the CPU, by our kernels and by llama.cpp's.

    python benchmarks/micro_matmul.py        # all types, some shapes, 1 and 2 threads
    python benchmarks/micro_matmul.py Q4_K Q8_0 --shape 3072x1024 --tokens 512 --seconds 3
    python benchmarks/micro_matmul.py --torch path/to/python   # and what PyTorch's oneDNN reaches
    python benchmarks/micro_matmul.py --build build/x86-64-v3 --kernel avx2,avx-vnni --label=-v3

Both are ops of a graph, what is done to the activations included, and take turns; the fastest round
of each counts. llama.cpp's are those that it would choose for the weights: repacked, or as in the
file. An operation is a multiplication or an addition. PyTorch has a process of its own, whose turns
stand before and after ours; it computes in bfloat16 what we do with F16 and BF16, in float what we
do with F32, and quantised weights in dynamic int8. What it needs for a call counts, which weighs
for few tokens. Needs a build with GGEMBED_BUILD_TESTS.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import report
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

ROOT = Path(__file__).parents[1]
OURS = "ggembed"
ONEDNN = {"F16": "bf16", "BF16": "bf16", "F32": "f32"}  # all others are int8
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("F16", "BF16", "F32"),
)
SHAPES = ("1024x1024", "3072x1024", "1024x3072")
ROUNDS = 5  # of each at least, however long they take
COLUMNS: report.Columns = (
    ("weights", "{type}"),
    ("shape", "{shape}"),
    ("tokens", "{n_tokens}"),
    ("threads", "{n_threads}"),
    ("kernel", "{kernel}"),
    ("ours GOP/s", "{ours:.0f}"),
    ("llama.cpp GOP/s", "{theirs:.0f}"),
    ("built for", "{cpu}"),
    ("by", "{by}"),
    ("ratio", "{ratio:.2f}"),
)
TORCH_COLUMNS: report.Columns = (
    ("oneDNN", "{onednn_type}"),
    ("GOP/s", "{onednn:.0f}"),
    ("ratio", "{onednn_ratio:.2f}"),
)


class Torch(AbstractContextManager["Torch"]):
    """A process that computes linear layers when it is told to."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(Path(__file__).with_name("torch_linear.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, **turn: Any) -> float:
        """The fastest round of a turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(turn), file=self._process.stdin, flush=True)
            return float(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise SystemExit("the process with torch ended") from None

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def internals(build: Path) -> ModuleType:
    """The white-box module of a build."""
    sys.path.insert(0, str(build / "tests"))
    return importlib.import_module("_ggembed_internals")


def cpu_of(build: Path) -> str:
    """What llama.cpp was built for."""
    cache = (build / "CMakeCache.txt").read_text("utf-8")
    return re.search(r"^GGEMBED_CPU:\w+=(.*)$", cache, re.MULTILINE)[1]  # type: ignore[index]


def kernels(module: ModuleType, kind: str, wanted: str) -> list[str]:
    """Of ours for a type: the best, or those that are wanted."""
    known = module.matmul_kernels(kind)
    return [k for k in known if k in wanted.split(",")] if wanted else known[:1]


def measure(
    module: ModuleType, torch: Torch | None, line: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """A line of the table."""
    sizes = {name: line[name] for name in ("n_out", "n_in", "n_tokens", "n_threads")}
    operations = 2.0 * line["n_out"] * line["n_in"] * line["n_tokens"]
    kind = ONEDNN.get(line["type"], "int8")

    def by_torch() -> float:
        return torch.seconds(type=kind, seconds=seconds / 4, **sizes) if torch else 0.0

    before = by_torch()
    found = module.compare_products(
        type=line["type"], kernel=line["kernel"], n_rounds=ROUNDS, seconds=seconds, **sizes
    )
    by = next(name for name in found if name != OURS)
    (ours, _), (theirs, _) = found[OURS], found[by]
    result = line | {
        "by": by,
        "ours": operations / min(ours) / 1e9,
        "theirs": operations / min(theirs) / 1e9,
        "ratio": min(theirs) / min(ours),
        "ratio_of_medians": statistics.median(theirs) / statistics.median(ours),
        "rounds": len(ours),
    }
    if torch:
        fastest = min(before, by_torch())
        result |= {"onednn_type": kind, "onednn": operations / fastest / 1e9}
        result["onednn_ratio"] = fastest / min(ours)
    return result


def lines(module: ModuleType, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is measured: of each shape, the types whose blocks fit its rows."""
    for shape, n_tokens, n_threads, kind in itertools.product(
        args.shape.split(","),
        map(int, args.tokens.split(",")),
        map(int, args.threads.split(",")),
        args.types or TYPES,
    ):
        n_out, n_in = map(int, shape.split("x"))
        if n_in % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] != 0:
            continue
        for kernel in kernels(module, kind, args.kernel):
            line = {"type": kind, "shape": shape, "n_out": n_out, "n_in": n_in, "kernel": kernel}
            yield line | {"n_tokens": n_tokens, "n_threads": n_threads, "cpu": cpu_of(args.build)}


def main() -> None:
    parser = argparse.ArgumentParser(description="time products with weights")
    parser.add_argument("types", nargs="*", metavar="TYPE", help=f"of {', '.join(TYPES)}")
    parser.add_argument("--shape", default=",".join(SHAPES), help="outputs x inputs, with commas")
    parser.add_argument("--tokens", default="8,512", help="with commas")
    parser.add_argument("--threads", default="1,2", help="with commas")
    parser.add_argument("--kernel", default="", help="of ours, with commas; default: the best")
    parser.add_argument("--seconds", type=float, default=0.8, help="of a line")
    parser.add_argument("--torch", help="a Python with torch")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "wheel")
    parser.add_argument("--label", default="", help="added to the names of the files")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    module = internals(args.build)
    columns = COLUMNS + (TORCH_COLUMNS if args.torch else ())
    results = []
    with ExitStack() as stack:
        torch = stack.enter_context(Torch(args.torch)) if args.torch else None
        for line in lines(module, args):
            results.append(measure(module, torch, line, args.seconds))
            print(report.table(results[-1:], columns).splitlines()[-1], file=sys.stderr, flush=True)
    if not results:
        parser.error("no kernel of that name, or no type whose blocks fit the rows")
    print(report.table(results, columns))
    if not args.no_save:
        suffix = f"-matmul{args.label}"
        given = [re.sub(r"[^,=]*/", "", arg) for arg in sys.argv[1:]]  # no folders of this machine
        saved = report.save(results, given, script="micro_matmul.py", suffix=suffix)
        saved.with_suffix(".md").write_text(report.markdown(results, columns), "utf-8")
        print(f"saved {saved}")


if __name__ == "__main__":
    main()
