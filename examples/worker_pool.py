"""A pool of processes, each with an Embedder of its own; the model's pages are shared by all.

    python examples/worker_pool.py path/to/model.gguf texts.txt rows.npy

`celery_tasks.py` is the like with Celery.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
from ggembed import Embedder

N_PROCESSES = 2
BATCH = 64

embedder: Embedder


def start(model: str, n_threads: int) -> None:
    """Makes the Embedder of a process. Not before the process is there: it survives no fork."""
    global embedder
    embedder = Embedder(model, n_threads=n_threads)


def rows_of(texts: list[str]) -> np.ndarray:
    return embedder.encode_document(texts)


def main(model: str, source: str, target: str) -> None:
    texts = Path(source).read_text("utf-8").splitlines()
    context = multiprocessing.get_context("spawn")
    # The cores are shared out: processes with all of them each would wait for one another.
    n_threads = max(1, multiprocessing.cpu_count() // N_PROCESSES)
    with context.Pool(N_PROCESSES, start, (model, n_threads)) as pool:
        batches = (texts[i : i + BATCH] for i in range(0, len(texts), BATCH))
        rows = np.concatenate(list(pool.imap(rows_of, batches)))
    np.save(target, rows)
    print(f"{len(rows)} rows from {N_PROCESSES} processes")


if __name__ == "__main__":
    main(*sys.argv[1:])
