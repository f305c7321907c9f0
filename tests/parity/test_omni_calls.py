"""Media through the public interface: one call with everything, files of sound, the same rows."""

from __future__ import annotations

import io
import wave

import golden
import numpy as np
import pytest
import rows
import tiny_omni
from ggembed import Audio, Embedder, Image, Pdf, Video
from PIL import Image as PilImage
from tiny_omni import DOCUMENT, INPUTS, PASSAGE, QUERY, Input

OMNI = ("small", "nano")

# Names by which the layouts' profiles are found, which know their prompts and templates.
NAMES = {
    "small": "jina-embeddings-v5-omni-small-retrieval-F32.gguf",
    "nano": "jina-embeddings-v5-omni-nano-retrieval-F32.gguf",
    "v4": "jina-embeddings-v4-retrieval-F32.gguf",
}

_PROMPT_NAMES = {QUERY: "query", DOCUMENT: "document", PASSAGE: "document"}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """An Embedder for each layout, with its towers."""
    made = {}

    def get(layout: str):
        if layout not in made:
            text, towers = tiny_omni.write(layout, tmp_path_factory.mktemp(layout))
            named = text.rename(text.with_name(NAMES[layout]))
            made[layout] = rows.embedder(named, mmproj=towers)
        return made[layout]

    yield get
    for one in made.values():
        one.close()


def part(kind: str, name: str) -> object:
    medium = tiny_omni.medium(name) if kind != "text" else name
    if kind == "image":
        return Image(medium)
    if kind == "audio":
        return Audio((medium, tiny_omni.SAMPLE_RATE))
    if kind == "video":
        fps = None if medium.seconds is None else 1.0 / medium.seconds[1]
        return Video(list(medium.frames), fps=fps)
    return medium


def encode(embedder: Embedder, source: Input) -> np.ndarray:
    """The row of an input as a user asks for it."""
    parts = [part(*p) for p in source.parts if p[0] != "template"]
    name = _PROMPT_NAMES.get(source.prompt)
    prompt = {"prompt_name": name} if name else {"prompt": ""}
    wrapped = any(kind == "template" for kind, _ in source.parts)
    template = "chat" if wrapped else "bare"
    return embedder.encode([parts], media_template=template, **prompt)[0]


@pytest.mark.parametrize("layout", INPUTS)
def test_rows_of_calls_equal_the_reference(layout, embedder, figures):
    names = [n for n in INPUTS[layout] if n not in ("30 s", "61 s")]
    wanted = golden.load("omni.npz")[f"{layout}/rows"][
        [list(INPUTS[layout]).index(n) for n in names]
    ]
    found = np.stack([encode(embedder(layout), INPUTS[layout][n]) for n in names])
    cosine = golden.cosine(found, wanted)
    worst = names[int(np.argmin(cosine))]
    figures(f"omni | {layout}: by encode, worst: {worst} | cosine {cosine.min():.8f} | >= 0.9999")
    assert cosine.min() >= 0.9999


@pytest.mark.parametrize(
    ("layout", "template"), [("small", "bare"), ("nano", "bare"), ("v4", "chat")]
)
def test_media_stand_bare_but_for_v4(layout, template, embedder):
    image, info = part("image", "square"), embedder(layout).info()
    assert info.media_template == template
    named = embedder(layout).encode([image], prompt="", media_template=template)
    np.testing.assert_array_equal(embedder(layout).encode([image], prompt=""), named)


@pytest.mark.parametrize("layout", OMNI)
def test_prompts_of_retrieval_stand_before_media(layout, embedder):
    image = part("image", "square")
    by_method = embedder(layout).encode_document([image])
    wanted = golden.load("omni.npz")[f"{layout}/rows"][
        list(INPUTS[layout]).index("image, document")
    ]
    assert golden.cosine(by_method, wanted[None])[0] >= 0.9999


def pdf_of(*pages: np.ndarray) -> bytes:
    images = [PilImage.fromarray(page) for page in pages]
    file = io.BytesIO()
    images[0].save(file, "PDF", save_all=True, append_images=images[1:], resolution=150)
    return file.getvalue()


@pytest.mark.parametrize("layout", OMNI)
def test_one_call_with_seven_inputs_equals_seven_calls(layout, embedder, figures):
    pages = [tiny_omni.medium(f"page {i}") for i in (1, 2)]
    inputs = [
        "What is the capital of France?",
        part("image", "photo"),
        part("image", "stamp"),
        part("audio", "11 s"),
        part("video", "four"),
        Pdf(pdf_of(*pages)),
        ["a caption:", part("image", "square")],
    ]
    together = embedder(layout).encode(inputs)
    alone = np.concatenate([embedder(layout).encode([i]) for i in inputs])
    cosine = golden.cosine(together, alone)
    figures(f"omni | {layout}: seven inputs in one call | cosine {cosine.min():.8f} | >= 0.9999")
    assert together.shape[0] == 7
    assert cosine.min() >= 0.9999
    others = together @ together.T - np.eye(7)
    assert others.max() < 0.999  # seven different rows


def wav_of(samples: np.ndarray, rate: int) -> bytes:
    """A file of 16-bit samples: (n_samples, n_channels)."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(samples * 32767.0).astype("<i2").tobytes())
    return file.getvalue()


@pytest.mark.parametrize("layout", OMNI)
@pytest.mark.parametrize(("n_seconds", "n_rows"), [(11, 275), (30, 750), (61, 1525)])
def test_sound_files_have_25_tokens_per_second(layout, n_seconds, n_rows, embedder):
    samples = tiny_omni.speech("file", n_seconds * 44100, rate=44100)
    file = wav_of(np.stack([samples, samples], axis=1), 44100)
    encoded = embedder(layout).encode(Audio(file), return_info=True)
    n_around = {"small": 2, "nano": 3}[layout]  # start, end, and nano's end of the text
    assert encoded.n_tokens.tolist() == [n_rows + n_around]
    assert np.isfinite(encoded.rows).all()


@pytest.mark.parametrize("layout", OMNI)
def test_sound_of_44100_hz_in_stereo_equals_16000_hz_in_mono(layout, embedder, figures):
    n_seconds = 11
    mono = tiny_omni.speech("eleven", n_seconds * tiny_omni.SAMPLE_RATE)[:, None]
    wide = tiny_omni.speech("eleven", n_seconds * 44100, rate=44100)
    stereo = np.stack([0.7 * wide, 1.3 * wide], axis=1)
    files = [wav_of(mono, tiny_omni.SAMPLE_RATE), wav_of(stereo, 44100)]
    found = embedder(layout).encode([Audio(f) for f in files])
    cosine = golden.cosine(found[:1], found[1:])[0]
    figures(f"omni | {layout}: 44.1 kHz stereo, 16 kHz mono | cosine {cosine:.8f} | >= 0.999")
    assert cosine >= 0.999
