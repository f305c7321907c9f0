"""Tiny random models that take texts, images, video and sound: they show the path, not meaning."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ._tower_files import (
    AudioShape,
    Shapes,
    TowerShape,
    VisionShape,
    WindowedVisionShape,
    write_gguf,
    write_tower,
)

Layout = Literal["small", "nano", "v4"]

# Values of the GGUF enums that are written here. Source: gguf/constants.py.
_NORMAL, _CONTROL = 1, 3
_MEAN, _LAST = 1, 3

_N_LAYER = 2
_HEAD_DIM = 16

# Words whose pieces, from the left, are the merges of the vocabulary. U+0120 stands for a blank.
_WORDS = """the and of to in is it for that this with on are was image sound video page text
Query Document seconds one two three a e i o u s t er ing ed"""


class OmniFiles(NamedTuple):
    """Files of a model.

    Attributes
    ----------
    model : Path
        The text model.
    vision, audio : Path or None
        Its projector files.
    """

    model: Path
    vision: Path | None
    audio: Path | None


@dataclass(frozen=True)
class _Family:
    """What the model of a layout has for itself."""

    architecture: str
    pre: str
    markers: tuple[str, ...]
    tokens: Mapping[str, str]  # special tokens by role
    keys: Mapping[str, Any]  # of the architecture
    flags: Mapping[str, bool]  # of the tokenizer
    n_head_kv: int
    qk_norm: bool = False
    qkv_bias: bool = False


_QWEN_TOKENS = {"bos": "<|endoftext|>", "eos": "<|im_end|>", "padding": "<|endoftext|>"}
_QWEN_MARKERS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_AUDIO_MARKERS = ("<|AUDIO|>", "<|audio_start|>", "<|audio_end|>")

_FAMILIES: Mapping[str, _Family] = {
    "small": _Family(
        architecture="qwen3",
        pre="qwen2",
        markers=(*_QWEN_MARKERS, *_AUDIO_MARKERS),
        tokens=_QWEN_TOKENS,
        keys={
            "pooling_type": _LAST,
            "rope.freq_base": 3500000.0,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "attention.key_length": _HEAD_DIM,
            "attention.value_length": _HEAD_DIM,
        },
        flags={"add_bos_token": False},
        n_head_kv=2,
        qk_norm=True,
    ),
    "nano": _Family(
        architecture="eurobert",
        pre="jina-v5-nano",
        markers=("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", *_AUDIO_MARKERS, "<image>"),
        tokens={"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "padding": "<|pad|>"},
        keys={
            "pooling_type": _LAST,
            "rope.freq_base": 250000.0,
            "rope.scaling.type": "none",
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.causal": False,
        },
        flags={"add_bos_token": False, "add_eos_token": True},
        n_head_kv=4,
    ),
    "v4": _Family(
        architecture="qwen2vl",
        pre="qwen2",
        markers=_QWEN_MARKERS,
        tokens=_QWEN_TOKENS,
        keys={
            "pooling_type": _MEAN,
            "rope.freq_base": 1000000.0,
            "rope.dimension_sections": [2, 3, 3, 0],
            "attention.layer_norm_rms_epsilon": 1e-6,
        },
        flags={"add_bos_token": False},
        n_head_kv=2,
        qkv_bias=True,
    ),
}


def write_models(
    folder: str | os.PathLike[str],
    *,
    layout: Layout = "small",
    seed: int = 0,
    name: str | None = None,
    n_embd: int = 64,
    n_ctx: int = 8192,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> OmniFiles:
    """Writes a tiny random model with its projector files.

    Parameters
    ----------
    folder : str or path-like
        Where to; it is made if needed.
    layout : {"small", "nano", "v4"}, optional
        Which published model it takes after: jina-embeddings-v5-omni-small or -nano, or
        jina-embeddings-v4, which hears nothing.
    seed : int, optional
        Of the weights.
    name : str, optional
        ``general.name`` of the model, and how its files begin; by default one that no profile
        knows.
    n_embd : int, optional
        Width of its rows, a multiple of 64.
    n_ctx : int, optional
        Longest input in tokens.
    min_pixels, max_pixels : int, optional
        Limits of an image, those of the published models by default.

    Returns
    -------
    OmniFiles
        The files, which are named as published ones are.

    Raises
    ------
    MissingExtraError
        The package gguf is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from ggembed import Embedder, demo_omni
    >>> files = demo_omni.write_models(tempfile.mkdtemp())
    >>> files.model.name, files.vision.name
    ('demo-omni-small-F16.gguf', 'demo-omni-small-vision-mmproj-F16.gguf')
    >>> Embedder(files.model).encode("one two").shape
    (64,)
    """
    if layout not in _FAMILIES:
        raise ValueError(f"layout must be one of {', '.join(_FAMILIES)}, got {layout!r}")
    if n_embd < 64 or n_embd % 64:
        raise ValueError(f"n_embd must be a multiple of 64, got {n_embd}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    stem = name or f"demo-omni-{layout}"
    kind = WindowedVisionShape if layout == "v4" else VisionShape
    vision = kind(n_embd, min_pixels=min_pixels, max_pixels=max_pixels)
    draw = _Draw(seed)
    return OmniFiles(
        model=_write_text(
            target / f"{stem}-F16.gguf", _FAMILIES[layout], stem, n_embd, n_ctx, draw
        ),
        vision=_write_tower(target / f"{stem}-vision-mmproj-F16.gguf", vision, stem, draw),
        audio=None
        if layout == "v4"
        else _write_tower(target / f"{stem}-audio-mmproj-F16.gguf", AudioShape(n_embd), stem, draw),
    )


class _Draw:
    """Random tensors, each of a scale that suits what it is for."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, shapes: Shapes) -> dict[str, npt.NDArray[np.float32]]:
        return {name: self._tensor(name, shape) for name, shape in shapes.items()}

    def _tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        values = self._generator.standard_normal(shape)
        n_in = 1 if "_embd.weight" in name and len(shape) == 2 else math.prod(shape[1:])
        if name.endswith(".bias"):
            values *= 0.1
        elif len(shape) == 1:  # of a norm
            values = 1 + 0.1 * values
        else:
            values *= n_in**-0.5
        return values.astype(np.float32)


def _write_tower(path: Path, tower: TowerShape, name: str, draw: _Draw) -> Path:
    tensors = draw(tower.shapes())
    if isinstance(tower, AudioShape):
        tensors["a.position_embd.weight"] = tower.sinusoids()
    return write_tower(path, tower, tensors, name=name)


def _write_text(
    path: Path, family: _Family, name: str, n_embd: int, n_ctx: int, draw: _Draw
) -> Path:
    vocabulary = _vocabulary(family)
    n_head = n_embd // _HEAD_DIM
    n_head_kv = n_head * family.n_head_kv // 4
    keys = {
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "block_count": _N_LAYER,
        "feed_forward_length": 2 * n_embd,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        **family.keys,
    }
    prefixed = {f"{family.architecture}.{key}": value for key, value in keys.items()}
    n_vocab = len(vocabulary["tokenizer.ggml.tokens"])
    return write_gguf(
        path,
        family.architecture,
        {"general.name": name, **prefixed, **vocabulary},
        draw(_text_shapes(family, n_vocab, n_embd, n_head_kv * _HEAD_DIM)),
    )


def _text_shapes(family: _Family, n_vocab: int, n_embd: int, n_kv: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    layer: Shapes = {
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": (n_embd, n_embd),
        "attn_k.weight": (n_kv, n_embd),
        "attn_v.weight": (n_kv, n_embd),
        "attn_output.weight": (n_embd, n_embd),
        "ffn_norm.weight": (n_embd,),
        "ffn_gate.weight": (2 * n_embd, n_embd),
        "ffn_up.weight": (2 * n_embd, n_embd),
        "ffn_down.weight": (n_embd, 2 * n_embd),
    }
    if family.qk_norm:
        layer |= {"attn_q_norm.weight": (_HEAD_DIM,), "attn_k_norm.weight": (_HEAD_DIM,)}
    if family.qkv_bias:
        layer |= {"attn_q.bias": (n_embd,), "attn_k.bias": (n_kv,), "attn_v.bias": (n_kv,)}
    for i in range(_N_LAYER):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def _vocabulary(family: _Family) -> dict[str, Any]:
    """Metadata of a byte-level BPE, which takes any text."""
    alphabet = _byte_alphabet()
    merges = _merges()
    pieces = [*alphabet, *("".join(merge) for merge in merges)]
    tokens = [*pieces, *family.markers]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": family.pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_NORMAL] * len(pieces) + [_CONTROL] * len(family.markers),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        **{
            f"tokenizer.ggml.{role}_token_id": tokens.index(token)
            for role, token in family.tokens.items()
        },
        **{f"tokenizer.ggml.{flag}": value for flag, value in family.flags.items()},
    }


def _byte_alphabet() -> list[str]:
    """What stands for each byte: itself if it can be printed, else the next from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


def _merges() -> list[tuple[str, str]]:
    words = [f"\u0120{word}" for word in _WORDS.split()] + _WORDS.split()
    merges = (pair for word in words for pair in zip(accumulate(word), word[1:], strict=False))
    return list(dict.fromkeys(merges))
