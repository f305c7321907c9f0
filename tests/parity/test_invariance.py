"""A text's row does not depend on the company it is computed in."""

from __future__ import annotations

import random

import golden
import make_tiny_models
import numpy as np
import pytest
import rows
import texts
from ggembed import Embedder

SEED = 11
LIMIT = 0.99999
BATCHES = (1, 2, 3, 5, 8, 17, 32, 64, 100, 173, 300)

# A bias for each pair of tokens, and a recurrent state: their bits differ with the batch.
INEXACT = ("t5encoder-mean", "lfm2-mean")

# Causal and bidirectional, sliding windows, ALiBi, positions of three parts.
TINY = (
    "bert-mean",
    "bert-cls",
    "jina-bert-v2-mean",
    "modern-bert-mean",
    "eurobert-last",
    "gemma-embedding-mean",
    "qwen2-bidirectional-mean",
    "qwen3-last",
    "qwen3-mean",
    "qwen2vl-mean",
    "gemma3-last",
    "llama-last",
    *INEXACT,
)


def pool_of_texts(n: int, longest: int) -> list[str]:
    """Distinct texts from one character to `longest` words, most of them short."""
    draw = random.Random(SEED)
    words = " ".join(texts.TEXTS[:60]).split()
    out = ["a", "?", "two words"]
    while len(out) < n:
        length = min(longest, max(1, round(draw.lognormvariate(2.3, 1.0))))
        start = draw.randrange(len(words) - length)
        out.append(f"{' '.join(words[start : start + length])} {len(out)}")
    return out


def check(embedder: Embedder, inputs: list[str], *, exact: bool = True) -> tuple[float, int]:
    """Every text alone against the same text in batches of 1 to 300, in a random order."""
    alone = np.stack([embedder.encode(text) for text in inputs])
    draw = random.Random(SEED)
    worst, n_rows = 1.0, 0
    for size in BATCHES:
        picks = [draw.randrange(len(inputs)) for _ in range(size)]
        found = embedder.encode([inputs[i] for i in picks])
        assert found.shape == (size, embedder.dim)
        cosine = golden.cosine(found, alone[picks])
        worst, n_rows = min(worst, float(cosine.min())), n_rows + size
        assert cosine.min() >= LIMIT, (size, inputs[picks[int(cosine.argmin())]][:80])
        if exact:
            np.testing.assert_array_equal(found, alone[picks])
    return worst, n_rows


@pytest.mark.parametrize("name", TINY)
def test_tiny_rows_do_not_depend_on_the_batch(name, tiny, figures):
    inputs = pool_of_texts(80, longest=60)
    with rows.embedder(tiny(name)) as embedder:
        alone = np.stack([embedder.encode(text) for text in inputs])
        nearest = alone @ alone.T - 2 * np.eye(len(inputs), dtype=np.float32)
        assert np.median(nearest.max(axis=1)) < 0.9999  # else a mixed-up order could pass
        worst, n_rows = check(embedder, inputs, exact=name not in INEXACT)
    figures(f"invariance {name}: min cosine {worst:.8f} over {n_rows} rows, batches 1 to 300")


@pytest.mark.parametrize("file_type", ["F16", "Q8_0"])
def test_minilm_rows_do_not_depend_on_the_batch(file_type, minilm, figures):
    with rows.embedder(minilm(file_type)) as embedder:
        worst, n_rows = check(embedder, pool_of_texts(80, longest=100))
    figures(f"invariance all-MiniLM-L6-v2 {file_type}: min cosine {worst:.8f} over {n_rows} rows")


@pytest.mark.parametrize("name", ["qwen3-last", "qwen2vl-mean", "gemma3-last", "llama-last"])
def test_a_long_text_runs_whole_whatever_the_micro_batch(name, tiny, figures):
    inputs = golden.tiny_ids(make_tiny_models.build(name))
    wanted = golden.load("tiny.npz")
    worst = 1.0
    for n_ubatch in (16, 33, 64, 512):
        with rows.embedder(tiny(name), n_ubatch=n_ubatch) as embedder:
            for pooling in golden.POOLINGS:
                found = rows.encode_ids(embedder, inputs, pooling=pooling)
                cosine = golden.cosine(found, wanted[f"{name}/{pooling}"])
                worst = min(worst, float(cosine.min()))
                assert cosine.min() >= LIMIT, (n_ubatch, pooling)
    figures(f"invariance {name}, micro-batches of 16 to 512 tokens: min cosine {worst:.8f}")


@pytest.mark.parametrize("name", ["bert-mean", "eurobert-last", "qwen2-bidirectional-mean"])
def test_a_bidirectional_text_longer_than_the_micro_batch_is_whole(name, tiny):
    inputs = golden.tiny_ids(make_tiny_models.build(name))
    wanted = golden.load("tiny.npz")
    with rows.embedder(tiny(name), n_ubatch=32) as embedder:
        for pooling in golden.POOLINGS:
            found = rows.encode_ids(embedder, inputs, pooling=pooling)
            assert golden.cosine(found, wanted[f"{name}/{pooling}"]).min() >= LIMIT


@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last", "modern-bert-mean"])
def test_rows_do_not_depend_on_threads_and_micro_batches(name, n_threads, tiny):
    inputs = pool_of_texts(80, longest=60)
    with rows.embedder(tiny(name)) as embedder:
        wanted = embedder.encode(inputs)
    for n_ubatch in (32, 150, 1024):
        options = {"n_threads": n_threads, "n_ubatch": n_ubatch}
        with Embedder(tiny(name), device="cpu", **options) as embedder:
            np.testing.assert_array_equal(embedder.encode(inputs), wanted)


@pytest.mark.parametrize("name", ["qwen3-last", "eurobert-last"])
def test_token_rows_do_not_depend_on_the_batch(name, tiny):
    inputs = pool_of_texts(40, longest=60)
    with rows.embedder(tiny(name)) as embedder:
        together = embedder.encode(inputs, output_value="token_embeddings")
        for text, found in zip(inputs, together, strict=True):
            alone = embedder.encode(text, output_value="token_embeddings")
            assert found.shape == alone.shape
            assert golden.cosine(found, alone).min() >= LIMIT
