"""Tiny random models of many architectures, for tests that compare ggembed with itself.

An architecture is data: the names of its tensors with their dimensions, and its metadata, as
llama.cpp's loader wants them (src/models/ARCH.cpp). transformers is not asked about their rows;
those that it is asked about are in `make_tiny_models.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import make_tiny_models
import numpy as np
import tiny_vocab
from make_tiny_models import POOLING_MEAN, Tensors, TinyModel, random_uniform

N_CTX = 2048

# Sizes by the letters that dimensions are written in, rows first.
_SIZES = {
    "v": 0,  # the vocabulary
    "c": N_CTX,
    "l": 2,  # layers
    "e": 64,  # the width of a token
    "h": 4,  # heads
    "n": 2,  # heads of keys and values
    "d": 16,  # a head
    "f": 96,  # feed-forward
    "x": 4,  # experts
    "1": 1,
}

_DIMS = {
    "token_embd": "ve",
    "position_embd": "ce",
    "token_embd_norm": "e",
    "output_norm": "e",
    "enc.output_norm": "e",
    "output": "ve",
    "attn_norm": "e",
    "attn_norm_2": "e",
    "attn_q": "qe",
    "attn_k": "ke",
    "attn_v": "ke",
    "attn_qkv": "we",
    "attn_q_norm": "d",
    "attn_k_norm": "d",
    "attn_sinks": "h",
    "attn_output": "eq",
    "post_attention_norm": "e",
    "ffn_norm": "e",
    "ffn_gate": "fe",
    "ffn_up": "fe",
    "ffn_down": "ef",
    "post_ffw_norm": "e",
    "ffn_gate_inp": "xe",
    "ffn_gate_exps": "xfe",
    "ffn_up_exps": "xfe",
    "ffn_down_exps": "xef",
    "ffn_gate_shexp": "fe",
    "ffn_up_shexp": "fe",
    "ffn_down_shexp": "ef",
}

_GAINS = {"attn_q": 1.5, "attn_k": 1.5, "attn_qkv": 1.5}
_BARE = ("ssm_a", "ssm_d")  # tensors without ".weight" behind the name

_RMS = {"attention.layer_norm_rms_epsilon": 1e-6}
_LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
_QKV = "attn_q attn_k attn_v"
_GATED = "ffn_gate ffn_up ffn_down"
_WINDOW = {"attention.sliding_window": 16, "attention.sliding_window_pattern": 2}
_EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 96}


@dataclass(frozen=True)
class _Architecture:
    """Tensors as "name", "name+" with a bias, or "name:dims" where the dimensions are its own."""

    layers: str
    keys: dict[str, object]
    top: str = "output_norm"  # beside the token table
    sizes: dict[str, int] = field(default_factory=dict)
    only: dict[int, str] = field(default_factory=dict)  # layers with other tensors
    embedding_gain: float = 1.0


_GPT = "attn_norm+ attn_qkv+ attn_output+ ffn_norm+ ffn_up+ ffn_down+"
_LLAMA = f"attn_norm {_QKV} attn_output ffn_norm {_GATED}"
_ROUTED = "ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps"
_SHARED = "ffn_gate_shexp ffn_up_shexp ffn_down_shexp"
_GEMMA4 = "attn_norm attn_q attn_q_norm attn_output post_attention_norm ffn_norm ffn_gate ffn_up"
_GEMMA4 += " ffn_down post_ffw_norm layer_output_scale:1"

ARCHITECTURES = {
    "qwen2": _Architecture(
        f"attn_norm attn_q+ attn_k+ attn_v+ attn_output ffn_norm {_GATED}", _RMS
    ),
    "qwen3moe": _Architecture(
        f"attn_norm {_QKV} attn_q_norm attn_k_norm attn_output ffn_norm {_ROUTED}",
        {**_RMS, **_EXPERTS},
    ),
    "gemma": _Architecture(_LLAMA, _RMS, embedding_gain=0.125),
    "gemma2": _Architecture(
        f"{_LLAMA} post_attention_norm post_ffw_norm",
        {
            **_RMS,
            **_WINDOW,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 30.0,
        },
        embedding_gain=0.125,
    ),
    "gemma4": _Architecture(  # the last two layers read the keys and values of those before
        f"{_GEMMA4} attn_k attn_v attn_k_norm",
        {
            **_RMS,
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [True, False, True, False],
            "attention.shared_kv_layers": 2,
            "attention.key_length_swa": 16,
            "attention.value_length_swa": 16,
            "embedding_length_per_layer_input": 0,
        },
        top="output_norm rope_freqs:p",
        sizes={"l": 4, "p": 8},
        only={2: _GEMMA4, 3: _GEMMA4},
        embedding_gain=0.125,
    ),
    "phi2": _Architecture(
        "attn_norm+ attn_q+ attn_k+ attn_v+ attn_output+ ffn_up+ ffn_down+",
        {**_LAYER_NORM, "rope.dimension_count": 8},
        top="output_norm+ output+",
        sizes={"n": 4},
    ),
    "phi3": _Architecture(
        "attn_norm attn_qkv attn_output ffn_norm ffn_up:ge ffn_down", _RMS, sizes={"g": 192}
    ),
    "gpt2": _Architecture(_GPT, _LAYER_NORM, top="position_embd output_norm+", sizes={"n": 4}),
    "falcon": _Architecture(
        "attn_norm+ attn_norm_2+ attn_qkv attn_output ffn_up ffn_down",
        _LAYER_NORM,
        top="output_norm+ output",
        sizes={"n": 1},
    ),
    "mpt": _Architecture(
        "attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down",
        {**_LAYER_NORM, "attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 2.0},
        sizes={"n": 4},
    ),
    "bloom": _Architecture(
        _GPT, _LAYER_NORM, top="token_embd_norm+ output_norm+ output", sizes={"n": 4}
    ),
    "gptneox": _Architecture(
        _GPT,
        {**_LAYER_NORM, "use_parallel_residual": True, "rope.dimension_count": 8},
        top="output_norm+ output",
        sizes={"n": 4},
    ),
    "starcoder2": _Architecture(
        "attn_norm+ attn_q+ attn_k+ attn_v+ attn_output+ ffn_norm+ ffn_up+ ffn_down+",
        _LAYER_NORM,
        top="output_norm+",
    ),
    "olmo2": _Architecture(
        f"{_QKV} attn_q_norm:q attn_k_norm:k attn_output post_attention_norm {_GATED}"
        " post_ffw_norm",
        {**_RMS, **_WINDOW},
        top="output_norm output",
    ),
    "stablelm": _Architecture(
        f"attn_norm+ {_QKV} attn_output ffn_norm+ {_GATED}",
        {**_LAYER_NORM, "rope.dimension_count": 8},
        top="output_norm+ output",
    ),
    "command-r": _Architecture(
        f"attn_norm {_QKV} attn_output {_GATED}", {**_LAYER_NORM, "logit_scale": 0.0625}
    ),
    "cohere2": _Architecture(
        f"attn_norm {_QKV} attn_output {_GATED}",
        {**_LAYER_NORM, **_WINDOW, "logit_scale": 0.0625},
    ),
    "granite": _Architecture(
        _LLAMA,
        {
            **_RMS,
            "logit_scale": 8.0,
            "residual_scale": 0.5,
            "embedding_scale": 4.0,
            "attention.scale": 0.3,
        },
        embedding_gain=0.25,
    ),
    "gpt-oss": _Architecture(
        "attn_norm attn_q+ attn_k+ attn_v+ attn_sinks attn_output+ post_attention_norm"
        " ffn_gate_inp+ ffn_gate_exps+ ffn_up_exps+ ffn_down_exps+",
        {**_RMS, **_WINDOW, **_EXPERTS},
        top="output_norm output",
    ),
    "deepseek": _Architecture(
        f"attn_norm {_QKV} attn_output ffn_norm {_ROUTED} {_SHARED}",
        {
            **_RMS,
            **_EXPERTS,
            "expert_shared_count": 1,
            "expert_weights_scale": 1.0,
            "leading_dense_block_count": 1,
        },
        only={0: _LLAMA},
    ),
    "deepseek2": _Architecture(  # multi-head latent attention
        "attn_norm attn_q_a:re attn_q_a_norm:r attn_q_b:mr attn_kv_a_mqa:te attn_kv_a_norm:s"
        f" attn_k_b:hds attn_v_b:hds attn_output ffn_norm {_GATED}",
        {
            **_RMS,
            "attention.q_lora_rank": 24,
            "attention.kv_lora_rank": 16,
            "attention.key_length": 24,
            "attention.value_length": 16,
            "attention.key_length_mla": 24,
            "attention.value_length_mla": 16,
            "rope.dimension_count": 8,
            "expert_feed_forward_length": 96,
            "expert_shared_count": 0,
            "leading_dense_block_count": 2,
        },
        sizes={"n": 1, "r": 24, "s": 16, "t": 16 + 8, "m": 4 * (16 + 8)},
    ),
    "mamba": _Architecture(  # recurrent
        "attn_norm ssm_in:ae ssm_conv1d+:ib ssm_x:ji ssm_dt+:it ssm_a:is ssm_d:i ssm_out:ei",
        {
            **_RMS,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 128,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
        },
        sizes={"h": 0, "n": 0, "f": 0, "a": 256, "i": 128, "b": 4, "j": 4 + 16, "s": 8, "t": 4},
    ),
    "jamba": _Architecture(  # the first layer is recurrent, the second attends
        _LLAMA,
        {
            **_RMS,
            "attention.head_count_kv": [0, 2],
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 128,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
        },
        sizes={"a": 256, "i": 128, "b": 4, "j": 4 + 16, "s": 8, "t": 4},
        only={
            0: "attn_norm ssm_in:ae ssm_conv1d+:ib ssm_x:ji ssm_dt_norm:t ssm_dt+:it ssm_b_norm:s"
            f" ssm_c_norm:s ssm_a:is ssm_d:i ssm_out:ei ffn_norm {_GATED}"
        },
    ),
    "neo-bert": _Architecture(
        "attn_norm attn_qkv attn_output ffn_norm ffn_up:ge ffn_down",
        {**_RMS, "attention.causal": False},
        top="enc.output_norm",
        sizes={"n": 4, "g": 192},
    ),
}

NAMES = tuple(ARCHITECTURES)


def _draw(label: str, part: str, shape: tuple[int, ...]) -> np.ndarray:
    values = random_uniform(label, shape)
    if part == "ssm_a":  # a decay
        return np.float32(-1.0) - values * np.float32(0.5)
    if len(shape) == 1:
        return np.float32(1.0) + values * np.float32(0.2)
    if part in ("token_embd", "position_embd"):
        return values
    return values * np.float32(_GAINS.get(part, 1.0) / math.sqrt(shape[-1]))


def _tensors(name: str, sizes: dict[str, int], parts: str, prefix: str = "") -> Tensors:
    out: Tensors = {}
    for entry in parts.split():
        entry, _, dims = entry.partition(":")
        part = entry.removesuffix("+")
        shape = tuple(sizes[d] for d in dims or _DIMS[part])
        key = prefix + part
        out[key + ("" if part in _BARE else ".weight")] = _draw(f"{name}/{key}", part, shape)
        if entry.endswith("+"):
            bias = shape if len(shape) == 1 else shape[:-1]
            out[f"{key}.bias"] = random_uniform(f"{name}/{key}.bias", bias) * np.float32(0.2)
    return out


def build(name: str) -> TinyModel:
    """The content of one tiny model, in memory."""
    arch, vocab = ARCHITECTURES[name], tiny_vocab.qwen()
    sizes = {**_SIZES, **arch.sizes, "v": len(vocab.tokens)}
    sizes["q"], sizes["k"] = sizes["h"] * sizes["d"], sizes["n"] * sizes["d"]
    sizes["w"] = sizes["q"] + 2 * sizes["k"]
    tensors = _tensors(name, sizes, f"token_embd {arch.top}")
    tensors["token_embd.weight"] *= np.float32(arch.embedding_gain)
    for i in range(sizes["l"]):
        parts = arch.only.get(i, arch.layers)
        tensors |= _tensors(name, sizes, parts, f"blk.{i}.")
    keys = {
        "context_length": sizes["c"],
        "embedding_length": sizes["e"],
        "block_count": sizes["l"],
        "feed_forward_length": sizes["f"],
        "attention.head_count": sizes["h"],
        "attention.head_count_kv": sizes["n"],
        **arch.keys,
        "pooling_type": POOLING_MEAN,
    }
    title = name.replace("phi3", "phi 3")  # "phi3" makes llama.cpp look for tokens of Phi-3
    return TinyModel(title, name, keys, tensors, vocab)


def with_vocabulary(model: TinyModel, n_vocab: int) -> TinyModel:
    """The same model with tokens that no text has, up to `n_vocab`; what was there stays."""
    n_old = len(model.vocab.tokens)
    n_more = n_vocab - n_old
    if n_more < 0:
        raise ValueError(f"{model.name} has {n_old} tokens, {n_vocab} are fewer")
    vocab = replace(
        model.vocab,
        tokens=model.vocab.tokens + [f"<more {i}>" for i in range(n_more)],
        types=model.vocab.types + [tiny_vocab.NORMAL] * n_more,
        scores=model.vocab.scores and model.vocab.scores + [-1000.0] * n_more,
    )
    tensors = dict(model.tensors)
    for name in ("token_embd.weight", "output.weight", "output.bias"):
        if name in tensors:
            more = random_uniform(f"{name}/more", (n_more, *tensors[name].shape[1:]))
            tensors[name] = np.concatenate([tensors[name], more])
    keys = {**model.keys, **({"vocab_size": n_vocab} if "vocab_size" in model.keys else {})}
    return replace(model, keys=keys, tensors=tensors, vocab=vocab)


def make(name: str, path: Path) -> Path:
    """Writes the tiny model `name` to `path` with F32 weights."""
    return make_tiny_models.write(build(name), path)
