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

# With 8-bit weights llama.cpp rounds activations to 8 bits too. What differs between batches, the
# order of sums in attention, then decides on which step a value falls: 0.9995 seen.
LIMIT_Q8_0 = 0.999
BATCHES = (1, 2, 3, 5, 8, 17, 32, 64, 100, 173, 300)

# With and without a cache, causal and bidirectional, sliding windows, ALiBi, relative positions,
# a recurrent state.
TINY = (
    "bert-mean",
    "bert-cls",
    "jina-bert-v2-mean",
    "modern-bert-mean",
    "eurobert-last",
    "t5encoder-mean",
    "gemma-embedding-mean",
    "qwen2-bidirectional-mean",
    "qwen3-last",
    "qwen3-mean",
    "qwen2vl-mean",
    "gemma3-last",
    "llama-last",
    "lfm2-mean",
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


def check(embedder: Embedder, inputs: list[str], limit: float = LIMIT) -> tuple[float, int]:
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
        assert cosine.min() >= limit, (size, inputs[picks[int(cosine.argmin())]][:80])
    return worst, n_rows


@pytest.mark.parametrize("name", TINY)
def test_tiny_rows_do_not_depend_on_the_batch(name, tiny, figures):
    inputs = pool_of_texts(80, longest=60)
    with rows.embedder(tiny(name)) as embedder:
        alone = np.stack([embedder.encode(text) for text in inputs])
        nearest = alone @ alone.T - 2 * np.eye(len(inputs), dtype=np.float32)
        assert np.median(nearest.max(axis=1)) < 0.9999  # else a mixed-up order could pass
        worst, n_rows = check(embedder, inputs)
    figures(f"invariance {name}: min cosine {worst:.8f} over {n_rows} rows, batches 1 to 300")


@pytest.mark.parametrize(("file_type", "limit"), [("F16", LIMIT), ("Q8_0", LIMIT_Q8_0)])
def test_minilm_rows_do_not_depend_on_the_batch(file_type, limit, minilm, figures):
    with rows.embedder(minilm(file_type)) as embedder:
        worst, n_rows = check(embedder, pool_of_texts(80, longest=100), limit)
    figures(f"invariance all-MiniLM-L6-v2 {file_type}: min cosine {worst:.8f} over {n_rows} rows")


@pytest.mark.parametrize("name", ["qwen3-last", "qwen2vl-mean", "gemma3-last", "llama-last"])
def test_a_long_text_may_span_micro_batches(name, tiny, figures):
    """Causal models: pooling over pieces of a text equals pooling over the whole."""
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


@pytest.mark.parametrize("name", ["qwen3-last", "eurobert-last"])
def test_token_rows_do_not_depend_on_the_batch(name, tiny):
    inputs = pool_of_texts(40, longest=60)
    with rows.embedder(tiny(name)) as embedder:
        together = embedder.encode(inputs, output_value="token_embeddings")
        for text, found in zip(inputs, together, strict=True):
            alone = embedder.encode(text, output_value="token_embeddings")
            assert found.shape == alone.shape
            assert golden.cosine(found, alone).min() >= LIMIT
