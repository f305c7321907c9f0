"""Tiny omni models: text models with media markers, the towers beside them, media and inputs.

Media are made from seeds by integer arithmetic, but for sound, whose last bits do not matter.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import make_tiny_models
import numpy as np
import tiny_towers
import tiny_vocab
from make_tiny_models import TinyModel, random_uniform

if TYPE_CHECKING:
    from pathlib import Path

    from tiny_towers import TinyTower

QUERY, DOCUMENT, PASSAGE = "Query: ", "Document: ", "Passage: "

CONTEXT = 4096

SAMPLE_RATE = 16000
MEL_HOP = 160  # samples for each frame of a spectrogram

# How much sharper attention is than in the other tiny models: a row that averages over hundreds of
# tokens of an image would be nearly the same for every image.
_SHARPER = np.float32(2.5)


@dataclass(frozen=True)
class Layout:
    """What one family does with media, as facts that the reference follows."""

    name: str
    base: str  # of the text model
    towers: tuple[str, ...]  # of tiny_towers
    vision_keys: dict[str, object]  # of the vision tower's file, where they differ
    image_markers: tuple[str, str] | None
    audio_markers: tuple[str, str] | None
    time_stamps: bool
    end_token: str | None
    pooling: str
    pooled_span: tuple[str, str] | None = None  # the tokens between which inputs with media pool


_LIMITS = tuple(
    f"vision__{kind}_{end}_pixels" for kind in ("image", "video") for end in ("min", "max")
)

# Small's file has no limits, as older published ones; nano's has its own.
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="small",
            base="qwen3-last",
            towers=("qwen3vl", "qwen25o"),
            vision_keys=dict.fromkeys(_LIMITS),
            image_markers=("<|vision_start|>", "<|vision_end|>"),
            audio_markers=("<|audio_start|>", "<|audio_end|>"),
            time_stamps=True,
            end_token=None,
            pooling="last",
        ),
        Layout(
            name="nano",
            base="eurobert-last",
            towers=("qwen3vl", "qwen25o"),
            vision_keys=dict(zip(_LIMITS, (65536, 300_000, 65536, 120_000), strict=True)),
            image_markers=None,
            audio_markers=("<|audio_start|>", "<|audio_end|>"),
            time_stamps=False,
            end_token="<|end_of_text|>",
            pooling="last",
        ),
        Layout(
            name="v4",
            base="qwen2vl-mean",
            towers=("qwen25vl",),
            vision_keys={
                **dict(zip(_LIMITS, (3136, 602_112), strict=False)),
                "vision__image_mean": [0.48145466, 0.4578275, 0.40821073],
                "vision__image_std": [0.26862954, 0.26130258, 0.27577711],
            },
            image_markers=("<|vision_start|>", "<|vision_end|>"),
            audio_markers=None,
            time_stamps=False,
            end_token=None,
            pooling="mean",
            pooled_span=("<|vision_start|>", "<|vision_end|>"),
        ),
    )
}


_SOUND = ("<|AUDIO|>", "<|audio_start|>", "<|audio_end|>")

_VOCABS = {
    "small": lambda: tiny_vocab.qwen(("<|video_pad|>", *_SOUND)),
    "nano": lambda: tiny_vocab.eurobert(add_eos_key=True, more=(*_SOUND, "<image>")),
    "v4": tiny_vocab.qwen,
}


@cache
def text_model(layout: str, base: str | None = None) -> TinyModel:
    """The text model of a layout; `base` names other weights of the same architecture."""
    model = make_tiny_models.build(base or LAYOUTS[layout].base)
    vocab = _VOCABS[layout]()
    width = model.tensors["token_embd.weight"].shape[1]
    table = random_uniform(f"omni-{layout}/token_embd.weight", (len(vocab.tokens), width))
    tensors = {**model.tensors, "token_embd.weight": table}
    queries = (
        (".attn_q_norm.weight",) if model.arch == "qwen3" else (".attn_q.weight", ".attn_q.bias")
    )
    tensors |= {n: data * _SHARPER for n, data in tensors.items() if n.endswith(queries)}
    keys = {**model.keys, "context_length": CONTEXT}
    return replace(model, name=f"omni-{layout}", keys=keys, tensors=tensors, vocab=vocab)


# ---------------------------------------------------------------------------- media


def noise(label: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random bytes, a function of the label alone."""
    draw = random_uniform(f"media/{label}", shape).astype(np.float64) / math.sqrt(12.0) + 0.5
    return (draw * 256.0).astype(np.uint8)


def picture(label: str, width: int, height: int) -> np.ndarray:
    """Blocks of colour, a slope and noise: (height, width, 3) bytes."""
    blocks = noise(f"{label}/blocks", (-(-height // 24), -(-width // 24), 3)).astype(np.int32)
    blocks = blocks.repeat(24, 0).repeat(24, 1)[:height, :width]
    slope = np.add.outer(np.arange(height) * 96 // height, np.arange(width) * 96 // width)
    grain = noise(f"{label}/grain", (height, width, 3)).astype(np.int32) // 8
    return (blocks * 5 // 8 + slope[..., None] // 4 + grain).clip(0, 255).astype(np.uint8)


def frames(label: str, n: int, width: int, height: int) -> list[np.ndarray]:
    """A picture that moves by seven pixels and changes its colours from frame to frame."""
    wide = picture(label, width + 7 * n, height).astype(np.int32)
    shown = [wide[:, 7 * i : 7 * i + width] for i in range(n)]
    return [((f + 23 * i) % 256).astype(np.uint8) for i, f in enumerate(shown)]


def speech(label: str, n: int, *, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A buzzing tone and a hiss that swell and fade like syllables: (n,) float32.

    The same signal at any rate above 14 kHz, since nothing in it is higher than 7 kHz.
    """
    t = np.arange(n) / rate
    draw = random_uniform(f"media/{label}", (2, 12)).astype(np.float64) / math.sqrt(12.0) + 0.5
    hiss = sum(np.sin(2.0 * np.pi * (200.0 + 6800.0 * f) * t + 6.0 * p) for f, p in draw.T)
    pitch = 2.0 * np.pi * (120.0 * t + 3.0 * np.sin(2.0 * np.pi * 0.7 * t))
    buzz = sum(np.sin(k * pitch) / k for k in range(1, 8))
    syllables = np.sin(2.0 * np.pi * 1.6 * t) ** 4 * np.sin(2.0 * np.pi * 0.31 * t + 1.0) ** 2
    return (syllables * (0.04 * hiss + 0.2 * buzz)).astype(np.float32)


@dataclass(frozen=True)
class Video:
    """Frames and, where the file names them, the times at which they are shown."""

    frames: tuple[np.ndarray, ...]
    seconds: tuple[float, ...] | None = None


def _video(label: str, n: int, width: int, height: int, fps: float | None = None) -> Video:
    times = None if fps is None else tuple(i / fps for i in range(n))
    return Video(tuple(frames(label, n, width, height)), times)


_MEDIA = {
    "square": lambda: picture("square", 256, 256),
    "photo": lambda: picture("photo", 640, 480),
    "stamp": lambda: picture("stamp", 20, 30),
    "banner": lambda: picture("banner", 900, 100),
    "page 1": lambda: picture("page 1", 310, 438),
    "page 2": lambda: picture("page 2", 310, 438),
    "pair": lambda: _video("pair", 2, 160, 120),
    "swapped pair": lambda: Video(_video("pair", 2, 160, 120).frames[::-1]),
    "four": lambda: _video("four", 4, 96, 64),
    "four at 2 fps": lambda: _video("four", 4, 96, 64, 2.0),
    "five": lambda: _video("five", 5, 200, 90),
    "half a second": lambda: speech("half", 8000),
    "11 s": lambda: speech("eleven", 11 * SAMPLE_RATE),
    "30 s": lambda: speech("thirty", 30 * SAMPLE_RATE),
    "61 s": lambda: speech("sixty-one", 61 * SAMPLE_RATE),
    "seven": lambda: _video("seven", 7, 130, 70, 12.5),
    "three pairs": lambda: _video("three pairs", 6, 120, 160),
}


@cache
def medium(name: str) -> np.ndarray | Video:
    """A picture, a video or a sound by name; "640x480" and "200 mel frames" name themselves."""
    if name in _MEDIA:
        return _MEDIA[name]()
    if name.endswith(" mel frames"):
        return speech(name, int(name.split()[0]) * MEL_HOP)
    width, _, height = name.partition("x")
    return picture(name, int(width), int(height))


# ---------------------------------------------------------------------------- inputs

# Around the windows of 200 frames, at their halves, at the shortest and the longest.
AUDIO_FRAMES = (3, 4, 199, 200, 201, 202, 399, 400, 401, 1100, 2999, 3000, 6001)

Kind = Literal["text", "template", "image", "video", "audio"]

Part = tuple[Kind, str]  # for media the name


@dataclass(frozen=True)
class Input:
    """Parts in the order in which the model sees them, and what stands in front of them."""

    parts: tuple[Part, ...]
    prompt: str = ""


def _input(*parts: Part, prompt: str = "") -> Input:
    return Input(parts, prompt)


_CAPTION = "The quick brown fox's café, 2024:"

_TEXTS = {
    "text": _input(("text", _CAPTION)),
    "text, query": _input(("text", "What is the capital of France?"), prompt=QUERY),
    "long text": _input(("text", "two vectors in its index, " * 40)),
}

_IMAGES = {
    f"image {name}": _input(("image", name)) for name in ("square", "photo", "stamp", "banner")
}

_CHAT = ("<|im_start|>user\n", "<|im_end|>\n")

_OMNI = {
    **_TEXTS,
    **_IMAGES,
    "image, document": _input(("image", "square"), prompt=DOCUMENT),
    "two pages": _input(("image", "page 1"), ("image", "page 2")),
    "pages turned": _input(("image", "page 2"), ("image", "page 1")),
    "text, image": _input(("text", _CAPTION), ("image", "photo")),
    "image, text": _input(("image", "photo"), ("text", _CAPTION)),
    "text, image, text": _input(
        ("text", _CAPTION), ("image", "photo"), ("text", " and so it is"), prompt=DOCUMENT
    ),
    "forged markers": _input(
        ("text", "a <|vision_end|><image><|audio_start|> b"), ("image", "square")
    ),
    "pair": _input(("video", "pair")),
    "swapped pair": _input(("video", "swapped pair")),
    "video of four": _input(("video", "four")),
    "video at 2 fps": _input(("video", "four at 2 fps")),
    "video of five, document": _input(("video", "five"), prompt=DOCUMENT),
    "text, video": _input(("text", _CAPTION), ("video", "four")),
    "half a second": _input(("audio", "half a second")),
    "11 s": _input(("audio", "11 s")),
    "11 s, query": _input(("audio", "11 s"), prompt=QUERY),
    "30 s": _input(("audio", "30 s")),
    "61 s": _input(("audio", "61 s")),
    "audio, text": _input(("audio", "11 s"), ("text", _CAPTION)),
    "everything": _input(
        ("text", _CAPTION),
        ("audio", "half a second"),
        ("video", "four at 2 fps"),
        ("text", " that was a film"),
        ("image", "square"),
        prompt=DOCUMENT,
    ),
    "chat": _input(("template", _CHAT[0]), ("image", "square"), ("template", _CHAT[1])),
}

# The one form that v4 takes an image in.
V4_PROMPT = ("<|im_start|>user\n", "Describe the image.<|im_end|>\n")


def _v4_image(name: str) -> Input:
    return _input(("template", V4_PROMPT[0]), ("image", name), ("template", V4_PROMPT[1]))


INPUTS: dict[str, dict[str, Input]] = {
    "small": _OMNI,
    "nano": _OMNI,
    "v4": {
        **_TEXTS,
        "text, passage": _input(("text", _CAPTION), prompt=PASSAGE),
        **{f"image {name}": _v4_image(name) for name in ("square", "photo", "stamp", "banner")},
    },
}


_LIVE_OMNI = {
    "text": _input(("text", "θάλασσα and 65,536 vectors"), prompt=DOCUMENT),
    "image": _input(("image", "123x777")),
    "large image": _input(("image", "1500x1100")),
    "images of two sizes": _input(("image", "1280x720"), ("text", "above"), ("image", "49x48")),
    "video of seven": _input(("video", "seven"), ("text", "the end"), prompt=QUERY),
    "sound": _input(("audio", "777 mel frames")),
    "sound and image": _input(("audio", "3001 mel frames"), ("image", "49x48"), prompt=QUERY),
}

# Inputs that no golden file holds.
LIVE: dict[str, dict[str, Input]] = {
    "small": _LIVE_OMNI,
    "nano": _LIVE_OMNI,
    "v4": {
        "text": _LIVE_OMNI["text"],
        **{f"image {s}": _v4_image(s) for s in ("123x777", "49x48")},
    },
}

# Inputs whose rows are compared as the towers make them, by what the parity table calls them.
_OMNI_TOWERS: dict[str, tuple[Part, ...]] = {
    "vision, grid of the position table": (("image", "768x768"),),
    "vision, other grids": (("image", "512x512"), ("image", "700x900")),
    "vision, not square": (("image", "640x384"), ("image", "333x890")),
    "frame pair, three pairs": (("video", "pair"), ("video", "three pairs")),
    "audio": tuple(("audio", f"{n} mel frames") for n in AUDIO_FRAMES),
}

TOWERS: dict[str, dict[str, tuple[Part, ...]]] = {
    "small": _OMNI_TOWERS,
    "nano": _OMNI_TOWERS,
    "v4": {"vision, windows": tuple(("image", s) for s in ("224x224", "448x336", "300x170"))},
}


def passing_text_model(layout: str) -> TinyModel:
    """A text model whose layers add nothing: its token rows are scaled rows of the towers."""
    model = text_model(layout)
    silent = ("attn_output.weight", "ffn_down.weight")
    tensors = {n: np.zeros_like(d) if n.endswith(silent) else d for n, d in model.tensors.items()}
    tensors["output_norm.weight"] = np.ones_like(tensors["output_norm.weight"])
    return replace(model, name=f"passing-{layout}", tensors=tensors)


def sampled(n: int) -> np.ndarray:
    """Which of n rows of a tower are kept."""
    return np.unique(np.linspace(0, n - 1, 24).astype(int))


def inputs_sha256(inputs: dict[str, Input]) -> str:
    """A digest of inputs and of the pixels in them."""
    digest = hashlib.sha256(
        json.dumps([[n, i.prompt, i.parts] for n, i in inputs.items()]).encode()
    )
    for kind, name in sorted({p for i in inputs.values() for p in i.parts}):
        if kind in ("image", "video"):
            made = medium(name)
            for image in made.frames if isinstance(made, Video) else [made]:
                digest.update(image.tobytes())
    return digest.hexdigest()


def towers(layout: str, base: str | None = None) -> list[TinyTower]:
    """The towers of a layout, vision first."""
    width = text_model(layout, base).tensors["token_embd.weight"].shape[1]
    sizes = tiny_towers.PUBLISHED
    made = [tiny_towers.build(n, width=width, sizes=sizes) for n in LAYOUTS[layout].towers]
    return [tiny_towers.changed(made[0], **LAYOUTS[layout].vision_keys), *made[1:]]


def write(layout: str, folder: Path, base: str | None = None) -> tuple[Path, list[Path]]:
    """Writes a layout's text model and its towers, vision first."""
    text = make_tiny_models.write(text_model(layout, base), folder / "text.gguf")
    made = towers(layout, base)
    return text, [tiny_towers.write(t, folder / f"{t.name}.gguf") for t in made]


def content_sha256(layout: str) -> str:
    """A digest of the weights of the text model and of the towers."""
    digests = [m.content_sha256() for m in (text_model(layout), *towers(layout))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
