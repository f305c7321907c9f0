"""Loads one GGUF after another as told on standard input, and says in one line how each ended.

Runs as a process of its own, so that a crash is the finding and not the end of the test run.
"""

from __future__ import annotations

import json
import resource
import sys

import numpy as np
from ggembed import Embedder, EmbedError

TEXTS = ["a", "the quick brown fox jumps over the lazy dog", "向量 🙂 naïve\x00<|im_end|> " * 8]

# Far above what the tiny models need, far below what a corrupt size would ask for.
ADDRESS_SPACE = 16 << 30


def run(path: str) -> tuple[str, str]:
    """Loads, tokenises, encodes and closes."""
    try:
        with Embedder(path, device="cpu", n_threads=1) as embedder:
            embedder.info()
            tokens = embedder.tokenize(TEXTS)
            rows = embedder.encode(TEXTS)
            if isinstance(rows, list):  # the file says "no pooling": token rows
                shapes, wanted = [r.shape for r in rows], [(len(t), embedder.dim) for t in tokens]
            else:
                shapes, wanted = [rows.shape], [(len(TEXTS), embedder.dim)]
            if shapes != wanted:
                return "wrong", f"rows {shapes}, wanted {wanted}"
            if not all(np.isfinite(r).all() for r in rows):
                return "wrong", "a row is not finite"
    except EmbedError as err:
        message = str(err)
        if not message or "\n" in message:
            return "wrong", f"{type(err).__name__} with the message {message!r}"
        return type(err).__name__, message
    return "works", ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            end, message = run(json.loads(line))
        except Exception as err:  # any other class is a finding
            end, message = "wrong", f"{type(err).__module__}.{type(err).__name__}: {err}"
        print(json.dumps([end, message]), flush=True)


if __name__ == "__main__":
    main()
