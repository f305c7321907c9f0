"""Writes the seeds of the fuzz corpus, the same bytes every time. Inputs from bugs are left alone.

python make_corpus.py
"""

from __future__ import annotations

import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "parity"))

import make_tiny_models  # noqa: E402
from tiny_vocab import CONTROL, UNKNOWN  # noqa: E402

# Flags of fuzz_texts.c.
NO_SPECIAL, PARSE_SPECIAL, STATUS, PROMPT, WRONG_OFFSET, _ANY_SWITCH, _DEFAULTS, ALONE = (
    1 << i for i in range(8)
)


def texts(
    flags: int, model: int, items: list[bytes], prompt: bytes = b"", wrong: bytes = b""
) -> bytes:
    """One input of fuzz_texts.c."""
    lengths = b"".join(struct.pack("<H", len(t)) for t in items[:-1])
    n_prompt = bytes([len(prompt)]) if flags & PROMPT else b""
    return bytes([flags, model, len(items)]) + n_prompt + wrong + lengths + prompt + b"".join(items)


def text_seeds() -> dict[str, bytes]:
    mixed = [
        b"",
        "naïve Straße, 向量 🙂 हिन्दी".encode(),
        b"  it's 3.14159\r\n\t\x00 x ",
        b"<|im_end|>[SEP]</s><s>",
    ]
    bad = [b"good", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x82", b"end"]
    seeds = {f"mixed-model-{i}": texts(ALONE, i, mixed) for i in range(4)}
    return seeds | {
        "markers-unparsed": texts(NO_SPECIAL, 1, mixed[3:]),
        "markers-parsed": texts(NO_SPECIAL | PARSE_SPECIAL, 1, mixed[3:]),
        "prompt": texts(PROMPT | ALONE, 0, mixed, prompt=b"search_query: "),
        "prompt-not-utf8": texts(PROMPT, 0, mixed, prompt=b"\xe2\x82"),
        "not-utf8-collected": texts(STATUS | ALONE, 0, bad),
        "not-utf8-fails-the-call": texts(0, 0, bad),
        "offset-falls": texts(WRONG_OFFSET, 0, mixed, wrong=struct.pack("<Bq", 2, -(2**63))),
        "offset-jumps": texts(WRONG_OFFSET, 0, mixed, wrong=struct.pack("<Bq", 2, 2**63 - 1)),
        "no-texts": texts(0, 0, []),
        "long-run": texts(0, 2, [b"a" * 3000 + b" " * 500 + b"!?" * 200]),
    }


# Flags of fuzz_limits.c.
L_NO_SPECIAL, L_PARSE_SPECIAL, L_COLLECT, L_COUNT, L_PROMPT_THERE = (1 << i for i in range(5))


def limited(
    model: int,
    piece: str,
    *,
    limit: int = 20,
    overflow: int = 2,
    repeats: int = 3000,
    prompt: str = "query: ",
    flags: int = 0,
) -> bytes:
    """One input of fuzz_limits.c."""
    head = struct.pack("<BBBBHB", flags, model, limit, overflow, repeats, len(prompt.encode()))
    return head + prompt.encode() + piece.encode()


def limit_seeds() -> dict[str, bytes]:
    pieces = {
        "words": "the lazy dog, ",
        "chinese": "向量检索是信息检索的基础",
        "one-letter": "a",
        "lines": "\n",
        "marks": "हिन्दी e\u0301 <|im_end|>[SEP]</s><s> ",
    }
    seeds = {
        f"{name}-{'start' if overflow == 3 else 'end'}-model-{i}": limited(
            i, piece, overflow=overflow
        )
        for name, piece in pieces.items()
        for overflow in (2, 3)
        for i in range(4)
    }
    dog = pieces["words"]
    return seeds | {
        "markers-parsed": limited(1, pieces["marks"], flags=L_NO_SPECIAL | L_PARSE_SPECIAL),
        "too-long": limited(0, dog, overflow=1),
        "too-long-collected": limited(0, dog, overflow=0, flags=L_COLLECT),
        "counted": limited(2, dog, flags=L_COUNT),
        "fits": limited(1, dog, repeats=1),
        "no-limit": limited(1, dog, limit=0),
        "no-room": limited(0, dog, limit=3),
        "no-room-for-special-tokens": limited(0, dog, limit=2, prompt=""),
        "prompt-there": limited(3, dog, flags=L_PROMPT_THERE, overflow=3),
    }


# Flags of fuzz_encode.c.
E_STATUS, E_WIDE, E_WRONG_ROWS, E_ABORT, E_FROM_BYTES, E_NO_OUT, E_CLOSE, E_ALONE = (
    1 << i for i in range(8)
)


def engine(
    model: int,
    *,
    attention: int = 0,
    flash: int = 0,
    n_ctx: int = 0,
    n_ubatch: int = 0,
    n_seq: int = 0,
) -> bytes:
    return bytes([model, attention, flash, n_ctx, n_ubatch, n_seq, 0])


def call(
    flags: int,
    lengths: list[int],
    *,
    pooling: int = 0,
    truncate_dim: int = 0,
    normalize: int = 0,
    after_texts: bytes = b"",
) -> bytes:
    """One call of fuzz_encode.c with short texts, or long ones as codes from 0xe0."""
    body = bytes([flags, pooling, truncate_dim, normalize, len(lengths)])
    body += bytes([2]) if flags & E_ABORT else b""
    for i, n in enumerate(lengths):
        ids = [7 + 3 * i] if n >= 0xE0 else [(11 * i + 5 * k) % 97 for k in range(n)]
        body += bytes([n]) + b"".join(struct.pack("<H", x) for x in ids)
        body += bytes([3]) if n >= 0xE0 else b""
    return body + after_texts


def encode_seeds() -> dict[str, bytes]:
    lengths = [5, 1, 12, 3]
    raw = struct.pack("<BBBBB", E_FROM_BYTES | E_STATUS, 0, 0, 0, 3) + b"\x02ok\x01\xff\x00"
    out_of_range = bytes([0, 0, 0, 0, 2, 1, 4, 0, 1]) + struct.pack("<Hi", 0xFFFF, 2**31 - 1)
    any_pooling = bytes([0, 0xF0]) + struct.pack("<i", -7) + bytes([0, 0, 1, 1, 4, 0])
    return {
        **{f"model-{i}": engine(i) + call(E_ALONE, lengths) for i in range(4)},
        "every-pooling": engine(1) + b"".join(call(0, lengths, pooling=p) for p in (1, 2, 3, 4)),
        "rank-pooling": engine(0) + call(0, lengths, pooling=5),
        "pooling-of-any-number": engine(0) + any_pooling,
        "truncated-and-wide": engine(0) + call(E_WIDE, lengths, truncate_dim=9),
        "not-normalized": engine(2) + call(E_WIDE, lengths, normalize=2),
        "small-ubatch-split": engine(1, n_ubatch=4, n_seq=2) + call(E_ALONE, [0xE2, 3, 0xE0]),
        "small-ubatch-grows": engine(0, n_ubatch=4) + call(E_ALONE, [3]) + call(E_ALONE, [0xE4, 9]),
        "causal": engine(1, attention=1) + call(E_ALONE, lengths),
        "bidirectional": engine(1, attention=2) + call(E_ALONE, [0xE3, *lengths]),
        "flash-on": engine(1, flash=1) + call(E_ALONE, lengths),
        "flash-off": engine(1, flash=2) + call(E_ALONE, lengths),
        "too-long-and-empty": engine(0, n_ctx=8) + call(E_STATUS, [5, 0, 12]) + call(0, [5, 12]),
        "id-out-of-range": engine(0) + out_of_range,
        "refused-by-the-tokenizer": engine(0) + raw,
        "wrong-row-count": engine(0) + call(E_WRONG_ROWS, lengths, after_texts=b"\x00"),
        "aborted": engine(1, n_ubatch=2) + call(E_ABORT, [0xE8, 0xE8]),
        "closed": engine(0) + call(0, [4]) + call(E_CLOSE, [4], after_texts=b"\x00") + call(0, [4]),
    }


# Flags of fuzz_submit.c, its steps, and what on_done does.
S_STATUS, S_NO_ON_DONE, S_KEEP_TOKENS = (1 << i for i in range(3))
SUBMIT, FINISH, ABORT, ABORT_ALL, ENCODE = range(5)
CLOSE, DRAIN, FREE = 0xE5, 0xE6, 0xE7
TELLS, FINISHES, FINISHES_OTHERS, ABORTS_OTHERS, ABORTS_ALL, SUBMITS, ENCODES, CLOSES = range(8)


def step(what: int, slot: int = 0) -> bytes:
    return bytes([what, slot])


def request(slot: int, lengths: list[int], *, flags: int = 0, on_done: int = TELLS) -> bytes:
    """A step of fuzz_submit.c that submits."""
    head = bytes([SUBMIT, slot, flags]) + (b"" if flags & S_NO_ON_DONE else bytes([on_done]))
    body = b"".join(struct.pack("<BHB", n, 7 + 3 * i, 3) for i, n in enumerate(lengths))
    return head + bytes([len(lengths)]) + body


def submit_seeds() -> dict[str, bytes]:
    def start(model: int, *, n_ubatch: int = 0, n_seq: int = 0, max_queued: int = 0) -> bytes:
        return bytes([model, n_ubatch, n_seq, max_queued])

    mixed = [5, 0, 60, 95, 12]
    three = [request(i, [20, 30], flags=S_STATUS) for i in range(3)]
    finishes = [step(FINISH, i) for i in range(6)]
    every_on_done = [request(i % 6, [9, 40], flags=S_STATUS, on_done=i) for i in range(8)]
    seeds = {f"model-{i}": [start(i), *three, *finishes] for i in range(4)}
    return {
        name: b"".join(parts)
        for name, parts in {
            **seeds,
            "collects": [start(1), request(0, mixed, flags=S_STATUS), step(FINISH)],
            "refused": [start(1), request(0, mixed), step(FINISH)],
            "no-on-done": [start(0), request(0, [9], flags=S_NO_ON_DONE), step(FINISH)],
            "busy": [start(0, n_ubatch=4, max_queued=60), *three, *finishes],
            "aborted": [start(1, n_ubatch=4), *three, step(ABORT, 1), *finishes],
            "all-aborted": [start(1, n_ubatch=4), *three, step(ABORT_ALL), *finishes],
            "encode-between": [
                *(start(0, n_ubatch=8), *three, bytes([ENCODE, 0, S_STATUS, 0, 1, 9, 5, 0, 1])),
                *finishes,
            ],
            "every-on-done": [start(0, n_ubatch=8), *every_on_done, *finishes],
            **{
                f"on-done-{i}": [start(1, n_ubatch=8), *three, part, *finishes]
                for i, part in enumerate(every_on_done)
            },
            "closed": [start(0, n_ubatch=4), *three, step(CLOSE), *three, *finishes],
            "drained": [start(0, n_ubatch=4), *three, step(DRAIN), *finishes],
            "freed": [start(1, n_ubatch=4), *three, step(FREE), *finishes],
            "left": [start(1, n_ubatch=4), *three],
            "many": [
                *(start(1, n_ubatch=16, n_seq=2, max_queued=200), *every_on_done, *finishes),
                *(*every_on_done, *finishes),
            ],
        }.items()
    }


# Flags of fuzz_media.c, and kinds of parts.
M_COLLECT, M_PROMPT, M_LIMIT, M_SMALL_PASSES = (1 << i for i in range(4))
TEXT, TEMPLATE, MEDIUM = 1, 2, 3


def image(
    width: int, height: int, *, pad: int = 0, limits: tuple[int, int] = (0, 0), wide: bool = False
) -> bytes:
    """One of fuzz_media.c; wide: the sides as 32 bits."""
    sides = (width, height)
    size = b"".join(struct.pack("<Bi", 0xF0, n) for n in sides) if wide else bytes(sides)
    return bytes([0]) + size + bytes([1 + pad, *limits])


def video(width: int, height: int, times: list[int], *, missing: int = 0) -> bytes:
    """Times in 16ths of a second; missing: frames that are not given."""
    head = bytes([1, width, height, len(times), 1 + missing, 1])
    return head + struct.pack(f"<{len(times)}H", *times)


def sound(n: int, values: tuple[float, ...] = (0.0, 0.5, 0.0, -0.5)) -> bytes:
    """Of n x 32 samples."""
    return bytes([2, n]) + struct.pack("<4f", *values)


def media(
    flags: int, made: list[bytes], inputs: list[list[tuple[int, bytes | int]]], limit: int = 0
) -> bytes:
    """One input of fuzz_media.c; a part is its kind and its text, or the number of a medium."""
    body = bytes([flags, len(made)]) + b"".join(made)
    body += bytes([limit]) if flags & M_LIMIT else b""
    body += bytes([len(inputs)])
    for parts in inputs:
        body += bytes([len(parts)])
        for kind, what in parts:
            body += bytes([kind])
            body += bytes([what]) if isinstance(what, int) else bytes([len(what)]) + what
    return body


def media_seeds() -> dict[str, bytes]:
    all_three = [image(70, 40), video(33, 64, [0, 1, 5]), sound(90)]
    mixed = [
        [(TEXT, b"a text"), (MEDIUM, 0), (TEMPLATE, b"<|im_end|>")],
        [(MEDIUM, 2), (MEDIUM, 1)],
        [(TEXT, b"no media")],
    ]
    alone = [[(MEDIUM, 0)]]
    nan, inf = float("nan"), float("inf")
    return {
        "mixed": media(M_PROMPT, all_three, mixed),
        "small-passes": media(M_SMALL_PASSES, all_three, mixed),
        "the-same-image-often": media(0, [image(64, 64)], [[(MEDIUM, 0)] * 4] * 3),
        "padded-rows": media(0, [image(64, 33, pad=2)], alone),
        "rows-too-short": media(0, [image(64, 33, pad=-1)], alone),
        "one-pixel": media(0, [image(1, 1)], alone),
        "no-pixels": media(0, [image(0, 5)], alone),
        "a-line": media(0, [image(1, 99)], alone),
        "side-of-any-number": media(0, [image(2**31 - 1, -(2**31), wide=True)], alone),
        "huge-side": media(0, [image(65537, 65537, wide=True)], alone),
        "limits": media(0, [image(90, 50, limits=(2, 100)), image(90, 50, limits=(9, 3))], alone),
        "video-lacks-frames": media(0, [video(32, 32, [0, 1], missing=1)], alone),
        "video-has-too-many": media(0, [video(32, 32, [0, 1, 2], missing=-1)], alone),
        "times-decrease": media(0, [video(32, 32, [9, 1])], alone),
        "times-are-no-numbers": media(0, [video(32, 32, [0, 0xFFFF])], alone),
        "shortest-sound": media(0, [sound(15), sound(14)], [[(MEDIUM, 0)], [(TEXT, b"x")]]),
        "samples-not-finite": media(0, [sound(200, (nan, inf, -inf, 3e38))], alone),
        "no-medium": media(0, [], [[(TEXT, b"x"), (MEDIUM, 0)]]),
        "kind-of-any-number": media(0, [image(8, 8)], [[(0, b"x")]]),
        "not-utf8": media(0, [image(8, 8)], [[(TEXT, b"\xff"), (MEDIUM, 0)]]),
        "not-utf8-collected": media(
            M_COLLECT, [image(8, 8)], [[(TEMPLATE, b"\xe2\x82"), (MEDIUM, 0)], [(MEDIUM, 0)]]
        ),
        "too-long": media(M_LIMIT, all_three, mixed, limit=7),
        "too-long-collected": media(M_LIMIT | M_COLLECT, all_three, mixed, limit=7),
        "no-inputs": media(0, [], []),
        "no-parts": media(0, [], [[], []]),
    }


def shrink(name: str, n_normal: int) -> make_tiny_models.TinyModel:
    """A tiny model made tinier: one layer, few positions, `n_normal` tokens and special ones."""
    model = make_tiny_models.build(name)
    vocab = model.vocab
    special = {i for i, t in enumerate(vocab.types) if t in (CONTROL, UNKNOWN)}
    keep = sorted(special | set(range(n_normal)))
    tokens = [vocab.tokens[i] for i in keep]
    merges = vocab.merges and [
        m for m in vocab.merges if {*m.split(" "), m.replace(" ", "")} <= {*tokens}
    ]
    keys = {
        k: keep.index(v) if k.endswith("_token_id") else v
        for k, v in vocab.keys.items()
        if not k.endswith("_token_id") or v in keep
    }
    small = replace(
        vocab,
        tokens=tokens,
        types=[vocab.types[i] for i in keep],
        scores=vocab.scores and [vocab.scores[i] for i in keep],
        merges=merges or (vocab.merges and vocab.merges[:1]),
        keys=keys,
    )
    tensors = {}
    for tensor, data in model.tensors.items():
        if "blk." in tensor and "blk.0." not in tensor:
            continue
        rows = {"token_embd.weight": keep, "position_embd.weight": range(64)}.get(tensor)
        tensors[tensor] = data if rows is None else np.ascontiguousarray(data[list(rows)])
    hparams = {**model.keys, "block_count": 1, "context_length": 64}
    if "vocab_size" in hparams:
        hparams["vocab_size"] = len(tokens)
    return replace(model, keys=hparams, tensors=tensors, vocab=small)


def model_seeds(folder: Path) -> dict[str, bytes]:
    f16 = gguf.GGMLQuantizationType.F16
    seeds = {}
    # one per family of tokenizers and of graphs
    for name, n_normal in (("bert-mean", 60), ("qwen3-last", 128), ("jina-bert-v3-mean", 60)):
        path = folder / f"{name}.gguf"
        make_tiny_models.write(shrink(name, n_normal), path, quant=f16)
        seeds[path.name] = path.read_bytes()
    path = folder / "t5encoder-header.gguf"
    make_tiny_models.write(shrink("t5encoder-mean", 40), path, quant=f16)
    seeds[path.name] = path.read_bytes()[:4096]
    path = folder / "llama-header.gguf"
    make_tiny_models.write(shrink("llama-last", 300), path, quant=f16)
    seeds[path.name] = path.read_bytes()[:8192]
    return seeds | {
        "empty": b"",
        "magic-alone": b"GGUF",
        "no-gguf": b"This is no model.\n",
        "count-2-to-the-63": b"GGUF" + struct.pack("<IQQ", 3, 2**63 - 1, 2**63 - 1),
    }


def main() -> None:
    folder = HERE / "corpus"
    with tempfile.TemporaryDirectory() as scratch:
        all_seeds = {
            "texts": text_seeds(),
            "limits": limit_seeds(),
            "encode": encode_seeds(),
            "submit": submit_seeds(),
            "media": media_seeds(),
            "model_load": model_seeds(Path(scratch)),
        }
    for target, seeds in all_seeds.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / target / name).write_bytes(data)
    print(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()), "bytes in all")


if __name__ == "__main__":
    main()
