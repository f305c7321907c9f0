"""GOP/s of products with weights on the CPU, by our kernels and by llama.cpp's.

    python benchmarks/micro_matmul.py        # all types, some shapes, 1 and 2 threads
    python benchmarks/micro_matmul.py Q4_K Q8_0 --shape 3072x1024 --tokens 512 --rounds 30
    python benchmarks/micro_matmul.py --torch path/to/python   # and what PyTorch's oneDNN reaches

Both are ops of a graph, what is done to the activations included, and take turns; the fastest round
of each counts. llama.cpp's are those that it would choose for the weights: repacked, or as in the
file. An operation is a multiplication or an addition. Needs a build with GGEMBED_BUILD_TESTS.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import report

ROOT = Path(__file__).parents[1]
OURS = "ggembed"
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("F16", "BF16", "F32"),
)
SHAPES = ("1024x1024", "3072x1024", "1024x3072")
COLUMNS: report.Columns = (
    ("weights", "{type}"),
    ("shape", "{shape}"),
    ("tokens", "{n_tokens}"),
    ("threads", "{n_threads}"),
    ("ours GOP/s", "{ours:.0f}"),
    ("llama.cpp GOP/s", "{theirs:.0f}"),
    ("by", "{by}"),
    ("ratio", "{ratio:.2f}"),
)
TORCH = """
import json, sys, time, torch
torch.set_num_threads({n_threads})
n_out, n_in, n_tokens = {n_out}, {n_in}, {n_tokens}
def best(step, n=20):
    seconds = []
    for _ in range(n):
        start = time.perf_counter(); step(); seconds.append(time.perf_counter() - start)
    return min(seconds)
found = {{}}
with torch.inference_mode():
    for name, type in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        linear = torch.nn.Linear(n_in, n_out, bias=False).to(type)
        rows = torch.randn(n_tokens, n_in).to(type)
        found[name] = best(lambda: linear(rows))
    model = torch.nn.Sequential(torch.nn.Linear(n_in, n_out, bias=False))
    model = torch.ao.quantization.quantize_dynamic(model, {{torch.nn.Linear}}, torch.qint8)
    rows = torch.randn(n_tokens, n_in)
    found["int8"] = best(lambda: model(rows))
print(json.dumps(found))
"""


def by_torch(python: str, numbers: dict[str, int], operations: float) -> str:
    """GOP/s of one shape in each type of PyTorch."""
    run = subprocess.run(
        [python, "-W", "ignore", "-c", TORCH.format(**numbers)],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    found = json.loads(run.stdout)
    return ", ".join(f"{name} {operations / seconds / 1e9:.0f}" for name, seconds in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="time products with weights")
    parser.add_argument("types", nargs="*", metavar="TYPE", help=f"of {', '.join(TYPES)}")
    parser.add_argument("--shape", default=",".join(SHAPES), help="outputs x inputs, with commas")
    parser.add_argument("--tokens", default="8,512", help="with commas")
    parser.add_argument("--threads", default="1,2", help="with commas")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--torch", help="a Python with torch")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "wheel")
    args = parser.parse_args()
    sys.path.insert(0, str(args.build / "tests"))
    internals = importlib.import_module("_ggembed_internals")
    results, torch_lines = [], []
    for shape in args.shape.split(","):
        n_out, n_in = map(int, shape.split("x"))
        for n_tokens in map(int, args.tokens.split(",")):
            for n_threads in map(int, args.threads.split(",")):
                numbers = {"n_out": n_out, "n_in": n_in, "n_tokens": n_tokens}
                operations = 2.0 * n_out * n_in * n_tokens
                for name in args.types or TYPES:
                    found = internals.compare_products(
                        type=name, n_threads=n_threads, n_rounds=args.rounds, **numbers
                    )
                    speeds = {by: operations / min(s) / 1e9 for by, (s, _) in found.items()}
                    by = next(by for by in speeds if by != OURS)
                    ours = speeds.get(OURS, float("nan"))
                    results.append(
                        {"type": name, "shape": shape, "n_tokens": n_tokens, "by": by}
                        | {"n_threads": n_threads, "ours": ours, "theirs": speeds[by]}
                        | {"ratio": ours / speeds[by]}
                    )
                if args.torch:
                    numbers["n_threads"] = n_threads
                    torch_lines.append(
                        f"PyTorch {shape}, {n_tokens} tokens, {n_threads} threads: "
                        f"{by_torch(args.torch, numbers, operations)} GOP/s"
                    )
    print(report.table(results, COLUMNS))
    print(*torch_lines, sep="\n")


if __name__ == "__main__":
    main()
