"""Contexts for embeddings against upstream's own way, over tiny models of many architectures.

An embedding context has no vocabulary head and gives only the rows that are wanted; where the
attention is plain it has no cache and no mask. `plain` is what upstream does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import make_tiny_decoders
import make_tiny_models
import numpy as np
import pytest
from ggembed import Embedder, quantize

LIMIT = 0.99999

# Longer and shorter than the sliding windows of 16 tokens.
LENGTHS = (33, 1, 60, 2, 16, 7, 17)
N_UBATCH = 256

# With a head; those of make_tiny_models have the pooling in their names.
DECODERS = (
    *(n for n in make_tiny_decoders.NAMES if n != "neo-bert"),
    "qwen3-last",
    "qwen2vl-mean",
    "llama-last",
    "llama-embed-mean",
    "gemma3-last",
    "lfm2-mean",
)
ENCODERS = (
    "bert-mean",
    "nomic-bert-mean",
    "jina-bert-v2-mean",
    "jina-bert-v3-mean",
    "modern-bert-mean",
    "neo-bert",
    "eurobert-last",
    "gemma-embedding-mean",
    "t5encoder-mean",
)

# Latent attention, states, keys and values that later layers read again, a bias per pair of tokens.
NOT_CACHELESS = {"deepseek2", "mamba", "jamba", "lfm2-mean", "gemma4", "t5encoder-mean"}

Batch = tuple[list[int], list[int], list[int]]


def build(name: str) -> make_tiny_models.TinyModel:
    maker = make_tiny_decoders if name in make_tiny_decoders.NAMES else make_tiny_models
    return maker.build(name)


@pytest.fixture(scope="module")
def open_model(internals, tmp_path_factory):
    """Gives the compute state of a model; files are written once."""
    folder = tmp_path_factory.mktemp("contexts")

    def get(name: str, n_vocab: int = 0, *, n_ubatch: int = N_UBATCH, **how: bool) -> Any:
        path = folder / f"{name}-{n_vocab}.gguf"
        if not path.exists():
            model = build(name)
            if n_vocab:
                model = make_tiny_decoders.with_vocabulary(model, n_vocab)
            make_tiny_models.write(model, path)
        return internals.Compute(str(path), n_ubatch, **how)

    return get


def sequence(length: int) -> list[int]:
    """Fixed ids of ordinary tokens, in every vocabulary of the tiny models."""
    draw = make_tiny_models.random_uniform(f"contexts/{length}", (length,)) / np.sqrt(12) + 0.5
    return [10 + int(v * 180) for v in draw]


def batch(lengths: tuple[int, ...]) -> Batch:
    ids, positions, sequences = [], [], []
    for i, length in enumerate(lengths):
        ids += sequence(length)
        positions += range(length)
        sequences += [i] * length
    return ids, positions, sequences


def cosine(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    dot = (found.astype(np.float64) * wanted).sum(axis=1)
    return dot / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


def scratch_bytes(compute: Any) -> int:
    """What a context holds beside weights and cache, after a full micro-batch."""
    n = N_UBATCH // 2
    compute.run(*batch((n, n)))
    memory = compute.memory
    return memory["compute_device"] + memory["compute_host"] + memory["output_host"]


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_the_memory_of_a_context_does_not_depend_on_the_vocabulary(name, open_model):
    small, large = (scratch_bytes(open_model(name, n)) for n in (1_000, 20_000))
    assert small == large


@pytest.mark.parametrize("name", ["qwen3-last", "gpt2", "mamba"])
def test_upstreams_memory_does(name, open_model):
    small, large = (scratch_bytes(open_model(name, n, plain=True)) for n in (1_000, 20_000))
    assert large - small >= 19_000 * N_UBATCH * 4  # a logit for each token, if not two


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_the_rows_are_those_that_upstream_computes(name, open_model):
    packed = batch(LENGTHS)
    wanted = open_model(name, plain=True).run(*packed)
    found = open_model(name).run(*packed)
    assert np.isfinite(found).all()
    assert cosine(found, wanted).min() >= LIMIT
    assert np.median(cosine(wanted[1:], wanted[:-1])) < 0.9  # else a mixed-up order could pass


@pytest.mark.parametrize("flash_attention", [True, False])
@pytest.mark.parametrize("name", [n for n in (*DECODERS, *ENCODERS) if n not in NOT_CACHELESS])
def test_attention_in_streams_as_on_other_devices_gives_the_same_rows(
    name, flash_attention, open_model
):
    packed = batch(LENGTHS)
    wanted = open_model(name).run(*packed)
    found = open_model(name, streams=True, flash_attention=flash_attention).run(*packed)
    assert np.min(cosine(found, wanted)) >= LIMIT


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_wanted_row_is_bit_identical_to_the_same_row_among_all(name, open_model):
    packed = batch(LENGTHS)
    compute = open_model(name)
    everything = compute.run(*packed)
    ends = np.cumsum(LENGTHS)
    for chosen in (ends - 1, ends - LENGTHS, ends[2:3] - 1):  # last, first, of one sequence only
        wanted = np.zeros(len(everything), dtype=int)
        wanted[chosen] = 1
        found = compute.run(*packed, wanted=wanted.tolist())
        np.testing.assert_array_equal(found, everything[chosen])


@pytest.mark.parametrize("name", [n for n in (*DECODERS, *ENCODERS) if n not in NOT_CACHELESS])
def test_a_sequence_among_strangers_has_the_bits_that_it_has_alone(name, open_model):
    compute = open_model(name)
    together = compute.run(*batch(LENGTHS))
    for end, length in zip(np.cumsum(LENGTHS), LENGTHS, strict=True):
        alone = compute.run(*batch((length,)))
        np.testing.assert_array_equal(together[end - length : end], alone)


@pytest.mark.parametrize("name", [n for n in (*DECODERS, *ENCODERS) if n not in NOT_CACHELESS])
def test_batches_of_one_size_share_a_graph(name, open_model):
    compute = open_model(name)
    first = compute.run(*batch((7, 5, 4)))
    assert compute.n_graphs_reused == 0
    for lengths in ((8, 8), (16,), (1, 15), (7, 5, 4)):  # the sequences may be others
        last = compute.run(*batch(lengths))
    assert compute.n_graphs_reused == 4
    np.testing.assert_array_equal(first, last)
    compute.run(*batch((24,)))
    assert compute.n_graphs_reused == 4


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_no_cache_where_attention_is_plain(name, open_model):
    compute = open_model(name)
    assert compute.cacheless == (name not in NOT_CACHELESS)
    assert not open_model(name, plain=True).cacheless
    if compute.cacheless:
        assert compute.memory["cache_device"] == compute.memory["cache_host"] == 0


def test_long_inputs_have_a_cache_where_attention_would_take_quadratic_memory(open_model):
    packed = batch(LENGTHS)
    compute = open_model("qwen3-last", flash_attention=False)  # longer than a micro-batch
    assert compute.memory["cache_host"] > 0
    found, wanted = compute.run(*packed), open_model("qwen3-last").run(*packed)
    assert np.min(cosine(found, wanted)) >= LIMIT


@pytest.mark.parametrize("name", [n for n in (*DECODERS, *ENCODERS) if n not in NOT_CACHELESS])
def test_memory_without_a_cache_is_linear_in_the_tokens(name, open_model):
    n_bytes = {}
    for n in (128, 512):
        compute = open_model(name, n_ubatch=n)
        compute.run(*batch((n,)))
        n_bytes[n] = compute.memory["compute_device"] + compute.memory["compute_host"]
    assert n_bytes[512] <= 4.1 * n_bytes[128]


@pytest.fixture(scope="module", params=["F16", "BF16", "Q8_0", "Q6_K", "Q4_K_M"])
def quantized(request, internals, tmp_path_factory):
    """The compute states of a causal and a bidirectional model with other weights."""
    folder = tmp_path_factory.mktemp("quantized")
    out = []
    for name in ("qwen3-wide-last", "eurobert-wide-last"):
        source = make_tiny_models.make(name, folder / f"{name}.gguf")
        path = quantize(source, folder / f"{name}-{request.param}.gguf", request.param)
        out.append(internals.Compute(str(path), N_UBATCH))
    return out


def test_quantized_rows_depend_neither_on_strangers_nor_on_what_is_wanted(quantized):
    packed = batch(LENGTHS)
    ends = np.cumsum(LENGTHS)
    for compute in quantized:
        together = compute.run(*packed)
        last = np.isin(np.arange(ends[-1]), ends - 1).astype(int)
        found = compute.run(*packed, wanted=last.tolist())
        np.testing.assert_array_equal(found, together[ends - 1])
        for end, length in zip(ends, LENGTHS, strict=True):
            alone = compute.run(*batch((length,)))
            np.testing.assert_array_equal(together[end - length : end], alone)


def test_a_row_keeps_its_bits_beside_a_long_text_where_positions_scale_with_the_context(tmp_path):
    model = build("llama-last")
    half = 8  # of the dimensions that are rotated
    scaling = {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 600}
    factors = {
        "rope_factors_long.weight": np.full(half, 4, np.float32),
        "rope_factors_short.weight": np.ones(half, np.float32),
    }
    path = tmp_path / "longrope.gguf"
    make_tiny_models.write(
        replace(model, keys={**model.keys, **scaling}, tensors={**model.tensors, **factors}), path
    )
    short, long = "a short text", "ab" * 400  # of more tokens than a micro-batch and than 600
    with Embedder(path) as embedder:
        alone = embedder.encode([short])
        beside = embedder.encode([short, long])[:1]
        after = embedder.encode([short])
    assert alone.tobytes() == beside.tobytes() == after.tobytes()
