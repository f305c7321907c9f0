"""Writes projector files: the encoders for images and sound that stand beside a text model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import MissingExtraError

Shapes = dict[str, tuple[int, ...]]
Tensors = Mapping[str, npt.NDArray[np.float32]]

_F16 = 1  # LlamaFileType of gguf/constants.py
_MEL_BINS = 128


@dataclass(frozen=True)
class _AnyVisionShape:
    """What vision encoders have in common.

    Attributes
    ----------
    n_out : int
        Width of its rows, that of the text model.
    n_embd, n_head, n_layer, n_ff : int
        Of the transformer.
    patch_size : int
        Pixels of a patch's side.
    min_pixels, max_pixels : int or None
        Limits of an image; None leaves the key out.
    """

    n_out: int
    n_embd: int = 32
    n_head: int = 2
    n_layer: int = 2
    n_ff: int = 64
    patch_size: int = 16
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class VisionShape(_AnyVisionShape):
    """A vision encoder with the projector ``qwen3vl_merger``.

    Attributes
    ----------
    table_side : int
        Places of a side of the table of positions.
    """

    table_side: int = 48

    def keys(self) -> dict[str, Any]:
        """The metadata of a file."""
        return {
            "clip.projector_type": "qwen3vl_merger",
            "clip.use_gelu": True,
            "clip.vision.image_mean": [0.5] * 3,
            "clip.vision.image_std": [0.5] * 3,
            "clip.vision.image_size": self.table_side * self.patch_size,
            **_vision_keys(self),
        }

    def shapes(self) -> Shapes:
        """The tensors of a file, in numpy's order of dimensions."""
        h = self.n_embd
        return {
            **_patches(self),
            "v.patch_embd.bias": (h,),
            "v.position_embd.weight": (self.table_side**2, h),
            **_each_layer(
                "v",
                self.n_layer,
                {
                    **_norm("ln1", h),
                    **_norm("ln2", h),
                    **_linear("attn_qkv", 3 * h, h),
                    **_linear("attn_out", h, h),
                    **_linear("ffn_up", self.n_ff, h),
                    **_linear("ffn_down", h, self.n_ff),
                },
            ),
            **_norm("v.post_ln", h),
            **_merger(self),
        }


@dataclass(frozen=True)
class WindowedVisionShape(_AnyVisionShape):
    """A vision encoder with window attention and the projector ``qwen2.5vl_merger``.

    Attributes
    ----------
    full_attention_every : int
        Each such layer sees the whole image, the others a window.
    """

    patch_size: int = 14
    full_attention_every: int = 2

    def keys(self) -> dict[str, Any]:
        """The metadata of a file."""
        return {
            "clip.projector_type": "qwen2.5vl_merger",
            "clip.use_silu": True,
            "clip.vision.image_mean": [0.48145466, 0.4578275, 0.40821073],
            "clip.vision.image_std": [0.26862954, 0.26130258, 0.27577711],
            "clip.vision.image_size": 560,
            "clip.vision.n_wa_pattern": self.full_attention_every,
            **_vision_keys(self),
        }

    def shapes(self) -> Shapes:
        """The tensors of a file, in numpy's order of dimensions."""
        h = self.n_embd
        layer: Shapes = {"ln1.weight": (h,), "ln2.weight": (h,)}
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            layer |= _linear(name, h, h)
        layer |= _linear("ffn_gate", self.n_ff, h)
        layer |= _linear("ffn_up", self.n_ff, h)
        layer |= _linear("ffn_down", h, self.n_ff)
        return {
            **_patches(self),
            **_each_layer("v", self.n_layer, layer),
            "v.post_ln.weight": (h,),
            **_merger(self),
        }


@dataclass(frozen=True)
class AudioShape:
    """An audio encoder with the projector ``qwen2.5o``.

    Attributes
    ----------
    n_out : int
        Width of its rows, that of the text model.
    n_embd, n_head, n_layer, n_ff : int
        Of the transformer.
    n_window : int or None
        Half the mel frames of a piece; None leaves the key out.
    """

    n_out: int
    n_embd: int = 32
    n_head: int = 2
    n_layer: int = 2
    n_ff: int = 64
    n_window: int | None = 100

    n_positions = 1500

    def keys(self) -> dict[str, Any]:
        """The metadata of a file."""
        return {
            "clip.has_audio_encoder": True,
            "clip.projector_type": "qwen2.5o",
            "clip.audio.num_mel_bins": _MEL_BINS,
            "clip.audio.n_window": self.n_window,
            **_transformer_keys("clip.audio", self, 1e-5),
        }

    def shapes(self) -> Shapes:
        """The tensors of a file, in numpy's order of dimensions."""
        h = self.n_embd
        layer = {
            **_norm("ln1", h),
            **_norm("ln2", h),
            **_linear("attn_q", h, h),
            "attn_k.weight": (h, h),
            **_linear("attn_v", h, h),
            **_linear("attn_out", h, h),
            **_linear("ffn_up", self.n_ff, h),
            **_linear("ffn_down", h, self.n_ff),
        }
        return {
            "a.position_embd.weight": (self.n_positions, h),
            "a.conv1d.1.weight": (h, _MEL_BINS, 3),
            "a.conv1d.1.bias": (h, 1),
            "a.conv1d.2.weight": (h, h, 3),
            "a.conv1d.2.bias": (h, 1),
            **_each_layer("a", self.n_layer, layer),
            **_norm("a.post_ln", h),
            **_linear("mm.a.fc", self.n_out, h),
        }

    def sinusoids(self) -> npt.NDArray[np.float32]:
        """The table of positions: (n_positions, n_embd), the sines before the cosines."""
        half = self.n_embd // 2
        rates = np.exp(-np.log(10000.0) * np.arange(half) / (half - 1))
        angles = np.arange(self.n_positions)[:, None] * rates
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


TowerShape = VisionShape | WindowedVisionShape | AudioShape


def _patches(tower: _AnyVisionShape) -> Shapes:
    kernel = (tower.n_embd, 3, tower.patch_size, tower.patch_size)
    return {"v.patch_embd.weight": kernel, "v.patch_embd.weight.1": kernel}


def _merger(tower: _AnyVisionShape) -> Shapes:
    wide = 4 * tower.n_embd
    return {**_linear("mm.0", wide, wide), **_linear("mm.2", tower.n_out, wide)}


def _each_layer(prefix: str, n_layer: int, layer: Shapes) -> Shapes:
    return {
        f"{prefix}.blk.{i}.{name}": shape for i in range(n_layer) for name, shape in layer.items()
    }


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, n_out: int, n_in: int) -> Shapes:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def _transformer_keys(
    prefix: str, tower: _AnyVisionShape | AudioShape, eps: float
) -> dict[str, Any]:
    return {
        f"{prefix}.embedding_length": tower.n_embd,
        f"{prefix}.feed_forward_length": tower.n_ff,
        f"{prefix}.block_count": tower.n_layer,
        f"{prefix}.projection_dim": tower.n_out,
        f"{prefix}.attention.head_count": tower.n_head,
        f"{prefix}.attention.layer_norm_epsilon": eps,
    }


def _vision_keys(tower: _AnyVisionShape) -> dict[str, Any]:
    return {
        "clip.has_vision_encoder": True,
        "clip.vision.patch_size": tower.patch_size,
        "clip.vision.spatial_merge_size": 2,
        "clip.vision.image_min_pixels": tower.min_pixels,
        "clip.vision.image_max_pixels": tower.max_pixels,
        **_transformer_keys("clip.vision", tower, 1e-6),
    }


def write_tower(
    path: str | os.PathLike[str], tower: TowerShape, tensors: Tensors, *, name: str
) -> Path:
    """Writes a projector file, whose matrices are F16.

    Parameters
    ----------
    path : str or path-like
        The file to write.
    tower : VisionShape, WindowedVisionShape or AudioShape
        What it is.
    tensors : mapping of str to ndarray
        Its weights, as ``tower.shapes()`` says.
    name : str
        ``general.name`` of the file.

    Raises
    ------
    ValueError
        The tensors are not those of the tower.
    MissingExtraError
        The package gguf is not installed.
    """
    shapes = {key: value.shape for key, value in tensors.items()}
    if wrong := dict(shapes.items() ^ tower.shapes().items()):
        raise ValueError(f"{next(iter(wrong))} is missing, not of the tower, or of another shape")
    return write_gguf(path, "clip", {"general.name": name, **tower.keys()}, tensors)


def write_gguf(
    path: str | os.PathLike[str],
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[np.float32]],
) -> Path:
    """Writes a GGUF file whose matrices and kernels are F16.

    Vectors, biases and tables of positions stay F32. Keys become what their values are: bool, int
    (as uint32), float, str, or a list of one of these; None leaves a key out.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError(
            "writing a model needs the package gguf: pip install 'ggembed[demo]'"
        ) from None
    types = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}
    writer = gguf.GGUFWriter(path, architecture)
    try:
        writer.add_file_type(_F16)
        for key, value in keys.items():
            if value is not None:
                getattr(writer, types.get(type(value), "add_array"))(key, value)
        for name, tensor in tensors.items():
            whole = tensor.ndim < 2 or name.endswith(".bias") or "position_embd" in name
            writer.add_tensor(name, tensor if whole else tensor.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return Path(path)
