"""Image files, PIL images and arrays as 8-bit RGB pixels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MediaError
from . import _sources, _truncation
from ._limits import MediaLimits

Pixels = npt.NDArray[np.uint8]

# Pillow's classes are used directly: Image.open would try every plugin that the process has, and
# warns of sizes that are checked here.
_PILLOW = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif.as_plugin", "HeifImageFile"),
}
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
# Bytes before a marker that mean nothing, of which Pillow takes seconds for a few megabytes.
_FILL = re.compile(b"\xff{1024,}")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# A progressive JPEG of a few kilobytes can ask for thousands of passes over all of its pixels.
_MAX_JPEG_PASSES = 25


def decode_image(source: Any, limits: MediaLimits, name: str = "image") -> Pixels:
    """Pixels of the source of an `Image`: (height, width, 3), contiguous."""
    if isinstance(source, np.ndarray):
        return rgb_of_array(source, limits, name)
    if not isinstance(source, _sources.File):
        with _user_images, _sources.decoding(name):  # its first access may decode a file
            return _rgb_of_pil(source, limits, name)
    data = _sources.content(source, limits, name)
    from . import _svg  # which needs XML and processes: `import ggembed` is to be quick

    if _svg.is_svg(data):
        data = _svg.rasterise(data, limits, name)
    with _opened(data, limits, name) as image:
        return _rgb_of_pil(image, limits, name)


@contextlib.contextmanager
def _opened(data: bytes, limits: MediaLimits, name: str) -> Iterator[Any]:
    """An image of Pillow, of which only the header has been read."""
    kind = _format_of(data)
    if kind is None:
        raise MediaError(
            f"{name} is no image of a known format: {', '.join((*_PILLOW, 'SVG'))}; "
            f"it begins with {data[:8]!r}"
        )
    _truncation.check(io.BytesIO(data), len(data), name)
    if kind == "WebP":
        limits._check_pixels(_webp_size(data), name)
    if kind == "JPEG":
        data = _FILL.sub(b"\xff", data)
    module, factory = _PILLOW[kind]
    package = "pillow-heif" if kind == "HEIC" else "pillow"
    open_file = getattr(_sources.decoder(module, package, f"{name} ({kind})"), factory)
    _silence_pillow()
    with _sources.decoding(name), _quiet(), open_file(io.BytesIO(data)) as image:
        limits._check_pixels(image.size, name)
        if kind == "JPEG":
            _check_passes(data, image.size, limits, name)
        yield image


def rgb_of_array(array: npt.NDArray[Any], limits: MediaLimits, name: str) -> Pixels:
    """Pixels of an array of grey, RGB or RGBA values."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise MediaError(
            f"{name}: pixels must have the shape (height, width), (height, width, 3) or "
            f"(height, width, 4), got {array.shape}"
        )
    limits._check_pixels((array.shape[1], array.shape[0]), name)
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails it too
            raise MediaError(
                f"{name}: floating-point pixels must be from 0 to 1, got {array.min():g} to "
                f"{array.max():g}"
            )
        array = _stretched(array, 0.0, 1.0)
    elif array.dtype != np.uint8:
        raise MediaError(f"{name}: pixels must be uint8 or floating point, got {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(array[:, :, :3], (*array.shape[:2], 3)))


def _rgb_of_pil(image: Any, limits: MediaLimits, name: str) -> Pixels:
    limits._check_pixels(image.size, name)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return rgb_of_array(_stretched(values, *_range_of(values)), limits, name)
    image.load()
    if image.mode == "RGB":
        return np.ascontiguousarray(image)
    if "transparency" in image.info:  # convert() would warn of it and then drop it
        image = image.copy()  # the user's own keeps it
        del image.info["transparency"]
    return np.ascontiguousarray(image.convert("RGB"))


def _range_of(values: npt.NDArray[Any]) -> tuple[float, float]:
    """What becomes black and white: the range of 16 bits, 0 to 1, or the least and the greatest."""
    if values.dtype.kind != "f":
        low, high = float(values.min()), float(values.max())
        return (0.0, 65535.0) if low >= 0 and high <= 65535 else (low, high)
    finite = np.isfinite(values)
    low = float(values.min(where=finite, initial=np.inf))
    high = float(values.max(where=finite, initial=-np.inf))
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _stretched(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """Values from low to high as 0 to 255. A block of lines at a time, since it takes floats."""
    pixels = np.empty(values.shape, np.uint8)
    n_lines = max(1, (1 << 20) // values[0].size)
    scale = high - low if high > low else 1.0
    with np.errstate(all="ignore"):  # of values that are not finite
        for line in range(0, len(values), n_lines):
            block = (values[line : line + n_lines].astype(np.float64) - low) / scale
            block = np.clip(np.nan_to_num(block), 0.0, 1.0)
            pixels[line : line + n_lines] = np.rint(block * 255.0)
    return pixels


def _format_of(data: bytes) -> str | None:
    """The format of an image file by its first bytes."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        size = int.from_bytes(data[:4], "big")
        brands = {data[i : i + 4] for i in range(8, min(size, 256), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIF_BRANDS else None
    return None


def _webp_size(data: bytes) -> tuple[int, int]:
    """Size of a WebP canvas, for which memory is taken as soon as the file is opened."""
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return width, height


def _check_passes(data: bytes, size: tuple[int, int], limits: MediaLimits, name: str) -> None:
    n_passes = len(re.findall(b"\xff\xda", data))
    if n_passes * size[0] * size[1] > _MAX_JPEG_PASSES * limits.max_image_pixels:
        raise MediaError(
            f"{name} asks for {n_passes} passes over {size[0]} x {size[1]} pixels, more than "
            f"{_MAX_JPEG_PASSES} over max_image_pixels, {limits.max_image_pixels}"
        )


@functools.cache
def _silence_pillow() -> None:
    """Stops Pillow and the libtiff inside of it from printing what is wrong with a file.

    The error is raised all the same. Where Pillow has another libtiff, that one prints.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it is printed to stderr
    folder = Path(_sources.decoder("PIL", "pillow", "TIFF").__file__).parent
    for library in (*folder.parent.glob("pillow.libs/libtiff*"), *folder.glob(".dylibs/libtiff*")):
        with contextlib.suppress(OSError, AttributeError):
            set_handler = ctypes.CDLL(str(library)).TIFFSetErrorHandler
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


_user_images = threading.Lock()

# Pillow warns of odd metadata, which does not concern the pixels. Warnings are switched off while
# any thread decodes, for Pillow's modules alone.
_quiet_lock = threading.Lock()
_n_quiet = 0
_filters: Any = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    global _n_quiet, _filters
    if getattr(sys.flags, "context_aware_warnings", 0):  # of this thread alone, Python 3.14
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    with _quiet_lock:
        _n_quiet += 1
        if _n_quiet == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
    try:
        yield
    finally:
        with _quiet_lock:
            _n_quiet -= 1
            if _n_quiet == 0:
                _filters.__exit__(None, None, None)
