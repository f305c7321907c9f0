"""The media path of jina-embeddings-v5-omni in transformers, with the weights of our GGUF files.

transformers has no class for the whole model, so the parts are put together here as its published
code does: image processor or mel extractor, encoder, text model over rows. It imports nothing of
ggembed, so that it can run in an environment of its own.
"""

from __future__ import annotations

import re
import wave
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    EuroBertConfig,
    EuroBertModel,
    Qwen3Config,
    Qwen3Model,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

Part = dict[str, str]

_MIN_PIXELS, _MAX_PIXELS = 262_144, 1_310_720
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # that of Qwen2

_TEXT_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
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
    "token_embd": "embed_tokens", "output_norm": "norm", "v.position_embd": "pos_embed",
    "v.post_ln": "merger.norm", "mm.0": "merger.linear_fc1", "mm.2": "merger.linear_fc2",
    "a.conv1d.1": "conv1", "a.conv1d.2": "conv2", "a.post_ln": "ln_post", "mm.a.fc": "proj",
}  # fmt: skip


class _File:
    """Metadata and weights of a GGUF file."""

    def __init__(self, path: str) -> None:
        self._reader = gguf.GGUFReader(path)

    def __getitem__(self, key: str) -> Any:
        return self._reader.fields[key].contents()

    def get(self, key: str) -> Any:
        return self[key] if key in self._reader.fields else None

    def weights(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """All tensors, under their own names."""
        return {
            tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=dtype)
            for tensor in self._reader.tensors
        }


def _renamed(weights: dict[str, torch.Tensor], layers: str, names: dict[str, str]) -> dict:
    """The tensors under the names of transformers."""
    result = {}
    for name, tensor in weights.items():
        stem, _, ending = name.rpartition(".")
        if match := re.fullmatch(r"(?:[va]\.)?blk\.(\d+)\.(\w+)", stem):
            result[f"{layers}.{match[1]}.{names[match[2]]}.{ending}"] = tensor
        elif stem in _OTHERS:
            result[f"{_OTHERS[stem]}.{ending}"] = tensor
    return result


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    unused = ("audio_bos_eos_token.weight", "positional_embedding.positional_embedding")
    if unexpected or any(name not in unused for name in missing):
        raise ValueError(f"weights do not match: {missing}, {unexpected}")
    return model.eval()


def _text_model(file: _File, dtype: torch.dtype) -> torch.nn.Module:
    arch = file["general.architecture"]
    common = {
        "vocab_size": len(file["tokenizer.ggml.tokens"]),
        "hidden_size": file[f"{arch}.embedding_length"],
        "intermediate_size": file[f"{arch}.feed_forward_length"],
        "num_hidden_layers": file[f"{arch}.block_count"],
        "num_attention_heads": file[f"{arch}.attention.head_count"],
        "num_key_value_heads": file[f"{arch}.attention.head_count_kv"],
        "head_dim": file[f"{arch}.attention.key_length"],
        "rms_norm_eps": file[f"{arch}.attention.layer_norm_rms_epsilon"],
        "max_position_embeddings": file[f"{arch}.context_length"],
        "rope_parameters": {"rope_type": "default", "rope_theta": file[f"{arch}.rope.freq_base"]},
        "dtype": dtype,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    qwen3 = arch == "qwen3"
    model = Qwen3Model(Qwen3Config(**common)) if qwen3 else EuroBertModel(EuroBertConfig(**common))
    return _load(model, _renamed(file.weights(dtype), "layers", _TEXT_NAMES))


def _vision_tower(file: _File, dtype: torch.dtype) -> torch.nn.Module:
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
    named = _renamed(weights, "blocks", _VISION_NAMES)
    named["patch_embed.proj.weight"] = torch.stack(halves, dim=2)
    named["patch_embed.proj.bias"] = weights["v.patch_embd.bias"]
    return _load(Qwen3VLVisionModel(config), named)


def _audio_tower(file: _File, dtype: torch.dtype) -> torch.nn.Module:
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
    return _load(Qwen2_5OmniAudioEncoder(config), _renamed(weights, "layers", _AUDIO_NAMES))


class Transformers:
    """All media of a call go through the encoder at once, inputs of a length through the text."""

    def __init__(self, job: dict[str, Any]) -> None:
        if job["n_threads"]:
            torch.set_num_threads(job["n_threads"])
        self._dtype = torch.bfloat16 if job["contender"].endswith("bf16") else torch.float32
        torch.set_default_dtype(self._dtype)
        text, tower = _File(job["model"]), _File(job["mmproj"])
        self._text = _text_model(text, self._dtype)
        self._is_audio = bool(tower.get("clip.has_audio_encoder"))
        self._tower = (_audio_tower if self._is_audio else _vision_tower)(tower, self._dtype)
        self._processor = Qwen2VLImageProcessorPil(
            patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3,
            size={"shortest_edge": _MIN_PIXELS, "longest_edge": _MAX_PIXELS},
        )  # fmt: skip
        self._mel = WhisperFeatureExtractor(feature_size=128)
        self._ids = {token: i for i, token in enumerate(text["tokenizer.ggml.tokens"])}
        self._tokenizer = Tokenizer(
            models.BPE(self._ids, [tuple(m.split(" ")) for m in text["tokenizer.ggml.merges"]])
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._tokenizer.decoder = decoders.ByteLevel()
        self._end = []
        if text.get("tokenizer.ggml.add_eos_token"):
            self._end = [text["tokenizer.ggml.eos_token_id"]]
        self.n_tokens: list[int] = []

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

    def parts(self, inputs: list[list[Part]]) -> dict[str, float]:  # noqa: ARG002
        return {}

    def describe(self) -> dict[str, Any]:
        return {
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "dtype": str(self._dtype).removeprefix("torch."),
            "n_threads": torch.get_num_threads(),
        }

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


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
