"""Broken GGUF files: variants of the tiny models, each a function of a seed and a number.

Four kinds, so that each depth of the loader is reached:

- ``meaning``: well-formed files whose content makes no sense, written by the gguf package
- ``structure``: one number of the container replaced: a count, length, type, dimension or offset
- ``truncation``: the file ends early, at and around every boundary
- ``bits``: random bits flipped in the metadata, or in all of the file
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import gguf
import make_tiny_models
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from make_tiny_models import TinyModel

KINDS = ("meaning", "structure", "truncation", "bits")

BASES = (
    "bert-mean",
    "qwen3-last",
    "eurobert-last",
    "modern-bert-mean",
    "gemma3-last",
    "t5encoder-mean",
    "llama-last",
    "qwen2vl-mean",
    "jina-bert-v2-mean",
    "gemma-embedding-mean",
)


@dataclass(frozen=True)
class Variant:
    """One broken file; `name` says which base it comes from and what was done to it."""

    name: str
    data: bytes


@dataclass(frozen=True)
class _Number:
    """A number inside a file: where, how wide, what it is for; "f" is a float, "u" an integer."""

    label: str
    offset: int
    size: int
    kind: str = "u"


_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


class Container:
    """Where the numbers of a GGUF file stand, by the format's own rules (ggml, docs/gguf.md)."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.numbers: list[_Number] = []
        self.boundaries: list[int] = [0]
        self._number("magic", 4)
        self._number("version", 4)
        n_tensors = self._number("n_tensors", 8)
        n_kv = self._number("n_kv", 8)
        for _ in range(n_kv):
            self.boundaries.append(self.at)
            key = self._string("key")
            self._value(key, self._number(f"type of {key}", 4))
        for _ in range(n_tensors):
            self.boundaries.append(self.at)
            name = self._string("tensor name")
            n_dims = self._number(f"n_dims of {name}", 4)
            for i in range(n_dims):
                self._number(f"dim {i} of {name}", 8)
            self._number(f"type of {name}", 4)
            self._number(f"offset of {name}", 8)
        self.meta_end = self.at
        self.boundaries += [self.at, (self.at + 31) // 32 * 32, len(data)]

    def _number(self, label: str, size: int, kind: str = "u") -> int:
        self.numbers.append(_Number(label, self.at, size, kind))
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "little")

    def _string(self, label: str) -> str:
        length = self._number(f"length of {label}", 8)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "replace")

    def _value(self, label: str, type_: int) -> None:
        if type_ == _STRING:
            self._string(label)
        elif type_ == _ARRAY:
            inner = self._number(f"element type of {label}", 4)
            count = self._number(f"count of {label}", 8)
            for i in range(count):
                before = len(self.numbers)
                self._value(f"{label}[{i}]", inner)
                if 2 < i < count - 2:
                    del self.numbers[before:]  # the first and last elements stand for all
        else:
            self._number(label, _SCALARS[type_], "f" if type_ in (6, 12) else "u")


def _interesting(number: _Number, old: int) -> list[bytes]:
    """Values that loaders get wrong, for a number of this width."""
    if number.kind == "f":
        values = [0.0, -0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan")]
        code = "<f" if number.size == 4 else "<d"
        return [struct.pack(code, v) for v in values]
    top = 1 << (8 * number.size)
    near = [0, 1, 2, 3, 7, 8, 9, 10, 13, 31, 64, 255, old - 1, old + 1, old * 2, old ^ 1]
    far = [top - 1, top // 2, top // 2 - 1, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 40, 1 << 62]
    wanted = {v % top for v in near + far} - {old}
    return [v.to_bytes(number.size, "little") for v in sorted(wanted)]


def structure(name: str, data: bytes, draw: random.Random, n: int) -> Iterator[Variant]:
    """Numbers of one file replaced, each number once before any comes twice."""
    container = Container(data)
    order: list[_Number] = []
    for _ in range(n):
        if not order:
            order = draw.sample(container.numbers, len(container.numbers))
        number = order.pop()
        end = number.offset + number.size
        old = int.from_bytes(data[number.offset : end], "little")
        new = draw.choice(_interesting(number, old))
        text = f"{name}: {number.label} from {old} to 0x{int.from_bytes(new, 'little'):x}"
        yield Variant(text, data[: number.offset] + new + data[end:])


def truncation(name: str, data: bytes, draw: random.Random, n: int) -> Iterator[Variant]:
    """One file cut at n places."""
    places = {p + d for p in Container(data).boundaries for d in (-1, 0, 1, 4)}
    places = sorted(p for p in places if 0 <= p < len(data))
    for i in range(n):
        place = draw.choice(places) if i % 3 else draw.randrange(len(data))
        yield Variant(f"{name}: cut to {place} of {len(data)} bytes", data[:place])


def bits(name: str, data: bytes, draw: random.Random, n: int) -> Iterator[Variant]:
    """One file with 1 to 16 flipped bits, three times out of four in the metadata only."""
    meta_end = Container(data).meta_end
    for i in range(n):
        changed = bytearray(data)
        end = meta_end if i % 4 else len(data)
        n_bits = draw.choice([1, 1, 1, 2, 4, 16])
        places = [(draw.randrange(end), draw.randrange(8)) for _ in range(n_bits)]
        for place, bit in places:
            changed[place] ^= 1 << bit
        where = ", ".join(f"{p}.{b}" for p, b in places[:4])
        yield Variant(f"{name}: {n_bits} bits flipped at {where}", bytes(changed))


# ---------------------------------------------------------------------------------- meaning

Edit = Callable[["TinyModel"], "TinyModel | None"]


def _keys(**changes: object) -> Edit:
    """Replaces metadata of the architecture; None removes, "__" in a name stands for a dot."""

    def edit(model: TinyModel) -> TinyModel:
        keys = {**model.keys, **{k.replace("__", "."): v for k, v in changes.items()}}
        return replace(model, keys={k: v for k, v in keys.items() if v is not None})

    return edit


def _vocab_keys(**changes: object) -> Edit:
    def edit(model: TinyModel) -> TinyModel:
        keys = {**model.vocab.keys, **changes}
        keys = {k: v for k, v in keys.items() if v is not None}
        return replace(model, vocab=replace(model.vocab, keys=keys))

    return edit


def _vocab(change: Callable[..., dict[str, object]]) -> Edit:
    def edit(model: TinyModel) -> TinyModel:
        return replace(model, vocab=replace(model.vocab, **change(model.vocab)))

    return edit


def _tensor(part: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Edit:
    """Replaces the tensors whose name holds `part`; None drops them. No such tensor: no variant."""

    def edit(model: TinyModel) -> TinyModel | None:
        tensors = {}
        for name, data in model.tensors.items():
            new = change(data) if part in name else data
            if new is not None:
                tensors[name] = np.ascontiguousarray(new)
        hit = any(part in name for name in model.tensors)
        return replace(model, tensors=tensors) if hit else None

    return edit


def _put(value: float, every: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.copy()
        data.reshape(-1)[::every] = value
        return data

    return change


def _renamed(old: str, new: str) -> Edit:
    def edit(model: TinyModel) -> TinyModel | None:
        tensors = {name.replace(old, new): data for name, data in model.tensors.items()}
        return None if tensors.keys() == model.tensors.keys() else replace(model, tensors=tensors)

    return edit


_ALL_ARCHS = ["bert", "qwen3", "eurobert", "llama", "t5", "gemma3", "modern-bert", "mamba", "clip"]
_BIG = [2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1]

_MEANINGS: dict[str, Edit] = {
    **{f"context_length {n}": _keys(context_length=n) for n in (0, 1, 2, 3, *_BIG)},
    **{f"embedding_length {n}": _keys(embedding_length=n) for n in (0, 1, 31, 33, *_BIG)},
    **{f"block_count {n}": _keys(block_count=n) for n in (0, 1, 9, 512, 513, *_BIG)},
    **{f"head_count {n}": _keys(attention__head_count=n) for n in (0, 1, 3, 5, 7, 64, *_BIG)},
    **{f"head_count_kv {n}": _keys(attention__head_count_kv=n) for n in (0, 3, 5, 64, *_BIG)},
    **{f"feed_forward {n}": _keys(feed_forward_length=n) for n in (0, 1, 63, *_BIG)},
    **{f"key_length {n}": _keys(attention__key_length=n) for n in (0, 1, 15, 17, *_BIG)},
    **{f"value_length {n}": _keys(attention__value_length=n) for n in (0, 1, 15, 17, *_BIG)},
    **{f"rope count {n}": _keys(rope__dimension_count=n) for n in (0, 1, 3, 15, 17, 64, *_BIG)},
    **{f"sliding_window {n}": _keys(attention__sliding_window=n) for n in (0, 1, 2, *_BIG)},
    **{f"window pattern {n}": _keys(attention__sliding_window_pattern=n) for n in (0, 1, 99)},
    **{f"buckets {n}": _keys(attention__relative_buckets_count=n) for n in (0, 1, 2, 31, 64)},
    **{f"pooling_type {n}": _keys(pooling_type=n) for n in (0, 1, 2, 3, 4, 5, 99, 2**31)},
    **{f"expert_count {n}": _keys(expert_count=n) for n in (1, 8, 10**6)},
    **{f"expert_used_count {n}": _keys(expert_used_count=n) for n in (1, 8)},
    **{f"rope theta {v}": _keys(rope__freq_base=v) for v in (0.0, -1.0, 1e38, float("nan"))},
    **{f"eps {v}": _keys(attention__layer_norm_rms_epsilon=v) for v in (0.0, -1.0, float("nan"))},
    **{f"ln eps {v}": _keys(attention__layer_norm_epsilon=v) for v in (-1.0, float("nan"))},
    **{f"rope scaling {v!r}": _keys(rope__scaling__type=v) for v in ("", "yarn", "nonsense")},
    **{f"rope factor {v}": _keys(rope__scaling__factor=v) for v in (0.0, -1.0, float("inf"))},
    **{f"alibi {v}": _keys(attention__max_alibi_bias=v) for v in (8.0, -1.0, float("nan"))},
    **{f"{k} as text": _keys(**{k: "2"}) for k in ("block_count", "context_length")},
    "causal flipped": lambda m: _keys(attention__causal=not m.keys.get("attention.causal", True))(
        m
    ),
    "head_count per layer": _keys(attention__head_count=[2, 0]),
    "head_count per too few layers": _keys(attention__head_count=[2]),
    "head_count as text": _keys(attention__head_count="four"),
    "no context_length": _keys(context_length=None),
    "no head_count": _keys(attention__head_count=None),
    "no block_count": _keys(block_count=None),
    "no eps": _keys(attention__layer_norm_rms_epsilon=None, attention__layer_norm_epsilon=None),
    "rope sections of zeros": _keys(rope__dimension_sections=[0, 0, 0, 0]),
    "rope sections too large": _keys(rope__dimension_sections=[2**30, 2**30, 2**30, 1]),
    "rope sections negative": _keys(rope__dimension_sections=[-2, -3, -3, 0]),
    "rope sections too few": _keys(rope__dimension_sections=[8]),
    "n_swa without pattern": _keys(attention__sliding_window=4),
    **{f"arch {a}": (lambda m, a=a: replace(m, arch=a)) for a in (*_ALL_ARCHS, "", "x" * 300)},
    # vocabulary
    **{
        f"{role} {n}": _vocab_keys(**{f"{role}_token_id": n})
        for role in ("bos", "eos", "seperator", "unknown", "padding", "cls", "mask")
        for n in (10**6, 2**31, 2**32 - 1)
    },
    **{
        f"add_{role} {on}": _vocab_keys(**{f"add_{role}_token": on})
        for role in ("bos", "eos", "sep")
        for on in (True, False)
    },
    "adds tokens it has not": _vocab_keys(
        bos_token_id=2**32 - 1, eos_token_id=2**32 - 1, add_bos_token=True, add_eos_token=True
    ),
    "no special ids": lambda m: replace(m, vocab=replace(m.vocab, keys={})),
    "vocabulary of one": _vocab(lambda v: {"tokens": v.tokens[:1], "types": v.types[:1]}),
    "vocabulary halved": _vocab(
        lambda v: {
            "tokens": v.tokens[: len(v.tokens) // 2],
            "types": v.types[: len(v.types) // 2],
            "scores": v.scores and v.scores[: len(v.scores) // 2],
        }
    ),
    "vocabulary doubled": _vocab(
        lambda v: {
            "tokens": v.tokens + [f"extra{i}" for i in range(len(v.tokens))],
            "types": v.types * 2,
            "scores": v.scores and v.scores * 2,
        }
    ),
    "one token too many": _vocab(
        lambda v: {
            "tokens": [*v.tokens, "surplus"],
            "types": [*v.types, 1],
            "scores": v.scores and [*v.scores, 0.0],
        }
    ),
    "types too few": _vocab(lambda v: {"types": v.types[:3]}),
    "types nonsense": _vocab(lambda v: {"types": [77] * len(v.types)}),
    "types all control": _vocab(lambda v: {"types": [3] * len(v.types)}),
    "types all bytes": _vocab(lambda v: {"types": [6] * len(v.types)}),
    "scores too few": _vocab(lambda _: {"scores": [0.0]}),
    "scores nan": _vocab(lambda v: {"scores": [float("nan")] * len(v.tokens)}),
    "tokens all equal": _vocab(lambda v: {"tokens": ["same"] * len(v.tokens)}),
    "tokens all empty": _vocab(lambda v: {"tokens": [""] * len(v.tokens)}),
    "tokens not utf-8": _vocab(
        lambda v: {"tokens": [b"\xff\xfe" + bytes([i % 256]) for i, _ in enumerate(v.tokens)]}
    ),
    "a token of 1 MB": _vocab(lambda v: {"tokens": [*v.tokens[:-1], "x" * 2**20]}),
    "merges missing": _vocab(lambda _: {"merges": None}),
    "merges malformed": _vocab(lambda _: {"merges": ["", " ", "a", "a b c", "  ", "\u0120"]}),
    "merges of nothing known": _vocab(lambda _: {"merges": ["qqq zzz", "zzz qqq"]}),
    "pre unknown": _vocab(lambda _: {"pre": "no-such-rule"}),
    **{
        f"tokenizer {t!r}": _vocab(lambda _, t=t: {"model": t})
        for t in ("", "none", "no_vocab", "bert", "gpt2", "llama", "t5", "rwkv", "plamo2", "xyz")
    },
    # tensors
    "nan in the matrices": _tensor("attn", _put(float("nan"), 97)),
    "all nan": _tensor("", _put(float("nan"), 1)),
    "inf in the embedding": _tensor("token_embd", _put(float("inf"), 101)),
    "all zero": _tensor("", _put(0.0, 1)),
    "huge weights": _tensor("", lambda d: d * np.float32(1e30)),
    "no embedding": _tensor("token_embd", lambda _: None),
    "no output norm": _tensor("output_norm", lambda _: None),
    "no ffn": _tensor("ffn_", lambda _: None),
    "no attention": _tensor("attn_", lambda _: None),
    "no tensors": lambda m: replace(m, tensors={}),
    "embedding transposed": _tensor("token_embd.weight", lambda d: d.T),
    "ffn transposed": _tensor("ffn_down", lambda d: d.T),
    "attention transposed": _tensor("attn_q", lambda d: d.T),
    "norm too short": _tensor("norm.weight", lambda d: d[:-1]),
    "norm two-dimensional": _tensor("norm.weight", lambda d: d[None]),
    "four dimensions": _tensor("ffn_up", lambda d: d[None, None] if d.ndim == 2 else d),
    "vocabulary row missing": _tensor("token_embd.weight", lambda d: d[:-1]),
    "bias too long": _tensor(".bias", lambda d: np.append(d, d)),
    "positions too few": _tensor("position_embd", lambda d: d[:1]),
    "norm in F16": _tensor("norm.weight", lambda d: d.astype(np.float16)),
    "bias in F16": _tensor(".bias", lambda d: d.astype(np.float16)),
    "matrices in F64": _tensor("ffn_up", lambda d: d.astype(np.float64)),
    "matrices in I32": _tensor("attn_q.weight", lambda d: (d * 9).astype(np.int32)),
    "embedding in I8": _tensor("token_embd.weight", lambda d: (d * 99).astype(np.int8)),
    "tensor renamed": _renamed("attn_q", "attn_z"),
    "layer renamed": _renamed("blk.1.", "blk.7."),
    "name too long": _renamed("token_embd", "t" * 100),
}


# What has crashed or hung once: every run tries these on every base.
ONCE_BROKEN = (
    "a token of 1 MB",
    "matrices in F64",
    "matrices in I32",
    "head_count_kv 0",
    "rope count 0",
    "tokenizer 'rwkv'",
    "tokenizer 'llama'",
    "adds tokens it has not",
    "sliding_window 2147483647",
    "key_length 4294967295",
)


def _raw(path: Path) -> dict[str, bytes]:
    """Files that no writer would make."""
    data = path.read_bytes()
    head, container = data[:24], Container(data)
    kv = data[24 : container.boundaries[1]] if len(container.boundaries) > 1 else b""
    big = (2**63 - 1).to_bytes(8, "little")
    align = data.replace(b"general.name", b"general.alig", 1)
    return {
        "empty file": b"",
        "one byte": b"G",
        "magic alone": b"GGUF",
        "header alone": head,
        "zeros": bytes(4096),
        "text": b"This is no model.\n" * 99,
        "garbage after the header": head + b"\xa5" * 4096,
        "big-endian magic": b"FUGG" + data[4:],
        "version 1": data[:4] + (1).to_bytes(4, "little") + data[8:],
        "version big-endian": data[:4] + (3).to_bytes(4, "big") + data[8:],
        "no tensors counted": data[:8] + bytes(8) + data[16:],
        "no keys counted": data[:16] + bytes(8) + data[24:],
        "2^63 tensors": data[:8] + big + data[16:],
        "2^63 keys": data[:16] + big + data[24:],
        "keys twice": data[:24] + kv + data[24:],
        "key renamed": align,
        "doubled": data + data,
        "extra bytes at the end": data + bytes(1000),
        "the first tensor's name twice": _same_name(data, container),
    }


def _same_name(data: bytes, container: Container) -> bytes:
    names = [n for n in container.numbers if n.label == "length of tensor name"]
    texts = []
    for n in names:
        start = n.offset + n.size
        size = int.from_bytes(data[n.offset : start], "little")
        texts.append(data[start : start + size])
    first = texts[0]
    other = next((t for t in texts[1:] if len(t) == len(first)), None)
    return data if other is None else data.replace(other, first)


def meaning(base: str, path: Path, scratch: Path) -> Iterator[Variant]:
    """Every nonsense that applies to one base."""
    model = make_tiny_models.build(base)
    for what, data in _raw(path).items():
        yield Variant(f"{base}: {what}", data)
    for what, edit in _MEANINGS.items():
        changed = edit(model)
        if changed is not None:
            make_tiny_models.write(changed, scratch)
            yield Variant(f"{base}: {what}", scratch.read_bytes())
    for quant in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16):
        if all(d.shape[-1] % 32 == 0 for d in model.tensors.values() if d.ndim == 2):
            make_tiny_models.write(model, scratch, quant=quant)
            data = scratch.read_bytes()
            yield Variant(f"{base}: {quant.name} cut short", data[: len(data) * 3 // 4])


def variants(kind: str, files: dict[str, Path], scratch: Path, n: int, seed: int) -> list[Variant]:
    """n variants of one kind over all bases, the same ones for the same seed."""
    draw = random.Random(f"{seed}/{kind}")
    if kind == "meaning":
        every = [v for base, path in files.items() for v in meaning(base, path, scratch)]
        first = [v for v in every if v.name.split(": ", 1)[1] in ONCE_BROKEN]
        rest = [v for v in every if v not in first]
        return first + draw.sample(rest, max(0, min(n - len(first), len(rest))))
    make = {"structure": structure, "truncation": truncation, "bits": bits}[kind]
    share = -(-n // len(files))
    made = [v for b, path in files.items() for v in make(b, path.read_bytes(), draw, share)]
    return draw.sample(made, n)
