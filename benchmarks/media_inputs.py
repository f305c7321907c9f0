"""Files of the media benchmark: images like photos, sound like speech, pages of text."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import corpus
import numpy as np

RATE = 16_000

Part = dict[str, str]


def inputs(case: dict[str, Any], n: int, folder: Path) -> list[list[Part]]:
    """`n` inputs, each a list of parts: {"kind": ..., "path": ...} or {"kind": "text", ...}."""
    make = {"image": _image, "audio": _audio, "video": _video, "pdf": _pdf, "fused": _fused}
    return [make[case["kind"]](case, seed, folder) for seed in range(n)]


def n_units(case: dict[str, Any], n: int) -> float:
    """What `n` inputs count for in the unit of the case."""
    return n * {"audio": case.get("seconds", 0), "pdf": case.get("pages", 0)}.get(case["kind"], 1)


def picture(width: int, height: int, seed: int, time: float = 0.0) -> np.ndarray:
    """[height, width, 3] bytes: shades, shapes with edges, and grain, as photos have them."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    colours = draw.uniform(60, 200, (3, 3))
    image = colours[0] + x[..., None] * (colours[1] - 128) + y[..., None] * (colours[2] - 128)
    for _ in range(12):
        centre_x, centre_y, radius = draw.uniform(0, 1, 3) * (1, height / width, 0.2)
        inside = np.hypot(x - centre_x - 0.1 * time, y - centre_y) < radius
        image[inside] = draw.uniform(0, 255, 3)
    grain = np.random.default_rng(seed + 1000).normal(0, 6, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def speech(seconds: float, seed: int) -> np.ndarray:
    """Samples of one channel: harmonics of a wandering voice in syllables, and some breath."""
    draw = np.random.default_rng(seed)
    n = int(seconds * RATE)
    time = np.arange(n) / RATE
    pitch = draw.uniform(90, 200) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k**1.2 for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * draw.uniform(3, 5) * time), 0, 1)
    samples = 0.2 * voice * syllables + 0.01 * draw.standard_normal(n)
    return np.clip(samples, -1, 1).astype(np.float32)


def _image(case: dict[str, Any], seed: int, folder: Path) -> list[Part]:
    from PIL import Image

    path = folder / f"{seed}.jpg"
    Image.fromarray(picture(*case["size"], seed)).save(path, quality=92)
    return [{"kind": "image", "path": str(path)}]


def _audio(case: dict[str, Any], seed: int, folder: Path) -> list[Part]:
    path = folder / f"{seed}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((speech(case["seconds"], seed) * 32767).astype("<i2").tobytes())
    return [{"kind": "audio", "path": str(path)}]


def _video(case: dict[str, Any], seed: int, folder: Path) -> list[Part]:
    import av

    path = folder / f"{seed}.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("mpeg4", rate=case["fps"])
        stream.width, stream.height = case["size"]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for i in range(case["frames"]):
            frame = av.VideoFrame.from_ndarray(picture(*case["size"], seed, i / 4), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return [{"kind": "video", "path": str(path)}]


def _fused(case: dict[str, Any], seed: int, folder: Path) -> list[Part]:
    words = corpus.words()[400 * seed :][:40]
    return [{"kind": "text", "text": " ".join(words)}, *_image(case, seed, folder)]


def _pdf(case: dict[str, Any], seed: int, folder: Path) -> list[Part]:
    path = folder / f"{seed}.pdf"
    n_lines, n_words = 56, 11
    words = [word for word in corpus.words() if word.isascii()][5000 * seed :]
    pages = []
    for page in range(case["pages"]):
        start = page * n_lines * n_words
        lines = [
            " ".join(words[start + i * n_words :][:n_words])[:90].translate(_ESCAPES)
            for i in range(n_lines)
        ]
        pages.append("BT /F1 10 Tf 13 TL 50 790 Td\n" + "".join(f"({x}) '\n" for x in lines) + "ET")
    path.write_bytes(_document(pages))
    return [{"kind": "pdf", "path": str(path)}]


_ESCAPES = str.maketrans({"(": r"\(", ")": r"\)", "\\": r"\\"})


def _document(pages: list[str]) -> bytes:
    """A PDF of A4 pages with these contents, in Helvetica."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, content in enumerate(pages):
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        page = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {font} /Contents {5 + 2 * i} 0 R"
        objects += [f"<< {page} >>", f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"]
    body, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return f"{body}{end}startxref\n{len(body)}\n%%EOF\n".encode("ascii")
