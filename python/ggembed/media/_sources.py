"""Where a medium comes from: a path, bytes, a file object or a data URI."""

from __future__ import annotations

import base64
import binascii
import importlib
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

import numpy as np

from ..errors import EmbedError, MediaError, MissingDecoderError, OutOfMemoryError
from ._limits import MediaLimits

File = Path | bytes

# What is called now and then while a file is decoded; it raises to end that.
checkpoint: ContextVar[Callable[[], None]] = ContextVar("checkpoint", default=lambda: None)

SUFFIXES: dict[str, tuple[str, ...]] = {
    "image": (
        *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"),
        *(".avif", ".heic", ".svg"),
    ),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".wmv"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus"),
    "PDF": (".pdf",),
}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)


def kind_of_suffix(path: str | os.PathLike[str]) -> str | None:
    """The kind of medium that a file name stands for."""
    suffix = Path(path).suffix.lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), None)


def is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def mime_of(text: str) -> str:
    """MIME type of a data URI, lower case; empty for other strings."""
    match = _DATA_URI.match(text)
    return match[1].lower() if match else ""


def from_data_uri(uri: str, what: str) -> tuple[str, bytes]:
    """MIME type, lower case, and content of a data URI."""
    match = _DATA_URI.match(uri)
    if not match:
        raise MediaError(f"{what}: not a data URI: {uri[:40]!r}")
    mime, options, rest = match[1].lower(), match[2].lower(), uri[match.end() :]
    if options.endswith(";base64"):
        return mime, from_base64(rest, what)
    return mime, unquote_to_bytes(rest)


def from_base64(text: str, what: str) -> bytes:
    """Content of a base64 string without white space or missing padding."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise MediaError(f"{what} is not valid base64: {err}") from None


def refuse_url(text: str, what: str) -> None:
    """Raises for what would have to be fetched."""
    if _URL.match(text):
        raise MediaError(
            f"{what}: ggembed fetches nothing from URLs such as {text[:80]!r}; "
            "download the file first"
        )


def as_file(source: object, what: str) -> File | None:
    """A path or content; None if the source is something else. File objects are read."""
    if isinstance(source, str):
        if is_data_uri(source):
            return from_data_uri(source, what)[1]
        refuse_url(source, what)
        if not source:
            raise MediaError(f"{what}: the path is empty")
        return Path(source)
    if isinstance(source, os.PathLike):
        return Path(os.fsdecode(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    read = getattr(source, "read", None)
    if not callable(read):
        return None
    content = read()
    if not isinstance(content, bytes):
        raise TypeError(f"{what}: the file object must be binary, got {type(content).__name__}")
    return content


def shown(path: str | Path) -> str:
    """A path in quotes. What is very long is some other string by mistake, such as base64."""
    text = str(path)
    return repr(text if len(text) <= 300 else f"{text[:100]}...{text[-100:]}")


def describe(source: Any) -> str:
    """A few words that tell a source from others, for messages."""
    if isinstance(source, Path):
        return shown(source)
    if is_pil_image(source):
        return f"of {source.width} x {source.height} pixels"
    if isinstance(source, bytes):
        return f"of {len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"of shape {source.shape}"
    if isinstance(source, tuple) and source and isinstance(source[0], np.ndarray):
        return f"of shape {source[0].shape}"
    return f"from {type(source).__name__}"


@contextmanager
def opened(file: File, limits: MediaLimits, name: str) -> Iterator[BinaryIO]:
    """A file for reading, which is regular, not empty and within the limit."""
    if isinstance(file, bytes):
        _check_size(len(file), limits, name)
        yield io.BytesIO(file)
        return
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device may never end
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise MediaError(f"{name} is {kind}")
        stream = file.open("rb")
    except (OSError, ValueError) as err:
        if isinstance(err, EmbedError):
            raise
        raise MediaError(f"{name} cannot be read: {_reason(err)}") from err
    with stream:
        _check_size(os.fstat(stream.fileno()).st_size, limits, name)
        yield stream


def content(file: File, limits: MediaLimits, name: str) -> bytes:
    """All bytes of a file."""
    with opened(file, limits, name) as stream:
        return file if isinstance(file, bytes) else stream.read()


def _check_size(n_bytes: int, limits: MediaLimits, name: str) -> None:
    if n_bytes == 0:
        raise MediaError(f"{name} is empty")
    limits._check_bytes(n_bytes, name)


def _reason(err: BaseException) -> str:
    text = (err.strerror if isinstance(err, OSError) else None) or str(err)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(err).__name__


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into an error that names the input."""
    try:
        yield
    except EmbedError:
        raise
    except MemoryError as err:
        raise OutOfMemoryError(
            f"{name}: there is too little memory to decode it, or it is damaged"
        ) from err
    except Exception as err:  # the decoders raise nearly every class on bad files
        raise MediaError(f"{name} cannot be decoded: {_reason(err)}") from err


def decoder(module: str, package: str, what: str) -> Any:
    """A module of the extra ``media``."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise MissingDecoderError(
            f'{what} needs the package {package}: pip install "ggembed[media]"'
        ) from err


def is_pil_image(value: object) -> bool:
    """Whether it is an image of Pillow, which is not imported for the question."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)
