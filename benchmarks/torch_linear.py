"""Times PyTorch's linear layers for micro_matmul.py, in the Python that has torch.

Reads a line of JSON for each turn: the type (bf16, f32 or int8, which is dynamic), n_out, n_in,
n_tokens, n_threads and how many seconds the turn takes. Answers with the seconds of the fastest
round. int8 is oneDNN's, which PyTorch does not take by itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import torch

LEAST_ROUNDS = 5
TYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "int8": torch.float32}  # of the activations


@lru_cache(maxsize=8)
def layer(kind: str, n_out: int, n_in: int) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(n_in, n_out, bias=False))
    if kind == "int8":
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    return model.to(TYPES[kind])


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
    with torch.inference_mode():
        for line in sys.stdin:
            turn = json.loads(line)
            torch.set_num_threads(turn["n_threads"])
            model = layer(turn["type"], turn["n_out"], turn["n_in"])
            rows = torch.randn(turn["n_tokens"], turn["n_in"]).to(TYPES[turn["type"]])
            model(rows)
            print(fastest(lambda: model(rows), turn["seconds"]), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
