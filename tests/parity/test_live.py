"""The comparison of test_parity.py with torch at run time, on inputs that no golden file holds."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import golden
import make_tiny_adapters
import make_tiny_models
import make_tiny_rerankers
import numpy as np
import pytest
import rows
import texts
import tiny_towers
from fixtures import fetch_minilm
from test_parity import LIMITS
from test_rerankers import LIMIT as LIMIT_SCORES
from test_towers import parts, run_of

_MISSING = [p for p in ("torch", "transformers", "sentence_transformers") if find_spec(p) is None]

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}"),
]

SEED = 23
N_INPUTS = 24


@pytest.fixture(scope="module")
def reference():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reference
        import torch

    torch.set_num_threads(1)
    return reference


@pytest.fixture(scope="module")
def reference_towers(reference):  # noqa: ARG001
    import reference_towers

    return reference_towers


@pytest.fixture(scope="module")
def minilm_folder(tmp_path_factory):
    return fetch_minilm(tmp_path_factory.mktemp("minilm"))


def random_ids(name: str) -> list[list[int]]:
    return random_ids_of(make_tiny_models.build(name))


def random_ids_of(model: make_tiny_models.TinyModel) -> list[list[int]]:
    normal = [i for i, t in enumerate(model.vocab.types) if t == 1]
    draw = np.random.default_rng(SEED)
    lengths = np.clip(draw.lognormal(3.0, 1.0, N_INPUTS).astype(int), 1, 300)
    return [draw.choice(normal, n).tolist() for n in lengths]


@pytest.mark.parametrize("name", golden.TINY_PARITY)
def test_rows_equal_transformers(name, tiny, reference, figures):
    hidden = reference.load(tiny(name))
    inputs = random_ids(name)
    states = [hidden(ids) for ids in inputs]
    with rows.embedder(tiny(name)) as embedder:
        for pooling in golden.POOLINGS:
            wanted = np.stack([golden.pool(s, pooling) for s in states])
            cosine = golden.cosine(rows.encode_ids(embedder, inputs, pooling=pooling), wanted)
            figures(
                f"live {name}, {pooling}: min cosine {cosine.min():.8f} over {len(cosine)} rows"
            )
            assert cosine.min() >= LIMITS["F32"]


@pytest.mark.parametrize("name", golden.TINY_PARITY)
def test_golden_rows_can_be_made_again(name, tiny, reference):
    hidden = reference.load(tiny(name))
    wanted = golden.load("tiny.npz")
    states = [hidden(ids) for ids in golden.tiny_ids(make_tiny_models.build(name))]
    for pooling in golden.POOLINGS:
        found = np.stack([golden.pool(s, pooling) for s in states])
        np.testing.assert_allclose(found, wanted[f"{name}/{pooling}"], atol=2e-4)


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", golden.ADAPTER_BASES)
def test_rows_with_adapters_equal_transformers(name, tiny, tmp_path, figures):
    import reference_adapters

    base, inputs, pooling = make_tiny_models.build(name), random_ids(name), golden.own_pooling(name)
    adapters = [make_tiny_adapters.build(base, n) for n in make_tiny_adapters.NAMES]
    files = [make_tiny_adapters.write(a, tmp_path / f"{i}") for i, a in enumerate(adapters)]
    with rows.Native(tiny(name), files) as native:
        for i, adapter in enumerate(adapters):
            hidden = reference_adapters.load(tiny(name), adapter, 0.7)
            wanted = np.stack([golden.pool(hidden(ids), pooling) for ids in inputs])
            found = native.encode(inputs, pooling=pooling, adapter=i + 1, adapter_scale=0.7)
            cosine = golden.cosine(found, wanted)
            figures(f"live {name}, adapter {i}: min cosine {cosine.min():.8f} over {len(cosine)}")
            assert cosine.min() >= LIMITS["F32"]


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", make_tiny_rerankers.NAMES)
def test_scores_equal_transformers(name, tmp_path, figures):
    import reference_rerankers

    path = make_tiny_rerankers.make(name, tmp_path / "model.gguf")
    score = reference_rerankers.load(name, path)
    pairs = golden.pair_ids(make_tiny_rerankers.build(name), random_ids_of)
    wanted = np.stack([score(ids) for ids in pairs])
    with rows.Native(path) as native:
        worst = np.abs(native.encode(pairs, pooling="rank") - wanted).max()
    figures(f"live rank {name}: max abs error {worst:.1e} over {len(pairs)} pairs")
    assert worst <= LIMIT_SCORES


def test_minilm_rows_equal_sentence_transformers(minilm_folder, minilm, reference, figures):
    inputs = [text[::-1] for text in texts.TEXTS_ENGLISH] + texts.TEXTS_CHINESE + texts.TEXTS_LONG
    wanted = reference.minilm_rows(minilm_folder, inputs)
    with rows.embedder(minilm("F32")) as embedder:
        cosine = golden.cosine(embedder.encode(inputs), wanted)
    figures(f"live all-MiniLM-L6-v2 F32: min cosine {cosine.min():.8f} over {len(cosine)} rows")
    assert cosine.min() >= LIMITS["F32"]


def test_minilm_ids_equal_its_own_tokenizer_file(minilm_folder, minilm):
    import tokenizers_reference

    encode = tokenizers_reference.minilm(minilm_folder / "tokenizer.json")
    with rows.embedder(minilm("F16")) as embedder:
        found = [list(map(int, ids)) for ids in embedder.tokenize(texts.STRINGS)]
    assert found == [encode(text) for text in texts.STRINGS]


@pytest.mark.parametrize("name", golden.TOWERS)
def test_rows_of_towers_equal_transformers(name, internals, reference_towers, figures, tmp_path):
    path = tiny_towers.make(name, tmp_path / f"{name}.gguf", width=48)
    tower = internals.Tower(str(path), 48, "vision" if name in golden.GRIDS else "audio")
    found, wanted = [], []
    for inputs in golden.tower_cases(name).values():
        found += run_of(name, tower)(parts(name, inputs))
        wanted.append(reference_towers.load(name)(*inputs))
    rows, expected = np.concatenate(found), np.concatenate(wanted)
    cosine, worst = golden.cosine(rows, expected), np.abs(rows - expected).max()
    figures(f"live tower {name}: min cosine 1 - {1 - cosine.min():.1e}, max abs error {worst:.1e}")
    assert cosine.min() >= 1 - 1e-11
    assert worst <= 2e-5
