"""Tiny GGUF models with random weights, the same bytes on every machine.

Each has the metadata and tensors of a real architecture at 32 to 64 wide, so that transformers (in
`reference.py`) and ggembed can compute the same rows. Needs numpy and gguf, nothing else.

    python make_tiny_models.py FOLDER [NAME ...]

Weights come from the raw 64-bit words of PCG64, scaled to a uniform distribution of unit variance
by arithmetic that rounds the same everywhere: neither numpy's version nor the C library matters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import tiny_vocab
from tiny_vocab import Vocab

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 20261001

POOLING_NONE, POOLING_MEAN, POOLING_CLS, POOLING_LAST, POOLING_RANK = range(5)

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class TinyModel:
    """Content of one file: metadata without the architecture prefix, tensors in numpy order."""

    name: str
    arch: str
    keys: dict[str, object]
    tensors: Tensors
    vocab: Vocab
    full_keys: dict[str, str] = field(default_factory=dict)  # metadata without a prefix

    def content_sha256(self) -> str:
        """A digest of what the file means, independent of how the gguf package lays it out."""
        digest = hashlib.sha256()
        vocab = [
            self.vocab.model,
            self.vocab.pre,
            self.vocab.tokens,
            self.vocab.types,
            self.vocab.keys,
        ]
        meta = [self.arch, self.keys, *vocab, self.vocab.scores, self.vocab.merges]
        meta += [self.full_keys] if self.full_keys else []
        digest.update(json.dumps(meta, sort_keys=True).encode())
        for name, data in sorted(self.tensors.items()):
            digest.update(f"{name}{data.shape}".encode())
            digest.update(data.tobytes())
        return digest.hexdigest()


def random_uniform(label: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float32 values with mean 0 and variance 1, a function of `label` and SEED alone."""
    seed = int.from_bytes(hashlib.sha256(f"{SEED}/{label}".encode()).digest()[:8], "little")
    words = np.random.PCG64(seed).random_raw(math.prod(shape))
    centred = (words >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    return (centred * math.sqrt(3.0)).astype(np.float32).reshape(shape)


class _Maker:
    """Draws the tensors of one model; a scale is chosen by what the tensor is for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: Tensors = {}

    def linear(
        self, name: str, n_out: int, n_in: int, *, bias: bool = False, gain: float = 1.0
    ) -> None:
        scale = np.float32(gain / math.sqrt(n_in))
        self.tensors[f"{name}.weight"] = (
            random_uniform(f"{self.name}/{name}.weight", (n_out, n_in)) * scale
        )
        if bias:
            self.tensors[f"{name}.bias"] = random_uniform(
                f"{self.name}/{name}.bias", (n_out,)
            ) * np.float32(0.2)

    def table(self, name: str, n_rows: int, width: int, scale: float = 1.0) -> None:
        self.tensors[name] = random_uniform(f"{self.name}/{name}", (n_rows, width)) * np.float32(
            scale
        )

    def norm(self, name: str, width: int, *, bias: bool = False) -> None:
        weight = random_uniform(f"{self.name}/{name}.weight", (width,))
        self.tensors[f"{name}.weight"] = np.float32(1.0) + weight * np.float32(0.2)
        if bias:
            self.tensors[f"{name}.bias"] = random_uniform(
                f"{self.name}/{name}.bias", (width,)
            ) * np.float32(0.2)


@dataclass(frozen=True)
class _Shape:
    n_layer: int = 2
    n_embd: int = 48
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 16
    n_ff: int = 96
    n_ctx: int = 2048

    def keys(self) -> dict[str, object]:
        return {
            "context_length": self.n_ctx,
            "embedding_length": self.n_embd,
            "block_count": self.n_layer,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
        }


_ENCODER = _Shape(n_embd=32, n_head=2, n_head_kv=2, n_ff=64, n_ctx=512)
_SQUARE = _Shape(n_embd=64)


def _decoder(
    m: _Maker, shape: _Shape, n_vocab: int, *, qkv_bias: bool = False, qk_norm: bool = False
) -> None:
    m.table("token_embd.weight", n_vocab, shape.n_embd)
    m.norm("output_norm", shape.n_embd)
    n_q, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    for i in range(shape.n_layer):
        m.norm(f"blk.{i}.attn_norm", shape.n_embd)
        m.linear(f"blk.{i}.attn_q", n_q, shape.n_embd, bias=qkv_bias, gain=1.5)
        m.linear(f"blk.{i}.attn_k", n_kv, shape.n_embd, bias=qkv_bias, gain=1.5)
        m.linear(f"blk.{i}.attn_v", n_kv, shape.n_embd, bias=qkv_bias)
        m.linear(f"blk.{i}.attn_output", shape.n_embd, n_q)
        if qk_norm:
            m.norm(f"blk.{i}.attn_q_norm", shape.head_dim)
            m.norm(f"blk.{i}.attn_k_norm", shape.head_dim)
        m.norm(f"blk.{i}.ffn_norm", shape.n_embd)
        m.linear(f"blk.{i}.ffn_gate", shape.n_ff, shape.n_embd)
        m.linear(f"blk.{i}.ffn_up", shape.n_ff, shape.n_embd)
        m.linear(f"blk.{i}.ffn_down", shape.n_embd, shape.n_ff)


def _gemma(m: _Maker, shape: _Shape, n_vocab: int) -> None:
    _decoder(m, shape, n_vocab, qk_norm=True)
    m.table("token_embd.weight", n_vocab, shape.n_embd, scale=1.0 / math.sqrt(shape.n_embd))
    for i in range(shape.n_layer):
        m.norm(f"blk.{i}.post_attention_norm", shape.n_embd)
        m.norm(f"blk.{i}.post_ffw_norm", shape.n_embd)


def _bert(
    m: _Maker, shape: _Shape, n_vocab: int, *, bias: bool, gate: bool, positions: bool, n_types: int
) -> None:
    m.table("token_embd.weight", n_vocab, shape.n_embd)
    m.table("token_types.weight", n_types, shape.n_embd, scale=0.3)
    if positions:
        m.table("position_embd.weight", shape.n_ctx, shape.n_embd, scale=0.5)
    m.norm("token_embd_norm", shape.n_embd, bias=True)
    for i in range(shape.n_layer):
        for part in ("attn_q", "attn_k"):
            m.linear(f"blk.{i}.{part}", shape.n_embd, shape.n_embd, bias=bias, gain=1.5)
        for part in ("attn_v", "attn_output"):
            m.linear(f"blk.{i}.{part}", shape.n_embd, shape.n_embd, bias=bias)
        m.norm(f"blk.{i}.attn_output_norm", shape.n_embd, bias=True)
        if gate:
            m.linear(f"blk.{i}.ffn_gate", shape.n_ff, shape.n_embd)
        m.linear(f"blk.{i}.ffn_up", shape.n_ff, shape.n_embd, bias=bias and not gate)
        m.linear(f"blk.{i}.ffn_down", shape.n_embd, shape.n_ff, bias=bias)
        m.norm(f"blk.{i}.layer_output_norm", shape.n_embd, bias=True)


def _bert_mean(name: str, pooling: int | None) -> TinyModel:
    m, vocab = _Maker("bert"), tiny_vocab.wordpiece()
    _bert(m, _ENCODER, len(vocab.tokens), bias=True, gate=False, positions=True, n_types=2)
    keys = {**_ENCODER.keys(), "attention.layer_norm_epsilon": 1e-12, "attention.causal": False}
    return TinyModel(name, "bert", _with_pooling(keys, pooling), m.tensors, vocab)


def _nomic_bert(name: str) -> TinyModel:
    m, vocab = _Maker(name), tiny_vocab.wordpiece()
    _bert(m, _ENCODER, len(vocab.tokens), bias=False, gate=True, positions=False, n_types=2)
    keys = {
        **replace(_ENCODER, n_ctx=2048).keys(),
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "rope.freq_base": 1000.0,
    }
    return TinyModel(name, "nomic-bert", _with_pooling(keys, POOLING_MEAN), m.tensors, vocab)


def _jina_bert_v2(name: str) -> TinyModel:
    shape = replace(_ENCODER, n_embd=48, n_head=3, n_head_kv=3, n_ctx=2048)
    m, vocab = _Maker(name), tiny_vocab.wordpiece()
    _bert(m, shape, len(vocab.tokens), bias=True, gate=True, positions=False, n_types=2)
    keys = {**shape.keys(), "attention.layer_norm_epsilon": 1e-12, "attention.causal": False}
    return TinyModel(name, "jina-bert-v2", _with_pooling(keys, POOLING_MEAN), m.tensors, vocab)


def _jina_bert_v3(name: str) -> TinyModel:
    m, vocab = _Maker(name), tiny_vocab.unigram()
    _bert(m, _ENCODER, len(vocab.tokens), bias=True, gate=False, positions=False, n_types=1)
    keys = {
        **replace(_ENCODER, n_ctx=2048).keys(),
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "rope.freq_base": 20000.0,
    }
    return TinyModel(name, "jina-bert-v3", _with_pooling(keys, POOLING_MEAN), m.tensors, vocab)


def _modern_bert(name: str, pooling: int) -> TinyModel:
    shape = replace(_ENCODER, n_layer=3, n_ctx=2048)
    m, vocab = _Maker("modern-bert"), tiny_vocab.modern_bert()
    m.table("token_embd.weight", len(vocab.tokens), shape.n_embd)
    m.norm("token_embd_norm", shape.n_embd)
    m.norm("output_norm", shape.n_embd)
    for i in range(shape.n_layer):
        if i:
            m.norm(f"blk.{i}.attn_norm", shape.n_embd)
        m.linear(f"blk.{i}.attn_qkv", 3 * shape.n_embd, shape.n_embd, gain=1.5)
        m.linear(f"blk.{i}.attn_output", shape.n_embd, shape.n_embd)
        m.norm(f"blk.{i}.ffn_norm", shape.n_embd)
        m.linear(f"blk.{i}.ffn_up", 2 * shape.n_ff, shape.n_embd)
        m.linear(f"blk.{i}.ffn_down", shape.n_embd, shape.n_ff)
    keys = {
        **shape.keys(),
        "vocab_size": len(vocab.tokens),
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": 3,
        "rope.freq_base": 160000.0,
        "rope.freq_base_swa": 10000.0,
        "rope.scaling.type": "none",
    }
    return TinyModel(name, "modern-bert", _with_pooling(keys, pooling), m.tensors, vocab)


def _eurobert(name: str, pooling: int, *, add_eos_key: bool, shape: _Shape = _SQUARE) -> TinyModel:
    m, vocab = _Maker("eurobert"), tiny_vocab.eurobert(add_eos_key=add_eos_key)
    _decoder(m, shape, len(vocab.tokens))
    keys = {
        **shape.keys(),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.causal": False,
        "rope.freq_base": 250000.0,
        "rope.scaling.type": "none",
    }
    return TinyModel(name, "eurobert", _with_pooling(keys, pooling), m.tensors, vocab)


def _qwen3(name: str, pooling: int | None, shape: _Shape = _Shape()) -> TinyModel:
    m, vocab = _Maker(f"qwen3-{shape.n_embd}"), tiny_vocab.qwen()
    _decoder(m, shape, len(vocab.tokens), qk_norm=True)
    keys = {
        **shape.keys(),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 3500000.0,
    }
    return TinyModel(name, "qwen3", _with_pooling(keys, pooling), m.tensors, vocab)


def _qwen2(name: str, arch: str, extra: dict[str, object]) -> TinyModel:
    m, vocab = _Maker(name), tiny_vocab.qwen()
    _decoder(m, _SQUARE, len(vocab.tokens), qkv_bias=True)
    keys = {
        **_SQUARE.keys(),
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1000000.0,
        **extra,
    }
    return TinyModel(name, arch, _with_pooling(keys, POOLING_MEAN), m.tensors, vocab)


def _lfm2(name: str) -> TinyModel:
    """A hybrid: the first layer keeps a convolution state per sequence, the second attends."""
    m, vocab, shape = _Maker(name), tiny_vocab.qwen(), _SQUARE
    _decoder(m, shape, len(vocab.tokens), qk_norm=True)
    m.tensors["token_embd_norm.weight"] = m.tensors.pop("output_norm.weight")
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"):
        del m.tensors[f"blk.0.{part}.weight"]
    m.linear("blk.0.shortconv.conv", shape.n_embd, 3)
    m.linear("blk.0.shortconv.in_proj", 3 * shape.n_embd, shape.n_embd)
    m.linear("blk.0.shortconv.out_proj", shape.n_embd, shape.n_embd)
    keys = {
        **shape.keys(),
        "attention.head_count_kv": [0, shape.n_head_kv],
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 1000000.0,
        "shortconv.l_cache": 3,
        "vocab_size": len(vocab.tokens),
    }
    return TinyModel(name, "lfm2", _with_pooling(keys, POOLING_MEAN), m.tensors, vocab)


def _llama(name: str, arch: str, pooling: int, extra: dict[str, object]) -> TinyModel:
    m, vocab = _Maker(name), tiny_vocab.sentencepiece(add_bos=True, add_eos=False)
    _decoder(m, _SQUARE, len(vocab.tokens))
    keys = {
        **_SQUARE.keys(),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": _SQUARE.head_dim,
        **extra,
    }
    return TinyModel(name, arch, _with_pooling(keys, pooling), m.tensors, vocab)


def _gemma_model(name: str, arch: str, pooling: int, *, add_eos: bool) -> TinyModel:
    m, vocab = _Maker(name), tiny_vocab.sentencepiece(add_bos=True, add_eos=add_eos)
    shape = replace(_Shape(), n_layer=3)
    _gemma(m, shape, len(vocab.tokens))
    keys = {
        **shape.keys(),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": 3,
        "rope.freq_base": 1000000.0,
        "rope.freq_base_swa": 10000.0,
    }
    return TinyModel(name, arch, _with_pooling(keys, pooling), m.tensors, vocab)


def _t5encoder(name: str) -> TinyModel:
    shape = replace(_Shape(), n_head_kv=4, n_ctx=512)
    m, vocab = _Maker(name), tiny_vocab.unigram()
    n_q = shape.n_head * shape.head_dim
    m.table("token_embd.weight", len(vocab.tokens), shape.n_embd)
    m.norm("enc.output_norm", shape.n_embd)
    m.table("enc.blk.0.attn_rel_b.weight", 32, shape.n_head)
    for i in range(shape.n_layer):
        m.norm(f"enc.blk.{i}.attn_norm", shape.n_embd)
        for part in ("attn_q", "attn_k", "attn_v"):
            gain = 1.0 if part == "attn_v" else 0.6
            m.linear(f"enc.blk.{i}.{part}", n_q, shape.n_embd, gain=gain)
        m.linear(f"enc.blk.{i}.attn_o", shape.n_embd, n_q)
        m.norm(f"enc.blk.{i}.ffn_norm", shape.n_embd)
        for part in ("ffn_gate", "ffn_up"):
            m.linear(f"enc.blk.{i}.{part}", shape.n_ff, shape.n_embd)
        m.linear(f"enc.blk.{i}.ffn_down", shape.n_embd, shape.n_ff)
    keys = {
        **shape.keys(),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_epsilon": 1e-6,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.relative_buckets_count": 32,
        "attention.causal": False,
    }
    return TinyModel(name, "t5encoder", _with_pooling(keys, POOLING_MEAN), m.tensors, vocab)


def _with_pooling(keys: dict[str, object], pooling: int | None) -> dict[str, object]:
    return keys if pooling is None else {**keys, "pooling_type": pooling}


_WIDE = _Shape(n_embd=256, n_head=4, n_head_kv=2, head_dim=64, n_ff=512)

_MODELS: dict[str, Callable[[str], TinyModel]] = {
    "bert-mean": lambda n: _bert_mean(n, POOLING_MEAN),
    "bert-cls": lambda n: _bert_mean(n, POOLING_CLS),
    "bert-no-pooling-key": lambda n: _bert_mean(n, None),
    "bert-rank": lambda n: _bert_mean(n, POOLING_RANK),
    "nomic-bert-mean": _nomic_bert,
    "jina-bert-v2-mean": _jina_bert_v2,
    "jina-bert-v3-mean": _jina_bert_v3,
    "modern-bert-mean": lambda n: _modern_bert(n, POOLING_MEAN),
    "modern-bert-cls": lambda n: _modern_bert(n, POOLING_CLS),
    "eurobert-last": lambda n: _eurobert(n, POOLING_LAST, add_eos_key=True),
    "eurobert-last-no-eos-key": lambda n: _eurobert(n, POOLING_LAST, add_eos_key=False),
    "eurobert-wide-last": lambda n: _eurobert(n, POOLING_LAST, add_eos_key=True, shape=_WIDE),
    "eurobert-mean": lambda n: _eurobert(n, POOLING_MEAN, add_eos_key=True),
    "qwen3-last": lambda n: _qwen3(n, POOLING_LAST),
    "qwen3-mean": lambda n: _qwen3(n, POOLING_MEAN),
    "qwen3-no-pooling-key": lambda n: _qwen3(n, None),
    "qwen3-wide-last": lambda n: _qwen3(n, POOLING_LAST, _WIDE),
    "qwen2vl-mean": lambda n: _qwen2(n, "qwen2vl", {"rope.dimension_sections": [2, 3, 3, 0]}),
    "qwen2-bidirectional-mean": lambda n: _qwen2(n, "qwen2", {"attention.causal": False}),
    "lfm2-mean": _lfm2,
    "llama-last": lambda n: _llama(n, "llama", POOLING_LAST, {}),
    "llama-embed-mean": lambda n: _llama(
        n, "llama-embed", POOLING_MEAN, {"attention.causal": False}
    ),
    "gemma3-last": lambda n: _gemma_model(n, "gemma3", POOLING_LAST, add_eos=False),
    "gemma-embedding-mean": lambda n: _gemma_model(
        n, "gemma-embedding", POOLING_MEAN, add_eos=True
    ),
    "t5encoder-mean": _t5encoder,
}

NAMES = tuple(_MODELS)


def build(name: str) -> TinyModel:
    """The content of one tiny model, in memory."""
    return _MODELS[name](name)


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, (list, bytes)):  # bytes become an array of uint8
        writer.add_array(key, value)
    else:
        raise TypeError(f"no GGUF type for {key} = {value!r}")


def write(
    model: TinyModel,
    path: Path,
    *,
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Writes a model; `quant` applies to the matrices, vectors stay F32."""
    writer = gguf.GGUFWriter(path, model.arch)
    writer.add_name(f"tiny {model.name}")
    for key, value in model.keys.items():
        _add(writer, f"{model.arch}.{key}", value)
    vocab = model.vocab
    _add(writer, "tokenizer.ggml.model", vocab.model)
    _add(writer, "tokenizer.ggml.pre", vocab.pre)
    _add(writer, "tokenizer.ggml.tokens", vocab.tokens)
    if vocab.scores is not None:
        _add(writer, "tokenizer.ggml.scores", vocab.scores)
    _add(writer, "tokenizer.ggml.token_type", vocab.types)
    if vocab.merges is not None:
        _add(writer, "tokenizer.ggml.merges", vocab.merges)
    for key, value in vocab.keys.items():
        _add(writer, f"tokenizer.ggml.{key}", value)
    for key, value in model.full_keys.items():
        _add(writer, key, value)
    file_type = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}.get(quant.name, 0)
    writer.add_file_type(file_type)
    for name, data in model.tensors.items():
        if (
            data.ndim < 2
            or quant == gguf.GGMLQuantizationType.F32
            or name.startswith(("position_", "token_types"))
        ):
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make(name: str, path: Path | str) -> Path:
    """Writes the tiny model `name` to `path` with F32 weights."""
    return write(build(name), Path(path))


def main() -> None:
    parser = argparse.ArgumentParser(description="write the tiny random models")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all"
    )
    args = parser.parse_args()
    for name in args.names:
        if name not in NAMES:
            parser.error(f"unknown model {name}")
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names or NAMES:
        path = make(name, args.folder / f"{name}.gguf")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path} {path.stat().st_size} bytes sha256 {digest}")


if __name__ == "__main__":
    main()
