"""What the golden files hold and how they are read, for their writer and for the tests."""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import make_tiny_models
import numpy as np
import tiny_towers
from make_tiny_models import TinyModel

DATA = Path(__file__).parent / "data"

POOLINGS = ("mean", "cls", "last")

# One file per weight set: the rows of all poolings come from the same hidden states.
TINY_PARITY = (
    "bert-mean",
    "nomic-bert-mean",
    "jina-bert-v2-mean",
    "jina-bert-v3-mean",
    "modern-bert-mean",
    "eurobert-last",
    "qwen3-last",
    "qwen2vl-mean",
    "qwen2-bidirectional-mean",
    "lfm2-mean",
    "llama-last",
    "llama-embed-mean",
    "gemma3-last",
    "gemma-embedding-mean",
    "t5encoder-mean",
)

# Vocabularies whose token ids are compared with the tokenizers package: the splitting rules of Qwen
# and of Llama 3.
BPE_MODELS = ("qwen3-last", "eurobert-last")

# The models that LoRA adapters are tried on, and the scales on top of the adapter's own factor.
ADAPTER_BASES = ("qwen3-last", "bert-mean", "eurobert-last", "qwen2vl-mean", "modern-bert-mean")
ADAPTER_SCALES = (1.0, 0.5, 2.0)

_LENGTHS = (1, 2, 3, 7, 16, 17, 33, 64, 100, 200, 400)

# Pairs of a query and a document; some texts look like marks and special tokens of templates.
TEXT_PAIRS = tuple(
    (query, document)
    for query in ("What is the capital of France?", "search engine", "它是什么？ η θάλασσα")
    for document in (
        "Paris is the capital and most populous city of France.",
        "a vector search engine reads the question",
        "{query} and {document} [SEP] <Query>: isn't it?",
        "",
        " leading space,\n\nnewlines\n",
        "The quick brown fox jumps over the lazy dog. " * 8,
    )
)

# The towers whose rows are compared: grids of patches (width, height), and mel frames. Square grids
# as large as the table of positions or not, others, and for windows of 8 patches sides that are and
# are not multiples; sounds around pieces of 200 frames.
TOWERS = ("qwen3vl", "qwen25vl", "qwen25o")
GRIDS = {
    "qwen3vl": ((8, 8), (4, 4), (12, 12), (6, 10), (10, 6), (2, 2), (16, 2), (2, 30)),
    "qwen25vl": ((8, 8), (16, 16), (10, 6), (18, 20), (2, 2), (26, 12), (8, 22)),
}
MEL_FRAMES = (3, 4, 199, 200, 201, 202, 399, 400, 401, 1100, 2999, 3000, 6001)
_KEPT_ROWS = 100

# Of which input the golden file holds the token rows.
TOKEN_ROWS_INPUT = 3


def tiny_ids(model: TinyModel) -> list[list[int]]:
    """Fixed inputs as token ids: random normal tokens in lengths that cross the sliding windows."""
    first = model.vocab.n_normal_first
    last = max(i for i, t in enumerate(model.vocab.types) if t == 1)
    out = []
    for n in _LENGTHS:
        draw = make_tiny_models.random_uniform(f"ids/{n}", (n,)).astype(np.float64)
        draw = draw / np.sqrt(12.0) + 0.5
        out.append([first + int(v * (last - first)) for v in draw])
    return out


def pair_ids(
    model: TinyModel, ids_of: Callable[[TinyModel], list[list[int]]] = tiny_ids
) -> list[list[int]]:
    """Fixed pairs as token ids, laid out as the model's tokenizer does."""
    keys = model.vocab.keys
    texts = ids_of(model)
    if model.full_keys:  # the template's ids do not matter: what counts is the last token
        return [q + d for q, d in zip(texts, texts[::-1], strict=True)]
    cls, sep = keys["cls_token_id"], keys["seperator_token_id"]
    two = model.vocab.model == "t5"  # RoBERTa's
    return [
        [cls, *q, sep, *([sep] if two else []), *d, sep]
        for q, d in zip(texts, texts[::-1], strict=True)
    ]


def segments(ids: list[int], sep: int) -> list[int]:
    """BERT's token types of a pair: 0 up to the first separator, 1 after it."""
    first = ids.index(sep)
    return [int(i > first) for i in range(len(ids))]


def pool(states: np.ndarray, pooling: str) -> np.ndarray:
    """One row out of [n_tokens, n_embd] hidden states."""
    if pooling == "mean":
        return states.mean(axis=0)
    return states[{"cls": 0, "last": -1}[pooling]]


def flatten(inputs: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids one after the other and where each input begins."""
    offsets = np.cumsum([0, *map(len, inputs)]).astype(np.int32)
    ids = np.fromiter((i for ids in inputs for i in ids), dtype=np.int32, count=int(offsets[-1]))
    return ids, offsets


def own_pooling(name: str) -> str:
    """The pooling in the file of a tiny model, which its name ends in."""
    return name.rsplit("-", 1)[1]


def split(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    """The inverse of `flatten`."""
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def pack(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows as 16-bit steps with one scale each: half the size of float32, 1e-9 off in cosine."""
    scale = np.abs(rows).max(axis=-1, keepdims=True) / 32767.0
    return {"steps": np.rint(rows / scale).astype(np.int16), "scale": scale.astype(np.float32)}


def unpack(steps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The inverse of `pack`, as float64."""
    return steps.astype(np.float64) * scale.astype(np.float64)


def tower_cases(name: str) -> dict[str, tuple[Any, ...]]:
    """Inputs of a tiny tower: a grid and pairs of frames, or a mel spectrogram."""
    keys = tiny_towers.build(name).keys
    if name not in GRIDS:
        n_mel = int(keys["clip.audio.num_mel_bins"])
        return {str(n): (tiny_towers.mel(f"{n}", n_mel, n),) for n in MEL_FRAMES}
    patch = int(keys["clip.vision.patch_size"])

    def pairs(width: int, height: int, n: int) -> list[np.ndarray]:
        return [
            tiny_towers.patches(f"{width}x{height}/{i}", width, height, patch) for i in range(n)
        ]

    cases = {f"{w}x{h}": (w, h, *pairs(w, h, 1)) for w, h in GRIDS[name]}
    if name == "qwen3vl":
        cases["three pairs"] = (8, 6, *pairs(8, 6, 3))
    return cases


def kept_rows(rows: np.ndarray) -> np.ndarray:
    """What a golden file holds of long inputs: the last rows."""
    return rows[-_KEPT_ROWS:]


def texts_sha256(strings: list[str]) -> str:
    return hashlib.sha256("\x1e".join(strings).encode("utf-8", "surrogatepass")).hexdigest()


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def spread(rows: np.ndarray) -> str:
    """How different the rows of one model are: a degenerate model would pass every comparison."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    off = (unit @ unit.T)[~np.eye(len(rows), dtype=bool)]
    return f"cosine between inputs {off.min():.2f} to {off.max():.2f}"


@cache
def load(name: str) -> dict[str, np.ndarray]:
    """One golden file, with the packed rows put back."""
    with np.load(DATA / name, allow_pickle=False) as data:
        out = dict(data)
    for key in [k.removesuffix("/steps") for k in out if k.endswith("/steps")]:
        out[key] = unpack(out.pop(f"{key}/steps"), out.pop(f"{key}/scale"))
    return out


def run(write: Callable[[Path], Path], doc: str) -> None:
    """A command that writes a golden file into a folder, the data's unless another is named."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA)
    path = write(parser.parse_args().out)
    print(f"{path.name}: {path.stat().st_size} bytes")
