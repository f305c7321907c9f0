"""The demo: embeds a small real corpus and answers questions from it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import corpus
from .embedder import Embedder
from .progress import ProgressBar

QUESTIONS = (
    "How do I measure how long a small piece of code takes to run?",
    "draw random winners, none of them twice",
    "compare two texts and show the lines that differ",
)
_N_RESULTS = 3


def run(
    model: str | os.PathLike[str],
    questions: Sequence[str] = QUESTIONS,
    *,
    device: str = "auto",
    n_threads: int | None = None,
) -> None:
    """Embeds docstrings of Python's standard library, then prints the best ones per question.

    Parameters
    ----------
    model : str or path-like
        A GGUF file.
    questions : sequence of str, optional
        What to ask.
    device, n_threads
        As for ``Embedder``.
    """
    documents = corpus.stdlib_docstrings()
    with Embedder(model, device=device, n_threads=n_threads) as embedder:
        info = embedder.info()
        print(f"model   {info.name or Path(info.path).name}, {info.quantization}, ", end="")
        print(f"{info.n_params / 1e6:.0f} M parameters, {info.dim} dimensions")
        print(f"device  {info.device} ({info.device_reason}), threads: {info.n_threads}")
        # Some docstrings are longer than the context of a small model.
        texts = [document.text for document in documents]
        counts = np.asarray(embedder.count_tokens(texts)) + _prompt_tokens(embedder)
        kept = [i for i, count in enumerate(counts) if count <= info.n_ctx]
        documents, texts = [documents[i] for i in kept], [texts[i] for i in kept]

        with ProgressBar("embedding") as bar:
            start = time.perf_counter()
            rows = embedder.encode_document(texts, progress=bar)
            seconds = time.perf_counter() - start
        n_tokens = int(counts[kept].sum())
        print(f"corpus  {len(texts)} docstrings of Python's standard library, {n_tokens:,} tokens")
        print(
            f"speed   {len(texts) / seconds:,.0f} texts/s, {n_tokens / seconds:,.0f} tokens/s "
            f"({seconds:.2f} s)"
        )
        scores = embedder.similarity(embedder.encode_query(questions), rows)
    for question, row in zip(questions, scores, strict=True):
        print(f"\n{question}")
        for i in np.argsort(-row, kind="stable")[:_N_RESULTS]:
            print(f"  {row[i]:.3f}  {documents[i].name}: {documents[i].first_line}")


def _prompt_tokens(embedder: Embedder) -> int:
    """Tokens that the prompt of documents adds at most."""
    prompt = embedder.prompts.get("document", "")
    return embedder.count_tokens(prompt) if prompt else 0
