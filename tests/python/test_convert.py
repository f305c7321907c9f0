"""The converter: BERT safetensors to GGUF."""

from __future__ import annotations

import builtins
import json

import gguf
import numpy as np
import pytest
from ggembed import (
    Embedder,
    MissingExtraError,
    ModelFileError,
    ModelFormatError,
    Pooling,
    UnsupportedError,
)
from ggembed.convert import convert_bert
from safetensors.numpy import save_file

WIDTH, FFN, LAYERS, HEADS, CONTEXT = 32, 64, 2, 2, 40
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "answer", "##s", "question", "a"]


def bert_tensors():
    random = np.random.default_rng(3)

    def matrix(*shape):
        return random.normal(0, 0.2, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": matrix(len(VOCABULARY), WIDTH),
        "embeddings.position_embeddings.weight": matrix(CONTEXT, WIDTH),
        "embeddings.token_type_embeddings.weight": matrix(2, WIDTH),
        "embeddings.LayerNorm.weight": matrix(WIDTH),
        "embeddings.LayerNorm.bias": matrix(WIDTH),
        "embeddings.position_ids": np.arange(CONTEXT)[None],
        "pooler.dense.weight": matrix(WIDTH, WIDTH),
    }
    for i in range(LAYERS):
        shapes = {
            "attention.self.query": (WIDTH, WIDTH),
            "attention.self.key": (WIDTH, WIDTH),
            "attention.self.value": (WIDTH, WIDTH),
            "attention.output.dense": (WIDTH, WIDTH),
            "attention.output.LayerNorm": (WIDTH,),
            "intermediate.dense": (FFN, WIDTH),
            "output.dense": (WIDTH, FFN),
            "output.LayerNorm": (WIDTH,),
        }
        for name, shape in shapes.items():
            tensors[f"encoder.layer.{i}.{name}.weight"] = matrix(*shape)
            tensors[f"encoder.layer.{i}.{name}.bias"] = matrix(shape[0])
    return tensors


def write_model(folder, *, config=(), tokenizer=(), tensors=None, pooling="mean_tokens"):
    (folder / "1_Pooling").mkdir()
    base = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "vocab_size": len(VOCABULARY) + 2,
    }
    (folder / "config.json").write_text(json.dumps({**base, **dict(config)}))
    special = [
        {"id": i, "content": token, "special": True} for i, token in enumerate(VOCABULARY[:5])
    ]
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    base = {
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        "model": {
            "type": "WordPiece",
            "continuing_subword_prefix": "##",
            "vocab": vocabulary,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps({**base, **dict(tokenizer)}))
    pooling_config = {f"pooling_mode_{pooling}": True, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling_config))
    tensors = bert_tensors() if tensors is None else tensors
    n_rows = len(VOCABULARY) + 2
    embeddings = tensors.get("embeddings.word_embeddings.weight")
    if embeddings is not None:
        tensors["embeddings.word_embeddings.weight"] = np.resize(embeddings, (n_rows, WIDTH))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def model_dir(tmp_path):
    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("file_type", ["F32", "F16", "Q8_0"])
def test_converted_model_computes(model_dir, tmp_path, file_type):
    write_model(model_dir)
    path = tmp_path / "out" / "model.gguf"
    assert convert_bert(model_dir, path, file_type) == path
    assert [p.name for p in path.parent.iterdir()] == ["model.gguf"]
    with Embedder(path, n_threads=1) as embedder:
        info = embedder.info()
        assert info.name == "tiny-bert"
        assert info.quantization.endswith(file_type)  # llama.cpp says "all F32"
        assert (info.dim, info.n_layer, info.n_ctx) == (WIDTH, LAYERS, CONTEXT)
        assert (info.pooling, info.pooling_source) == (Pooling.MEAN, "file")
        assert (info.token_bos, info.token_sep, info.token_pad) == (2, 3, 0)
        assert embedder.tokenize("The answers: À").tolist() == [2, 5, 6, 7, 1, 9, 3]
        row = embedder.encode("the question")
        np.testing.assert_allclose(np.linalg.norm(row), 1, atol=1e-6)


def test_file_types_agree(model_dir, tmp_path):
    write_model(model_dir)
    rows = {}
    for file_type in ("F32", "F16", "Q8_0"):
        path = convert_bert(model_dir, tmp_path / f"{file_type}.gguf", file_type)
        with Embedder(path, n_threads=1) as embedder:
            rows[file_type] = embedder.encode(["the question", "answers", "a"])
    assert ((rows["F32"] * rows["F16"]).sum(1) > 0.99999).all()
    assert ((rows["F32"] * rows["Q8_0"]).sum(1) > 0.999).all()


def test_tensors_have_the_types_of_the_file_type(model_dir, tmp_path):
    write_model(model_dir)
    for file_type, kind in (("F16", "F16"), ("Q8_0", "Q8_0"), ("F32", "F32")):
        path = convert_bert(model_dir, tmp_path / "x.gguf", file_type)
        types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
        assert types.pop("token_embd.weight") == kind
        assert types["blk.1.attn_q.weight"] == kind
        for name, found in types.items():
            small = name.endswith(".bias") or "norm" in name or name.startswith(("pos", "token_ty"))
            exact = name.endswith(("attn_v.weight", "attn_output.weight")) and kind == "Q8_0"
            assert found == ("F32" if small else "F16" if exact else kind), name


def test_conversion_is_deterministic(model_dir, tmp_path):
    write_model(model_dir)
    first = convert_bert(model_dir, tmp_path / "1.gguf").read_bytes()
    assert convert_bert(model_dir, tmp_path / "2.gguf").read_bytes() == first


def test_old_names_of_tensors_are_read(model_dir, tmp_path):
    renamed = {}
    for name, tensor in bert_tensors().items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        renamed["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    renamed["cls.predictions.bias"] = np.zeros(3, np.float32)
    words = "bert.embeddings.word_embeddings.weight"
    renamed[words] = np.resize(renamed[words], (len(VOCABULARY) + 2, WIDTH))
    write_model(model_dir, tensors=renamed)
    with Embedder(convert_bert(model_dir, tmp_path / "x.gguf")) as embedder:
        assert embedder.encode("a").shape == (WIDTH,)


def test_pooling_is_taken_over(model_dir, tmp_path):
    write_model(model_dir, pooling="cls_token")
    with Embedder(convert_bert(model_dir, tmp_path / "x.gguf")) as embedder:
        assert embedder.info().pooling is Pooling.CLS


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"config": {"model_type": "roberta"}}, UnsupportedError, "model_type 'roberta'"),
        ({"config": {"hidden_act": "relu"}}, UnsupportedError, "hidden_act 'relu'"),
        ({"config": {"vocab_size": 3}}, ModelFormatError, "10 tokens, vocab_size is 3"),
        ({"tokenizer": {"model": {"type": "BPE"}}}, UnsupportedError, "got 'BPE'"),
        ({"pooling": "max_tokens"}, UnsupportedError, "pooling"),
        ({"tensors": {"extra.weight": np.ones(2)}}, UnsupportedError, "tensor 'extra.weight'"),
    ],
    ids=["type", "activation", "vocabulary", "tokenizer", "pooling", "tensor"],
)
def test_other_models_are_refused(model_dir, tmp_path, change, error, message):
    write_model(model_dir, **change)
    with pytest.raises(error, match=message):
        convert_bert(model_dir, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*"))


def test_missing_and_broken_files_are_named(model_dir, tmp_path):
    with pytest.raises(ModelFileError, match=r"config\.json"):
        convert_bert(model_dir, tmp_path / "x.gguf")
    write_model(model_dir)
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        convert_bert(model_dir, tmp_path / "x.gguf")
    (model_dir / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
        convert_bert(model_dir, tmp_path / "x.gguf")
    (model_dir / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json is not a JSON file"):
        convert_bert(model_dir, tmp_path / "x.gguf")
    (model_dir / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelFormatError, match="does not hold a JSON object"):
        convert_bert(model_dir, tmp_path / "x.gguf")


def test_unknown_file_type_is_refused(model_dir, tmp_path):
    with pytest.raises(ValueError, match="file_type must be one of F32, F16, Q8_0, got 'Q4_0'"):
        convert_bert(model_dir, tmp_path / "x.gguf", "Q4_0")


def test_missing_packages_name_the_extra(model_dir, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "safetensors":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"safetensors: pip install 'ggembed\[demo\]'"):
        convert_bert(model_dir, tmp_path / "x.gguf")
