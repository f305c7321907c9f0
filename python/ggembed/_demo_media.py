"""The media files of the demo, drawn and played by the libraries that read them again."""

from __future__ import annotations

import importlib
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import MissingExtraError

# Modules, and the extras that bring them.
_MODULES = {
    "gguf": "demo",
    "PIL.Image": "media",
    "av": "media",
    "soxr": "media",
    "pypdfium2": "media",
}


class MediaFiles(NamedTuple):
    """Paths of one file of each kind."""

    image: Path
    sound: Path
    video: Path
    document: Path


def check_packages() -> None:
    """Raises MissingExtraError for all that is not installed, at once."""
    missing = [name for name in _MODULES if not _is_there(name)]
    if missing:
        extras = ",".join(sorted({_MODULES[name] for name in missing}))
        packages = ", ".join(name.partition(".")[0] for name in missing)
        raise MissingExtraError(
            f"the demo of media needs packages that are not installed ({packages}): "
            f"pip install 'ggembed[{extras}]'"
        )


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def write(folder: Path) -> MediaFiles:
    """Writes the files."""
    files = MediaFiles(
        folder / "gradient.png", folder / "tone.wav", folder / "square.mp4", folder / "pages.pdf"
    )
    _write_image(files.image)
    _write_sound(files.sound)
    _write_video(files.video)
    _write_document(files.document)
    return files


def _gradient(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Red grows to the right, green down, blue falls to the right."""
    pixels = np.empty((height, width, 3), np.uint8)
    across = np.linspace(0, 255, width).astype(np.uint8)
    pixels[..., 0] = across
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, np.newaxis]
    pixels[..., 2] = across[::-1]
    return pixels


def _write_image(path: Path) -> None:
    from PIL import Image

    Image.fromarray(_gradient(320, 240)).save(path)


def _write_sound(path: Path) -> None:
    """Two seconds of 440 Hz on the left and 660 Hz on the right, at 44.1 kHz."""
    times = np.arange(2 * 44100)[:, np.newaxis] / 44100
    samples = 0.3 * np.sin(2 * np.pi * times * [440.0, 660.0])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def _write_video(path: Path) -> None:
    """One second of a white square that goes to the right, at 8 frames per second."""
    import av

    n_frames = 8
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=n_frames)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(n_frames):
            pixels = _gradient(160, 120)
            pixels[40:80, 15 * i : 15 * i + 40] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_document(path: Path) -> None:
    """Two pages of A6, a heading on each."""
    from PIL import Image, ImageDraw

    pages = []
    for number in (1, 2):
        page = Image.new("RGB", (298, 420), "white")
        draw = ImageDraw.Draw(page)
        draw.text((30, 40), f"Page {number}", fill="black")
        draw.rectangle((30, 80, 268, 80 + 100 * number), outline="black")
        pages.append(page)
    pages[0].save(path, save_all=True, append_images=pages[1:], resolution=72.0)
