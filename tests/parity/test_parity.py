"""ggembed's rows against golden rows of transformers and Sentence Transformers. No torch here."""

from __future__ import annotations

import gguf
import golden
import make_tiny_models
import numpy as np
import pytest
import rows
import texts
from ggembed import UnsupportedError

# The least cosine that a row may have with the reference, by the type of the weight matrices.
#
# F32: what remains are llama.cpp's own roundings: keys and values in F16.
# F16: rounding of the weights adds 6e-7 to that on all-MiniLM-L6-v2.
# BF16: 8 bits of mantissa in every weight, and in every activation that meets one.
# Q8_0: 8-bit weights and, in all kernels, 8-bit activations.
LIMITS = {"F32": 0.999999, "F16": 0.999998, "BF16": 0.9995, "Q8_0": 0.999}
# Our kernel for F16 computes in BF16: weights of all 8 bits that are left of them, found 4e-5.
OWN_LIMITS = {**LIMITS, "F16": 0.9999}
KERNELS = {"auto": OWN_LIMITS, "upstream": LIMITS}

_QUANTISABLE = ("bert-mean", "eurobert-last", "qwen2vl-mean", "llama-embed-mean")


@pytest.fixture(scope="module")
def tiny_golden():
    return golden.load("tiny.npz")


@pytest.mark.parametrize("name", golden.TINY_PARITY)
def test_golden_rows_belong_to_these_weights(name, tiny_golden):
    assert (
        str(tiny_golden[f"{name}/content_sha256"]) == make_tiny_models.build(name).content_sha256()
    ), "the tiny models changed: run reference.py tiny"
    assert int(tiny_golden["seed"]) == make_tiny_models.SEED


@pytest.mark.parametrize("name", golden.TINY_PARITY)
def test_rows_of_ids_equal_the_reference(name, tiny, tiny_golden, figures):
    inputs = golden.tiny_ids(make_tiny_models.build(name))
    with rows.embedder(tiny(name)) as embedder:
        for pooling in golden.POOLINGS:
            found = rows.encode_ids(embedder, inputs, pooling=pooling)
            wanted = tiny_golden[f"{name}/{pooling}"]
            cosine = golden.cosine(found, wanted)
            worst = np.abs(found - wanted).max()
            figures(
                f"parity {embedder.info().architecture}-{pooling} F32: min cosine "
                f"{cosine.min():.8f}, max abs error {worst:.1e} over {len(inputs)} rows"
            )
            assert cosine.min() >= LIMITS["F32"]
            assert worst <= 5e-3  # of values up to 4; see LIMITS


@pytest.mark.parametrize("name", golden.TINY_PARITY)
def test_token_rows_equal_the_reference(name, tiny, tiny_golden):
    ids = golden.tiny_ids(make_tiny_models.build(name))[golden.TOKEN_ROWS_INPUT]
    with rows.embedder(tiny(name)) as embedder:
        found = rows.encode_ids(embedder, [ids], pooling="none")
    wanted = tiny_golden[f"{name}/none"]
    assert found.shape == wanted.shape
    assert golden.cosine(found, wanted).min() >= LIMITS["F32"]


@pytest.mark.parametrize(
    "name", [n for n in golden.TINY_PARITY if f"{n}/text" in golden.load("tiny.npz")]
)
def test_rows_of_texts_equal_the_reference(name, tiny, tiny_golden, figures):
    wanted_ids = golden.split(tiny_golden[f"{name}/text_ids"], tiny_golden[f"{name}/text_offsets"])
    with rows.embedder(tiny(name)) as embedder:
        found_ids = [list(map(int, ids)) for ids in embedder.tokenize(texts.TINY_TEXTS)]
        found = embedder.encode(texts.TINY_TEXTS, normalize_embeddings=False)
        unit = embedder.encode(texts.TINY_TEXTS)
    assert found_ids == wanted_ids
    cosine = golden.cosine(found, tiny_golden[f"{name}/text"])
    figures(f"parity {name} F32, texts: min cosine {cosine.min():.8f} over {len(cosine)} rows")
    assert cosine.min() >= LIMITS["F32"]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-5)
    assert golden.cosine(unit, tiny_golden[f"{name}/text"]).min() >= LIMITS["F32"]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", _QUANTISABLE)
def test_other_weight_types_stay_near_the_reference(
    name, quant, kernels, tmp_path, tiny_golden, figures
):
    model = make_tiny_models.build(name)
    path = tmp_path / "model.gguf"
    make_tiny_models.write(model, path, quant=gguf.GGMLQuantizationType[quant])
    inputs = golden.tiny_ids(model)
    pooling = golden.own_pooling(name)
    with rows.embedder(path, cpu_kernels=kernels) as embedder:
        found = rows.encode_ids(embedder, inputs, pooling=pooling)
        own = embedder.info().cpu_kernels
    cosine = golden.cosine(found, tiny_golden[f"{name}/{pooling}"])
    figures(
        f"parity {name} {quant} by {own or 'upstream'}: min cosine {cosine.min():.8f} over "
        f"{len(cosine)} rows"
    )
    assert cosine.min() >= KERNELS[kernels][quant]


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("bert-no-pooling-key", "bert-mean"),
        ("qwen3-no-pooling-key", "qwen3-last"),
        ("eurobert-last-no-eos-key", "eurobert-last"),
    ],
)
def test_a_missing_key_falls_back_to_the_rule_of_its_family(name, same_as, tiny):
    with rows.embedder(tiny(name)) as a, rows.embedder(tiny(same_as)) as b:
        assert a.info().pooling == b.info().pooling
        np.testing.assert_array_equal(a.encode(texts.TINY_TEXTS), b.encode(texts.TINY_TEXTS))


@pytest.mark.parametrize("name", ["bert-cls", "modern-bert-cls", "qwen3-mean", "eurobert-mean"])
def test_the_pooling_of_the_file_is_used(name, tiny, tiny_golden):
    weights = next(n for n in golden.TINY_PARITY if n.rsplit("-", 1)[0] == name.rsplit("-", 1)[0])
    model = make_tiny_models.build(name)
    pooling = golden.own_pooling(name)
    with rows.embedder(tiny(name)) as embedder:
        assert embedder.info().pooling == pooling
        found = rows.encode_ids(embedder, golden.tiny_ids(model), pooling="default")
    assert golden.cosine(found, tiny_golden[f"{weights}/{pooling}"]).min() >= LIMITS["F32"]


def test_a_reranker_is_refused(tiny):
    with pytest.raises(UnsupportedError, match="rank"):
        rows.embedder(tiny("bert-rank")).encode("a text")


@pytest.mark.parametrize("name", ["qwen3-last", "eurobert-last", "bert-mean"])
def test_a_shorter_row_is_cut_and_then_normalised(name, tiny):
    with rows.embedder(tiny(name)) as embedder:
        full = embedder.encode(texts.TINY_TEXTS, normalize_embeddings=False).astype(np.float64)
        for dim in (1, 7, 16, embedder.dim):
            cut = full[:, :dim] / np.linalg.norm(full[:, :dim], axis=1, keepdims=True)
            found = embedder.encode(texts.TINY_TEXTS, truncate_dim=dim)
            np.testing.assert_allclose(found, cut, atol=2e-6)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("file_type", ["F32", "F16", "Q8_0"])
def test_minilm_rows_equal_sentence_transformers(file_type, kernels, minilm, figures):
    data = golden.load("minilm.npz")
    assert str(data["texts_sha256"]) == golden.texts_sha256(texts.TEXTS), "run reference.py minilm"
    with rows.embedder(minilm(file_type), cpu_kernels=kernels) as embedder:
        own = embedder.info().cpu_kernels or "upstream"
        by_ids = rows.encode_ids(
            embedder, golden.split(data["ids"], data["offsets"]), pooling="mean", normalize=True
        )
        by_text = embedder.encode(texts.TEXTS)
    for how, found in (("ids", by_ids), ("texts", by_text)):
        cosine = golden.cosine(found, data["rows"])
        figures(
            f"parity all-MiniLM-L6-v2 {file_type} by {own}, {how}: min cosine "
            f"{cosine.min():.8f}, mean {cosine.mean():.8f} over {len(cosine)} rows"
        )
    for found in (by_ids, by_text):
        cosine = golden.cosine(found, data["rows"])
        low = np.flatnonzero(cosine < KERNELS[kernels][file_type])
        assert not len(low), {texts.TEXTS[i][:60]: float(cosine[i]) for i in low}
