"""Tiny projector files (mmproj) with random weights, and media for them, the same on every machine.

    python tiny_towers.py FOLDER [NAME ...]

The vision towers have the tensors of jina-embeddings-v5-omni ("qwen3vl") and v4 ("qwen25vl"), the
audio tower those of v5-omni ("qwen25o"); "omni" holds a vision and an audio tower in one file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from make_tiny_models import SEED, Tensors, _Maker, random_uniform

__all__ = ["NAMES", "SEED", "TinyTower", "build", "make", "mel", "patches", "write"]

NAMES = ("qwen3vl", "qwen25vl", "qwen25o", "omni")


@dataclass(frozen=True)
class TinyTower:
    """Content of one file: all its metadata but the architecture, tensors in numpy order."""

    name: str
    keys: dict[str, object]
    tensors: Tensors

    def content_sha256(self) -> str:
        """A digest of what the file means, independent of how the gguf package lays it out."""
        digest = hashlib.sha256(json.dumps(self.keys, sort_keys=True).encode())
        for name, data in sorted(self.tensors.items()):
            digest.update(f"{name}{data.shape}".encode())
            digest.update(data.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Shape:
    n_layer: int
    n_embd: int = 64
    n_head: int = 4
    n_ff: int = 96
    eps: float = 1e-6

    def keys(self, kind: str) -> dict[str, object]:
        return {
            f"clip.{kind}.embedding_length": self.n_embd,
            f"clip.{kind}.feed_forward_length": self.n_ff,
            f"clip.{kind}.block_count": self.n_layer,
            f"clip.{kind}.attention.head_count": self.n_head,
            f"clip.{kind}.attention.layer_norm_epsilon": self.eps,
        }


@dataclass(frozen=True)
class Sizes:
    """What a tower takes; the smallest that has everything, or what published files have."""

    patch: int
    n_places: int
    n_mel: int
    n_positions: int


SMALL = Sizes(patch=4, n_places=64, n_mel=16, n_positions=128)
PUBLISHED = Sizes(patch=16, n_places=48 * 48, n_mel=128, n_positions=1500)


def _vision_keys(shape: _Shape, patch: int, width: int) -> dict[str, object]:
    return {
        "clip.has_vision_encoder": True,
        **shape.keys("vision"),
        "clip.vision.projection_dim": width,
        "clip.vision.image_size": 8 * patch,
        "clip.vision.patch_size": patch,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }


def _kernels(m: _Maker, n_embd: int, patch: int) -> None:
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1"):
        scale = np.float32(1.0 / np.sqrt(6.0 * patch * patch))
        m.tensors[name] = random_uniform(f"{m.name}/{name}", (n_embd, 3, patch, patch)) * scale


def _merger(m: _Maker, n_embd: int, width: int, *, norm_bias: bool) -> None:
    """Pre-activations reach beyond 3, where approximations of GELU differ."""
    m.norm("v.post_ln", n_embd, bias=norm_bias)
    m.linear("mm.0", 4 * n_embd, 4 * n_embd, bias=True, gain=1.5)
    m.linear("mm.2", width, 4 * n_embd, bias=True)


def _qwen3vl(width: int, sizes: Sizes) -> TinyTower:
    m, shape, patch = _Maker("qwen3vl"), _Shape(n_layer=3), sizes.patch
    n, n_ff = shape.n_embd, shape.n_ff
    _kernels(m, n, patch)
    m.tensors["v.patch_embd.bias"] = random_uniform("qwen3vl/patch.bias", (n,)) * np.float32(0.2)
    m.table("v.position_embd.weight", sizes.n_places, n)
    for i in range(shape.n_layer):
        m.norm(f"v.blk.{i}.ln1", n, bias=True)
        m.linear(f"v.blk.{i}.attn_qkv", 3 * n, n, bias=True, gain=1.5)
        m.linear(f"v.blk.{i}.attn_out", n, n, bias=True)
        m.norm(f"v.blk.{i}.ln2", n, bias=True)
        m.linear(f"v.blk.{i}.ffn_up", n_ff, n, bias=True, gain=1.5)
        m.linear(f"v.blk.{i}.ffn_down", n, n_ff, bias=True)
    _merger(m, n, width, norm_bias=True)
    keys = {
        "clip.projector_type": "qwen3vl_merger",
        "clip.use_gelu": True,
        **_vision_keys(shape, patch, width),
        "clip.vision.spatial_merge_size": 2,
        "clip.vision.is_deepstack_layers": [False] * shape.n_layer,
        "clip.vision.image_min_pixels": 64,
        "clip.vision.image_max_pixels": 4096,
        "clip.vision.video_min_pixels": 128,
        "clip.vision.video_max_pixels": 32768,
    }
    return TinyTower("qwen3vl", keys, m.tensors)


def _qwen25vl(width: int) -> TinyTower:
    m, shape, patch = _Maker("qwen25vl"), _Shape(n_layer=4), 14
    n, n_ff = shape.n_embd, shape.n_ff
    _kernels(m, n, patch)
    for i in range(shape.n_layer):
        m.norm(f"v.blk.{i}.ln1", n)
        for part in "qkv":
            m.linear(f"v.blk.{i}.attn_{part}", n, n, bias=True, gain=1.5)
        m.linear(f"v.blk.{i}.attn_out", n, n, bias=True)
        m.norm(f"v.blk.{i}.ln2", n)
        m.linear(f"v.blk.{i}.ffn_gate", n_ff, n, bias=True, gain=1.5)
        m.linear(f"v.blk.{i}.ffn_up", n_ff, n, bias=True)
        m.linear(f"v.blk.{i}.ffn_down", n, n_ff, bias=True)
    _merger(m, n, width, norm_bias=False)
    keys = {
        "clip.projector_type": "qwen2.5vl_merger",
        "clip.use_silu": True,
        **_vision_keys(shape, patch, width),
        "clip.vision.n_wa_pattern": 2,
    }
    return TinyTower("qwen25vl", keys, m.tensors)


def _qwen25o(width: int, sizes: Sizes) -> TinyTower:
    m, shape, n_mel = _Maker("qwen25o"), _Shape(n_layer=2, eps=1e-5), sizes.n_mel
    n, n_ff = shape.n_embd, shape.n_ff
    for i, n_in in ((1, n_mel), (2, n)):
        kernel = random_uniform(f"qwen25o/conv{i}", (n, n_in, 3))
        m.tensors[f"a.conv1d.{i}.weight"] = kernel * np.float32(1.5 / np.sqrt(3.0 * n_in))
        bias = random_uniform(f"qwen25o/conv{i}.bias", (n, 1)) * np.float32(0.2)
        m.tensors[f"a.conv1d.{i}.bias"] = bias
    m.table("a.position_embd.weight", sizes.n_positions, n)
    for i in range(shape.n_layer):
        m.norm(f"a.blk.{i}.ln1", n, bias=True)
        for part in "qkv":
            m.linear(f"a.blk.{i}.attn_{part}", n, n, bias=part != "k", gain=1.5)
        m.linear(f"a.blk.{i}.attn_out", n, n, bias=True)
        m.norm(f"a.blk.{i}.ln2", n, bias=True)
        m.linear(f"a.blk.{i}.ffn_up", n_ff, n, bias=True, gain=1.5)
        m.linear(f"a.blk.{i}.ffn_down", n, n_ff, bias=True)
    m.norm("a.post_ln", n, bias=True)
    m.linear("mm.a.fc", width, n, bias=True)
    keys = {
        "clip.projector_type": "qwen2.5o",
        "clip.has_audio_encoder": True,
        **shape.keys("audio"),
        "clip.audio.projection_dim": width,
        "clip.audio.num_mel_bins": n_mel,
        "clip.audio.n_window": 100,
    }
    return TinyTower("qwen25o", keys, m.tensors)


def build(name: str, *, width: int = 48, sizes: Sizes = SMALL) -> TinyTower:
    """One tower, or with "omni" two; `width` is that of the text model."""
    if name == "omni":
        parts = {"vision": _qwen3vl(width, sizes), "audio": _qwen25o(width, sizes)}
        keys = {k: v for p in parts.values() for k, v in p.keys.items()}
        del keys["clip.projector_type"]
        for kind, part in parts.items():
            keys[f"clip.{kind}.projector_type"] = part.keys["clip.projector_type"]
        return TinyTower(name, keys, {k: v for p in parts.values() for k, v in p.tensors.items()})
    if name == "qwen25vl":
        return _qwen25vl(width)
    return {"qwen3vl": _qwen3vl, "qwen25o": _qwen25o}[name](width, sizes)


def _add_key(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint32 if 0 <= value < 2**32 else writer.add_int64)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write(
    tower: TinyTower, path: Path, *, kind: str = "F32", arch: str = "clip", whole: bool = False
) -> Path:
    """Writes a file; `kind` is the type of matrices and kernels, or of all that can have it."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny {tower.name}")
    for key, value in tower.keys.items():
        _add_key(writer, key, value)
    quant = gguf.GGMLQuantizationType[kind]
    for name, data in tower.tensors.items():
        is_matrix = name.endswith(".weight") or name == "v.patch_embd.weight.1"
        small = not whole and (data.ndim < 2 or "position_embd" in name or not is_matrix)
        fits = data.shape[-1] % gguf.GGML_QUANT_SIZES[quant][0] == 0 and (whole or data.ndim == 2)
        if kind == "F32" or small:
            writer.add_tensor(name, data)
        elif kind == "F16":
            writer.add_tensor(name, data.astype(np.float16))
        elif fits:  # kernels stay as they are
            packed = gguf.quants.quantize(np.ascontiguousarray(data), quant)
            writer.add_tensor(name, packed, raw_dtype=quant)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make(name: str, path: Path, *, kind: str = "F32", width: int = 48) -> Path:
    """The file of one of NAMES."""
    return write(build(name, width=width), path, kind=kind)


def changed(tower: TinyTower, **keys: object) -> TinyTower:
    """Other metadata; a double underscore stands for a dot, None removes a key."""
    new = {"clip." + k.replace("__", "."): v for k, v in keys.items()}
    merged = {**tower.keys, **new}
    return replace(tower, keys={k: v for k, v in merged.items() if v is not None})


def patches(label: str, width: int, height: int, patch: int) -> np.ndarray:
    """A pair of frames of noise, [patches, 2 * 3 * patch * patch], as a vision tower takes it."""
    return random_uniform(f"patches/{label}", (width * height, 6 * patch * patch))


def mel(label: str, n_mel: int, n_frames: int) -> np.ndarray:
    """Noise in place of a spectrogram, [n_mel, n_frames]."""
    return random_uniform(f"mel/{label}", (n_mel, n_frames)) * np.float32(0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for each in args.names:
        print(make(each, args.folder / f"mmproj-{each}.gguf"))
