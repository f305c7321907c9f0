"""Text models of transformers with the weights of GGUF files.

    python benchmarks/torch_text.py MODEL.gguf FOLDER     # as Sentence Transformers saves a model

It imports nothing of ggembed, so that it can run in an environment of its own.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    EuroBertConfig,
    EuroBertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

_CLASSES = {
    "qwen3": (Qwen3Config, Qwen3Model),
    "qwen2vl": (Qwen2Config, Qwen2Model),  # the same for text, whose three positions are equal
    "eurobert": (EuroBertConfig, EuroBertModel),
}
_POOLING = {1: "pooling_mode_mean_tokens", 3: "pooling_mode_lasttoken"}
_DIGITS = {"qwen2": r"\p{N}", "jina-v5-nano": r"\p{N}{1,3}"}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_OTHERS = {"token_embd": "embed_tokens", "output_norm": "norm"}


class File:
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


def renamed(
    weights: dict[str, torch.Tensor], layers: str, names: dict[str, str], others: dict[str, str]
) -> dict[str, torch.Tensor]:
    """The tensors under the names of transformers: those of layers, and the others."""
    result = {}
    for name, tensor in weights.items():
        stem, _, ending = name.rpartition(".")
        if match := re.fullmatch(r"(?:[va]\.)?blk\.(\d+)\.(\w+)", stem):
            result[f"{layers}.{match[1]}.{names[match[2]]}.{ending}"] = tensor
        elif stem in others:
            result[f"{others[stem]}.{ending}"] = tensor
    return result


def load(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], unused: tuple[str, ...] = ()
) -> torch.nn.Module:
    """The model with these weights. Those named `unused` may be missing."""
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or any(name not in unused for name in missing):
        raise ValueError(f"weights do not match: {missing}, {unexpected}")
    return model.eval()


def text_model(file: File, dtype: torch.dtype) -> torch.nn.Module:
    arch = file["general.architecture"]
    eps = f"{arch}.attention.layer_norm_rms_epsilon"
    config, model = _CLASSES[arch]
    made = config(
        vocab_size=len(file["tokenizer.ggml.tokens"]),
        hidden_size=file[f"{arch}.embedding_length"],
        intermediate_size=file[f"{arch}.feed_forward_length"],
        num_hidden_layers=file[f"{arch}.block_count"],
        num_attention_heads=file[f"{arch}.attention.head_count"],
        num_key_value_heads=file[f"{arch}.attention.head_count_kv"],
        head_dim=file[f"{arch}.attention.key_length"],
        rms_norm_eps=file[eps],
        max_position_embeddings=file[f"{arch}.context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": file[f"{arch}.rope.freq_base"]},
        dtype=dtype,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return load(model(made), renamed(file.weights(dtype), "layers", _NAMES, _OTHERS))


def tokenizer(file: File) -> Tokenizer:
    """Byte-level BPE with the vocabulary and the rules of the file; it adds no special tokens."""
    tokens = file["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in file["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    split = _SPLIT.replace("DIGITS", _DIGITS[file["tokenizer.ggml.pre"]])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def write(path: str, folder: Path) -> None:
    """Writes the model in F32 as a folder that SentenceTransformer() loads."""
    file = File(path)
    arch, tokens = file["general.architecture"], file["tokenizer.ggml.tokens"]
    n_ctx = file[f"{arch}.context_length"]
    text_model(file, torch.float32).save_pretrained(folder)
    encoder, end = tokenizer(file), file["tokenizer.ggml.eos_token_id"]
    if file.get("tokenizer.ggml.add_eos_token"):
        template = f"$A {tokens[end]}"
        special = [(tokens[end], end)]
        encoder.post_processor = processors.TemplateProcessing(template, None, special)
    PreTrainedTokenizerFast(
        tokenizer_object=encoder, pad_token=tokens[end], model_max_length=n_ctx
    ).save_pretrained(folder)
    pooling = {
        "word_embedding_dimension": file[f"{arch}.embedding_length"],
        "pooling_mode_mean_tokens": False,
        _POOLING[file[f"{arch}.pooling_type"]]: True,
    }
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (place, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    for name, content in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": n_ctx}),
        ("1_Pooling/config.json", pooling),
        ("2_Normalize/config.json", {}),
    ):
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(content), "utf-8")


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
