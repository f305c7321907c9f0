"""Embeddings as tasks of Celery: each worker process makes an Embedder of its own when it starts.

    pip install ggembed "celery[redis]"
    MODEL=path/to/model.gguf celery --workdir examples -A celery_tasks worker

Elsewhere: `celery_tasks.rows_of.delay(["a text", "another"]).get()`. With a GPU start the worker
with `--pool threads` or `--pool solo`: drivers of GPUs survive no fork.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_init
from ggembed import Embedder

url = os.environ.get("BROKER", "redis://localhost")
app = Celery("celery_tasks", broker=url, backend=url)

embedder: Embedder


@worker_process_init.connect  # of the pool "prefork", after the fork
def start(**_: Any) -> None:
    global embedder
    embedder = Embedder(os.environ.get("MODEL"))


@worker_init.connect
def start_here(sender: Any, **_: Any) -> None:
    if "prefork" not in str(sender.pool_cls):  # other pools have no processes of their own
        start()


@app.task
def rows_of(texts: list[str]) -> list[list[float]]:
    return embedder.encode_document(texts).tolist()
