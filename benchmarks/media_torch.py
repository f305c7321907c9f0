"""The media path of jina-embeddings-v5-omni in transformers, with the weights of our GGUF files.

transformers has no class for the whole model, so the parts are put together here as its published
code does: image processor or mel extractor, encoder, text model over rows. It imports nothing of
ggembed, so that it can run in an environment of its own.
"""

from __future__ import annotations

import wave
from typing import Any

import numpy as np
import serve
import torch
import torch_text
import transformers
from torch_text import File, renamed
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

Part = dict[str, str]

_MIN_PIXELS, _MAX_PIXELS = 262_144, 1_310_720
_VISION_NAMES = {
    "ln1": "norm1", "ln2": "norm2", "attn_qkv": "attn.qkv", "attn_out": "attn.proj",
    "ffn_up": "mlp.linear_fc1", "ffn_down": "mlp.linear_fc2",
}  # fmt: skip
_AUDIO_NAMES = {
    "ln1": "self_attn_layer_norm", "ln2": "final_layer_norm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_out": "self_attn.out_proj",
    "ffn_up": "fc1", "ffn_down": "fc2",
}  # fmt: skip
_OTHERS = {
    "v.position_embd": "pos_embed",
    "v.post_ln": "merger.norm", "mm.0": "merger.linear_fc1", "mm.2": "merger.linear_fc2",
    "a.conv1d.1": "conv1", "a.conv1d.2": "conv2", "a.post_ln": "ln_post", "mm.a.fc": "proj",
}  # fmt: skip


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    unused = ("audio_bos_eos_token.weight", "positional_embedding.positional_embedding")
    return torch_text.load(model, weights, unused)


def _vision_tower(file: File, dtype: torch.dtype) -> torch.nn.Module:
    config = Qwen3VLVisionConfig(
        depth=file["clip.vision.block_count"],
        hidden_size=file["clip.vision.embedding_length"],
        intermediate_size=file["clip.vision.feed_forward_length"],
        num_heads=file["clip.vision.attention.head_count"],
        out_hidden_size=file["clip.vision.projection_dim"],
        patch_size=file["clip.vision.patch_size"],
        num_position_embeddings=2304,
        deepstack_visual_indexes=[],
        dtype=dtype,
    )
    weights = file.weights(dtype)
    halves = weights.pop("v.patch_embd.weight"), weights.pop("v.patch_embd.weight.1")
    named = renamed(weights, "blocks", _VISION_NAMES, _OTHERS)
    named["patch_embed.proj.weight"] = torch.stack(halves, dim=2)
    named["patch_embed.proj.bias"] = weights["v.patch_embd.bias"]
    return _load(Qwen3VLVisionModel(config), named)


def _audio_tower(file: File, dtype: torch.dtype) -> torch.nn.Module:
    config = Qwen2_5OmniAudioEncoderConfig(
        num_mel_bins=file["clip.audio.num_mel_bins"],
        encoder_layers=file["clip.audio.block_count"],
        encoder_attention_heads=file["clip.audio.attention.head_count"],
        encoder_ffn_dim=file["clip.audio.feed_forward_length"],
        d_model=file["clip.audio.embedding_length"],
        n_window=file["clip.audio.n_window"],
        output_dim=file["clip.audio.projection_dim"],
        dtype=dtype,
    )
    weights = file.weights(dtype)
    for name in ("a.conv1d.1.bias", "a.conv1d.2.bias"):
        weights[name] = weights[name].flatten()
    return _load(Qwen2_5OmniAudioEncoder(config), renamed(weights, "layers", _AUDIO_NAMES, _OTHERS))


class Transformers(serve.Plain):
    """All media of a call go through the encoder at once, inputs of a length through the text."""

    def __init__(self, job: dict[str, Any]) -> None:
        if job["n_threads"]:
            torch.set_num_threads(job["n_threads"])
        self._dtype = torch.bfloat16 if job["contender"].endswith("bf16") else torch.float32
        torch.set_default_dtype(self._dtype)
        text, tower = File(job["model"]), File(job["mmproj"])
        self._text = torch_text.text_model(text, self._dtype)
        self._is_audio = bool(tower.get("clip.has_audio_encoder"))
        self._tower = (_audio_tower if self._is_audio else _vision_tower)(tower, self._dtype)
        self._processor = Qwen2VLImageProcessorPil(
            patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3,
            size={"shortest_edge": _MIN_PIXELS, "longest_edge": _MAX_PIXELS},
        )  # fmt: skip
        self._mel = WhisperFeatureExtractor(feature_size=128)
        self._ids = {token: i for i, token in enumerate(text["tokenizer.ggml.tokens"])}
        self._tokenizer = torch_text.tokenizer(text)
        self._end = []
        if text.get("tokenizer.ggml.add_eos_token"):
            self._end = [text["tokenizer.ggml.eos_token_id"]]

    def encode(self, inputs: list[list[Part]]) -> np.ndarray:
        with torch.inference_mode():
            return self._encode(inputs)

    def _encode(self, inputs: list[list[Part]]) -> np.ndarray:
        sequences = self._sequences(inputs)
        self.n_tokens = [len(sequence) for sequence in sequences]
        rows: list[torch.Tensor] = [torch.empty(0)] * len(inputs)
        for length in set(self.n_tokens):
            places = [i for i, sequence in enumerate(sequences) if len(sequence) == length]
            batch = torch.stack([sequences[i] for i in places])
            out = self._text(inputs_embeds=batch, use_cache=False).last_hidden_state[:, -1]
            for place, row in zip(places, out, strict=True):
                rows[place] = torch.nn.functional.normalize(row.float(), dim=0)
        return torch.stack(rows).numpy()

    def _sequences(self, inputs: list[list[Part]]) -> list[torch.Tensor]:
        """The rows that the text model computes with, for each input."""
        layouts = [self._layout(parts) for parts in inputs]
        media = [item for layout in layouts for item in layout if not isinstance(item, list)]
        encoded = iter((self._sounds if self._is_audio else self._pictures)(media))
        table = self._text.embed_tokens
        return [
            torch.cat([table(torch.tensor(x)) if isinstance(x, list) else next(encoded) for x in s])
            for s in layouts
        ]

    def _layout(self, parts: list[Part]) -> list[Any]:
        """Lists of token ids, and between them what the encoder takes."""
        layout: list[Any] = []
        for part in parts:
            if part["kind"] == "text":
                layout.append(self._tokenizer.encode(part["text"]).ids)
            elif part["kind"] == "audio":
                mark = self._marks("<|audio_start|>", "<|audio_end|>")
                layout += [mark[0], _samples(part["path"]), mark[1]]
            else:
                mark = self._marks("<|vision_start|>", "<|vision_end|>")
                for stamp, picture in _pictures(part):
                    ids = self._tokenizer.encode(stamp).ids if mark[0] else []
                    layout += [ids + mark[0], picture, mark[1]]
        return [item for item in [*layout, self._end] if not isinstance(item, list) or item]

    def _marks(self, *tokens: str) -> list[list[int]]:
        return [[self._ids[token]] if token in self._ids else [] for token in tokens]

    def _pictures(self, pictures: list[Any]) -> tuple[torch.Tensor, ...]:
        patches, grids = [], []
        for picture in pictures:
            if isinstance(picture, np.ndarray):  # a pair of frames, at its size
                values, grid = _pair_patches(picture)
            else:
                made = self._processor(picture, return_tensors="np")
                values, grid = made["pixel_values"], made["image_grid_thw"][0]
            patches.append(torch.tensor(values).to(self._dtype))
            grids.append(list(grid))
        rows = self._tower(torch.cat(patches), grid_thw=torch.tensor(grids)).pooler_output
        return rows.split([h * w // 4 for _, h, w in grids])

    def _sounds(self, sounds: list[np.ndarray]) -> tuple[torch.Tensor, ...]:
        mels = [
            self._mel(x, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
            for x in sounds
        ]
        lengths = [int(mel["attention_mask"].sum()) for mel in mels]
        frames = [mel["input_features"][0, :, :n] for mel, n in zip(mels, lengths, strict=True)]
        after = torch.tensor([(n - 1) // 2 + 1 for n in lengths])
        rows = self._tower(
            torch.cat(frames, dim=1).to(self._dtype),
            feature_lens=torch.tensor(lengths),
            aftercnn_lens=after,
        ).last_hidden_state
        return rows.split([(n + 1) // 4 for n in lengths])

    def describe(self) -> dict[str, Any]:
        return {
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "dtype": str(self._dtype).removeprefix("torch."),
            "n_threads": torch.get_num_threads(),
        }


def _samples(path: str) -> np.ndarray:
    with wave.open(path, "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768


def _pictures(part: Part) -> list[tuple[str, Any]]:
    """What the encoder sees of a part, one after the other, each with the text in front of it."""
    from PIL import Image

    if part["kind"] == "image":
        return [("", Image.open(part["path"]).convert("RGB"))]
    if part["kind"] == "pdf":
        import pypdfium2

        with pypdfium2.PdfDocument(part["path"]) as file:
            return [("", page.render(scale=150 / 72).to_pil()) for page in file]
    import av

    with av.open(part["path"]) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    return [  # the times are those of frames without metadata: 24 per second
        (f"<{(2 * i + 1) / 48:.1f} seconds>", np.stack(frames[i : i + 2]))
        for i in range(0, len(frames), 2)
    ]


def _pair_patches(frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Two frames of [height, width, 3] bytes, cut as the encoder wants them."""
    _, height, width, _ = frames.shape
    pixels = (frames.astype(np.float32) / 255 - 0.5) / 0.5
    cells = pixels.reshape(2, height // 32, 2, 16, width // 32, 2, 16, 3)
    patches = cells.transpose(1, 4, 2, 5, 7, 0, 3, 6)  # cell, patch in the cell, then its values
    return patches.reshape(-1, 3 * 2 * 16 * 16), [1, height // 16, width // 16]


def make(job: dict[str, Any]) -> Transformers:
    """The contender."""
    return Transformers(job)
