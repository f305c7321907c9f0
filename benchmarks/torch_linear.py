"""Times PyTorch's linear layers for micro_matmul.py, in the Python that has torch.

Reads a line of JSON for each turn: the type (bf16, f32 or int8, which is dynamic), n_out, n_in,
n_tokens, n_threads and how many seconds the turn takes. Answers with the seconds of the fastest
round. PyTorch has to be told to compute floats and int8 by oneDNN; rows of floats are in its layout
before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch.utils import mkldnn

LEAST_ROUNDS = 5


@lru_cache(maxsize=8)
def layer(kind: str, n_out: int, n_in: int) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(n_in, n_out, bias=False)).eval()
    if kind == "int8":
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    return model.to(torch.bfloat16) if kind == "bf16" else mkldnn.to_mkldnn(model)


def rows_of(kind: str, n_tokens: int, n_in: int) -> torch.Tensor:
    rows = torch.randn(n_tokens, n_in)
    if kind == "bf16":
        return rows.bfloat16()
    return rows.to_mkldnn() if kind == "f32" else rows


def fastest(step: Callable[[], object], seconds: float) -> float:
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < LEAST_ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    torch.backends.quantized.engine = "onednn"
    with torch.no_grad():
        for line in sys.stdin:
            turn = json.loads(line)
            torch.set_num_threads(turn["n_threads"])
            model = layer(turn["type"], turn["n_out"], turn["n_in"])
            rows = rows_of(turn["type"], turn["n_tokens"], turn["n_in"])
            model(rows)
            print(fastest(lambda: model(rows), turn["seconds"]), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
