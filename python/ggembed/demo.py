"""The demos: one answers questions from a small real corpus, one shows the path of media."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import _demo_media, corpus, demo_omni
from .embedder import Embedder
from .media import Audio, Image, Pdf, Video
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


def run_omni(*, device: str = "auto", n_threads: int | None = None) -> None:
    """Embeds a text, an image, a sound, a video, a PDF and a fused input in one call.

    Model and media are made on the spot. The weights are random: only the path is shown.

    Parameters
    ----------
    device, n_threads
        As for ``Embedder``.

    Raises
    ------
    MissingExtraError
        Packages of the extras demo and media are not installed.
    """
    _demo_media.check_packages()
    with tempfile.TemporaryDirectory(prefix="ggembed-") as name:
        model = demo_omni.write_models(name).model
        inputs = _inputs(_demo_media.write(Path(name)))
        with Embedder(model, modality="omni", device=device, n_threads=n_threads) as embedder:
            info = embedder.info()
            print(f"model   {info.name}: {info.n_layer} layers, {info.dim} dimensions, ", end="")
            print("encoders for images and sound")
            print("        All of its weights are RANDOM: this shows that every kind of input")
            print("        comes through, and how. The similarities below mean nothing.")
            print(f"device  {info.device} ({info.device_reason}), threads: {info.n_threads}\n")
            _print_rows(embedder, inputs)


def _inputs(files: _demo_media.MediaFiles) -> Mapping[str, Any]:
    """What is embedded, each as one input, with what it is called."""
    return {
        "a text": "a square that moves to the right",
        "an image, 320 x 240": Image(files.image),
        "a sound, 2 s of stereo": Audio(files.sound),
        "a video, 8 frames": Video(files.video),
        "a PDF, 2 pages": Pdf(files.document),
        "a text and an image": ["a gradient: ", Image(files.image)],
    }


def _print_rows(embedder: Embedder, inputs: Mapping[str, Any]) -> None:
    """Embeds inputs in one call, and one by one."""
    everything = list(inputs.values())
    embedder.encode(everything)  # loads the decoders, so that these count for nobody
    start = time.perf_counter()
    encoded = embedder.encode(everything, return_info=True)
    together = time.perf_counter() - start
    alone, seconds = [], []
    for item in everything:
        start = time.perf_counter()
        alone.append(embedder.encode([item])[0])
        seconds.append(time.perf_counter() - start)

    to_text = embedder.similarity(encoded.rows[0], encoded.rows)[0]
    print(f"{'input':<24}{'tokens':>8}{'ms':>10}{'similarity to the text (random!)':>35}")
    for i, label in enumerate(inputs):
        print(f"{label:<24}{encoded.n_tokens[i]:>8,}{1000 * seconds[i]:>10,.1f}{to_text[i]:>35.3f}")
    same = np.einsum("ij,ij->i", np.stack(alone), encoded.rows).min()
    print(f"\nall {len(inputs)} in one call: {1000 * together:,.1f} ms, ", end="")
    print(f"the same rows as one by one (lowest cosine {same:.6f})")


def _prompt_tokens(embedder: Embedder) -> int:
    """Tokens that the prompt of documents adds at most."""
    prompt = embedder.prompts.get("document", "")
    return embedder.count_tokens(prompt) if prompt else 0
