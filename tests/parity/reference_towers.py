"""Rows of the tiny towers by transformers' own classes, in float64. Writes data/towers.npz.

python reference_towers.py
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import golden
import numpy as np
import tiny_towers
import torch
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiny_towers import TinyTower

Run = "Callable[..., np.ndarray]"


def _load(model: torch.nn.Module, weights: dict[str, np.ndarray]) -> Any:
    state = {k: torch.from_numpy(v.astype(np.float64)) for k, v in weights.items()}
    missing, surplus = model.double().load_state_dict(state, strict=False)
    assert not surplus, surplus
    assert set(missing) <= {"audio_bos_eos_token.weight"}, missing
    return model.eval()


def _renamed(tower: TinyTower, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Tensors under torch's names; an N stands for the number of the layer."""
    out = {}
    for name, data in tower.tensors.items():
        parts = name.split(".")
        layer = parts[2] if parts[1] == "blk" else ""
        key = ".".join([*parts[:2], "N", *parts[3:]] if layer else parts)
        stem, _, last = key.rpartition(".")
        if stem in names:
            out[f"{names[stem].replace('N', layer)}.{last}"] = data
    return out


def _kernel(tower: TinyTower) -> np.ndarray:
    halves = ("v.patch_embd.weight", "v.patch_embd.weight.1")
    return np.stack([tower.tensors[name] for name in halves], axis=2)


def _vision_rows(model: Any, patch: int) -> Callable[..., np.ndarray]:
    def rows(width: int, height: int, *pairs: np.ndarray) -> np.ndarray:
        values = np.concatenate(pairs).reshape(-1, 2, 3, patch, patch).transpose(0, 2, 1, 3, 4)
        pixels = torch.from_numpy(values.reshape(len(values), -1).astype(np.float64))
        grid = torch.tensor([[len(pairs), height, width]])
        with torch.no_grad():
            return model(pixels, grid_thw=grid).pooler_output.numpy()

    return rows


def _shape(tower: TinyTower, kind: str) -> dict[str, Any]:
    prefix = f"clip.{kind}."
    return {k.removeprefix(prefix): v for k, v in tower.keys.items() if k.startswith(prefix)}


def qwen3vl(tower: TinyTower) -> Callable[..., np.ndarray]:
    """Rows of an image or a video: rows(width, height, *pairs of frames)."""
    keys = _shape(tower, "vision")
    config = Qwen3VLVisionConfig(
        depth=keys["block_count"],
        hidden_size=keys["embedding_length"],
        intermediate_size=keys["feed_forward_length"],
        num_heads=keys["attention.head_count"],
        patch_size=keys["patch_size"],
        out_hidden_size=keys["projection_dim"],
        num_position_embeddings=len(tower.tensors["v.position_embd.weight"]),
        deepstack_visual_indexes=[],
    )
    names = {
        "v.patch_embd": "patch_embed.proj",
        "v.position_embd": "pos_embed",
        "v.blk.N.ln1": "blocks.N.norm1",
        "v.blk.N.attn_qkv": "blocks.N.attn.qkv",
        "v.blk.N.attn_out": "blocks.N.attn.proj",
        "v.blk.N.ln2": "blocks.N.norm2",
        "v.blk.N.ffn_up": "blocks.N.mlp.linear_fc1",
        "v.blk.N.ffn_down": "blocks.N.mlp.linear_fc2",
        "v.post_ln": "merger.norm",
        "mm.0": "merger.linear_fc1",
        "mm.2": "merger.linear_fc2",
    }
    weights = {**_renamed(tower, names), "patch_embed.proj.weight": _kernel(tower)}
    return _vision_rows(_load(Qwen3VLVisionModel(config), weights), keys["patch_size"])


def qwen25vl(tower: TinyTower) -> Callable[..., np.ndarray]:
    """Rows of an image: rows(width, height, pair of frames)."""
    keys = _shape(tower, "vision")
    n_layer, step = keys["block_count"], keys["n_wa_pattern"]
    config = Qwen2_5_VLVisionConfig(
        depth=n_layer,
        hidden_size=keys["embedding_length"],
        intermediate_size=keys["feed_forward_length"],
        num_heads=keys["attention.head_count"],
        patch_size=keys["patch_size"],
        out_hidden_size=keys["projection_dim"],
        window_size=112,
        fullatt_block_indexes=[i for i in range(n_layer) if (i + 1) % step == 0],
    )
    names = {
        "v.blk.N.ln1": "blocks.N.norm1",
        "v.blk.N.attn_out": "blocks.N.attn.proj",
        "v.blk.N.ln2": "blocks.N.norm2",
        "v.blk.N.ffn_gate": "blocks.N.mlp.gate_proj",
        "v.blk.N.ffn_up": "blocks.N.mlp.up_proj",
        "v.blk.N.ffn_down": "blocks.N.mlp.down_proj",
        "v.post_ln": "merger.ln_q",
        "mm.0": "merger.mlp.0",
        "mm.2": "merger.mlp.2",
    }
    weights = {**_renamed(tower, names), "patch_embed.proj.weight": _kernel(tower)}
    for i in range(n_layer):
        for last in ("weight", "bias"):
            parts = [tower.tensors[f"v.blk.{i}.attn_{part}.{last}"] for part in "qkv"]
            weights[f"blocks.{i}.attn.qkv.{last}"] = np.concatenate(parts)
    model = _load(Qwen2_5_VisionTransformerPretrainedModel(config), weights)
    return _vision_rows(model, keys["patch_size"])


def qwen25o(tower: TinyTower) -> Callable[..., np.ndarray]:
    """Rows of a sound: rows(mel)."""
    keys = _shape(tower, "audio")
    table = tower.tensors["a.position_embd.weight"]
    config = Qwen2_5OmniAudioEncoderConfig(
        num_mel_bins=keys["num_mel_bins"],
        encoder_layers=keys["block_count"],
        encoder_attention_heads=keys["attention.head_count"],
        encoder_ffn_dim=keys["feed_forward_length"],
        d_model=keys["embedding_length"],
        max_source_positions=len(table),
        n_window=keys["n_window"],
        output_dim=keys["projection_dim"],
    )
    names = {
        "a.conv1d.1": "conv1",
        "a.conv1d.2": "conv2",
        "a.blk.N.ln1": "layers.N.self_attn_layer_norm",
        "a.blk.N.attn_q": "layers.N.self_attn.q_proj",
        "a.blk.N.attn_k": "layers.N.self_attn.k_proj",
        "a.blk.N.attn_v": "layers.N.self_attn.v_proj",
        "a.blk.N.attn_out": "layers.N.self_attn.out_proj",
        "a.blk.N.ln2": "layers.N.final_layer_norm",
        "a.blk.N.ffn_up": "layers.N.fc1",
        "a.blk.N.ffn_down": "layers.N.fc2",
        "a.post_ln": "ln_post",
        "mm.a.fc": "proj",
    }
    weights = _renamed(tower, names)
    for i in (1, 2):
        weights[f"conv{i}.bias"] = weights[f"conv{i}.bias"][:, 0]
    model = _load(Qwen2_5OmniAudioEncoder(config), weights)
    model.positional_embedding.positional_embedding = torch.from_numpy(table.astype(np.float64))

    def rows(mel: np.ndarray) -> np.ndarray:
        n = mel.shape[1]
        with torch.no_grad():
            return model(
                torch.from_numpy(mel.astype(np.float64)),
                feature_lens=torch.tensor([n]),
                aftercnn_lens=torch.tensor([(n - 1) // 2 + 1]),
            ).last_hidden_state.numpy()

    return rows


def load(name: str) -> Callable[..., np.ndarray]:
    """The reference of a tiny tower by its name."""
    return {"qwen3vl": qwen3vl, "qwen25vl": qwen25vl, "qwen25o": qwen25o}[name](
        tiny_towers.build(name)
    )


def main() -> None:
    out: dict[str, Any] = {"seed": tiny_towers.SEED}
    out["versions"] = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "numpy"))
    for name in golden.TOWERS:
        rows = load(name)
        out[f"{name}/content_sha256"] = tiny_towers.build(name).content_sha256()
        for case, inputs in golden.tower_cases(name).items():
            for key, value in golden.pack(golden.kept_rows(rows(*inputs))).items():
                out[f"{name}/{case}/{key}"] = value
    np.savez_compressed(golden.DATA / "towers.npz", **out)


if __name__ == "__main__":
    main()
