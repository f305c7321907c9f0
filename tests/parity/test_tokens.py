"""Token ids against Hugging Face's tokenizers: golden ids, and live where the package is there."""

from __future__ import annotations

import random
from importlib.util import find_spec

import golden
import make_tiny_models
import pytest
import rows
import texts
from ggembed import Embedder

needs_tokenizers = pytest.mark.skipif(
    find_spec("tokenizers") is None, reason="the package tokenizers is not installed"
)

N_RANDOM = 1500
SEED = 7


def ids_of(embedder: Embedder, strings: list[str]) -> list[list[int]]:
    return [list(map(int, ids)) for ids in embedder.tokenize(strings)]


def differences(strings, found, wanted) -> dict[str, tuple[list[int], list[int]]]:
    return {
        ascii(s[:80]): (f[:30], w[:30])
        for s, f, w in zip(strings, found, wanted, strict=True)
        if f != w
    }


def golden_ids(name: str, family: str) -> list[list[int]]:
    data = golden.load("tokens.npz")
    assert str(data["texts_sha256"]) == golden.texts_sha256(texts.STRINGS), (
        "run reference.py minilm"
    )
    every = golden.split(data[f"{name}/ids"], data[f"{name}/offsets"])
    families = [*texts.STRING_FAMILIES]
    before = sum(len(texts.STRING_FAMILIES[f]) for f in families[: families.index(family)])
    return every[before : before + len(texts.STRING_FAMILIES[family])]


@pytest.fixture(scope="module")
def minilm_embedder(minilm):
    with rows.embedder(minilm("F16")) as embedder:
        yield embedder


@pytest.mark.parametrize("family", texts.STRING_FAMILIES)
def test_minilm_ids_equal_hugging_face(family, minilm_embedder):
    strings = texts.STRING_FAMILIES[family]
    found = ids_of(minilm_embedder, strings)
    assert not differences(strings, found, golden_ids("minilm", family))


@pytest.mark.parametrize("name", golden.BPE_MODELS)
@pytest.mark.parametrize("family", texts.STRING_FAMILIES)
def test_byte_level_bpe_ids_equal_hugging_face(family, name, tiny):
    strings = texts.STRING_FAMILIES[family]
    with rows.embedder(tiny(name)) as embedder:
        found = ids_of(embedder, strings)
    assert not differences(strings, found, golden_ids(name, family))


def test_there_are_enough_strings(figures):
    n_minilm = n_bpe = 0
    assert len(texts.STRINGS) >= 200
    for family, strings in texts.STRING_FAMILIES.items():
        n_minilm += len(golden_ids("minilm", family))
        n_bpe += sum(len(golden_ids(name, family)) for name in golden.BPE_MODELS)
        assert strings
    figures(f"token ids: {n_minilm} strings on the MiniLM vocabulary, {n_bpe} on byte-level BPE")


def random_strings(n: int) -> list[str]:
    """Pieces of the fixed strings cut and joined at random places: mixes no list would hold."""
    draw = random.Random(SEED)
    out = []
    for _ in range(n):
        pieces = []
        for _ in range(draw.randint(1, 5)):
            text = draw.choice(texts.STRINGS)
            start = draw.randrange(len(text) + 1)
            pieces.append(text[start : start + draw.randint(1, 25)])
        out.append(draw.choice(["", " ", "", "\n"]).join(pieces))
    return out


@needs_tokenizers
def test_minilm_ids_equal_hugging_face_live(minilm, minilm_embedder, figures):
    import tokenizers_reference

    encode = tokenizers_reference.of_gguf(minilm("F16"))
    strings = texts.STRINGS + random_strings(N_RANDOM)
    wanted = [encode(s) for s in strings]
    assert not differences(strings, ids_of(minilm_embedder, strings), wanted)
    figures(f"token ids, live: {len(strings)} strings on the MiniLM vocabulary, seed {SEED}")


@needs_tokenizers
@pytest.mark.parametrize("name", [*golden.BPE_MODELS, "bert-mean"])
def test_tiny_ids_equal_hugging_face_live(name, tiny):
    import tokenizers_reference

    encode = tokenizers_reference.of_vocab(make_tiny_models.build(name))
    strings = texts.STRINGS + random_strings(N_RANDOM)
    with rows.embedder(tiny(name)) as embedder:
        found = ids_of(embedder, strings)
    assert not differences(strings, found, [encode(s) for s in strings])
