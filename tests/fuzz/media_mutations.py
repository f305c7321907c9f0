"""Broken media files: variants of good ones, each a function of a seed and a number."""

from __future__ import annotations

import io
import random
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "python"))

import media_files

NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 10**6)
BIG_NUMBERS = (2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def _saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    image, out = Image.fromarray(media_files.pixels()).convert(mode), io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _animated(kind: str) -> bytes:
    images = [Image.fromarray(media_files.pixels(seed=seed)) for seed in range(3)]
    out = io.BytesIO()
    images[0].save(out, kind, save_all=True, append_images=images[1:])
    return out.getvalue()


def _drawing() -> bytes:
    return media_files.svg(
        body='<defs><g id="a"><circle cx="4" cy="5" r="3"/></g><linearGradient id="b">'
        '<stop offset="0.5" stop-color="red"/></linearGradient><pattern id="p" width="4" height="4"'
        ' patternUnits="userSpaceOnUse"><use href="#a"/></pattern><marker id="m"><use href="#a"/>'
        '</marker><filter id="f"><feGaussianBlur stdDeviation="2"/></filter><clipPath id="c"><rect'
        ' width="9" height="9"/></clipPath></defs><use href="#a" x="3"/><rect x="5" width="20"'
        ' height="9" fill="url(#b)" filter="url(#f)"/><path d="M1 1L5 5C7 8 9 2 30 20z" fill="'
        'url(#p)" marker-mid="url(#m)" stroke-dasharray="2 1"/><text x="3" y="20">T</text>'
        '<g clip-path="url(#c)" transform="rotate(10) scale(2)"><use href="#a"/></g>'
    )


# Good files of each path through the decoders: kind of medium, and how to make them.
PATHS: dict[str, tuple[str, list[Callable[[], bytes]]]] = {
    "jpg": (
        "image",
        [
            lambda: media_files.make_image("jpg"),
            lambda: _saved("jpeg", progressive=True, exif=_exif()),
            lambda: _saved("jpeg", "CMYK"),
        ],
    ),
    "png": (
        "image",
        [
            lambda: media_files.make_image("png"),
            lambda: _saved("png", "P", transparency=b"\x01\x02"),
            lambda: _saved("png", "I;16"),
            lambda: _animated("png"),
        ],
    ),
    "gif": ("image", [lambda: media_files.make_image("gif"), lambda: _animated("gif")]),
    "webp": (
        "image",
        [
            lambda: media_files.make_image("webp"),
            lambda: media_files.make_image("webp-lossless"),
            lambda: _animated("webp"),
        ],
    ),
    "bmp": ("image", [lambda: media_files.make_image("bmp"), lambda: _saved("bmp", "P")]),
    "tiff": (
        "image",
        [
            lambda: media_files.make_image("tiff"),
            lambda: _saved("tiff", compression="tiff_lzw"),
            lambda: _saved("tiff", compression="tiff_adobe_deflate"),
            lambda: _saved("tiff", compression="jpeg"),
            lambda: _saved("tiff", "F"),
            lambda: _saved("tiff", "1", compression="group4"),
        ],
    ),
    "avif": ("image", [lambda: media_files.make_image("avif")]),
    "heic": ("image", [lambda: media_files.make_image("heic")]),
    "svg": ("image", [_drawing]),
    **{
        kind: ("video", [lambda kind=kind: media_files.make_video(kind, 6, seconds=0.5)])
        for kind in media_files.VIDEOS
    },
    **{
        kind: ("audio", [lambda kind=kind: media_files.make_audio(kind, 0.4)])
        for kind in media_files.AUDIOS
    },
    "pdf": ("pdf", [media_files.make_pdf, lambda: _saved("pdf")]),
    "pdf-password": ("pdf", [lambda: media_files.make_pdf(password="secret")]),
}


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x829A] = 6, "maker", (1, 60)
    return exif.tobytes()


def _flip_bits(data: bytearray, draw: random.Random) -> None:
    end = len(data) if draw.random() < 0.5 else min(len(data), 256)
    for _ in range(draw.choice((1, 1, 2, 4, 16, 64))):
        data[draw.randrange(end)] ^= 1 << draw.randrange(8)


def _overwrite(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    size = min(draw.choice((1, 2, 8, 64, 512)), len(data) - at)
    data[at : at + size] = draw.choice((bytes(size), b"\xff" * size, draw.randbytes(size)))


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def _remove(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.choice((1, 4, 32, 512))]


def _splice(data: bytearray, draw: random.Random) -> None:
    """Copies a piece to another place, over what is there or between it."""
    begin, at = draw.randrange(len(data)), draw.randrange(len(data))
    piece = data[begin : begin + draw.choice((4, 32, 512, 4096))]
    data[at : at + (len(piece) if draw.random() < 0.5 else 0)] = piece


def _number(data: bytearray, draw: random.Random) -> None:
    """Writes a number over a field: near the beginning, or behind a name of four letters."""
    names = [match.end() for match in re.finditer(rb"[A-Za-z][A-Za-z0-9 ]{3}", bytes(data))]
    at = (
        draw.choice(names) if names and draw.random() < 0.5 else draw.randrange(min(len(data), 512))
    )
    size = draw.choice((1, 2, 3, 4, 8))
    value = draw.choice(NUMBERS + BIG_NUMBERS) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, draw.choice(("big", "little")))


def _digits(data: bytearray, draw: random.Random) -> None:
    """Writes a number over one that is spelled out, as PDF and SVG have them."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data)))
    if not found:
        return
    match = draw.choice(found)
    number = draw.choice((-1, 0.5, 1e-9, 1e9, *NUMBERS, *BIG_NUMBERS))
    data[match.start() : match.end()] = str(number).encode()


def _swap_words(data: bytearray, draw: random.Random) -> None:
    words = list(re.finditer(rb"[A-Za-z]{3,}", bytes(data)))
    if len(words) < 2:
        return
    to, source = draw.choice(words), draw.choice(words)
    data[to.start() : to.end()] = source[0]


_EDITS = (_flip_bits, _flip_bits, _overwrite, _cut, _remove, _splice, _number, _number)
_TEXT_EDITS = (*_EDITS, *(_digits,) * 6, *(_swap_words,) * 4)


def mutate(data: bytes, path: str, draw: random.Random) -> bytes:
    """One variant."""
    changed = bytearray(data)
    edits = _TEXT_EDITS if path in ("svg", "pdf", "pdf-password") else _EDITS
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        if changed:
            draw.choice(edits)(changed, draw)
    if path == "png" and draw.random() < 0.7:
        _mend_png(changed)
    if path in ("ogg", "opus") and draw.random() < 0.9:
        _mend_ogg(changed)
    return bytes(changed)


def _mend_png(data: bytearray) -> None:
    """Makes the checksums right again, at which every change would be found."""
    pos = 8
    while pos + 12 <= len(data):
        end = pos + 8 + int.from_bytes(data[pos : pos + 4], "big")
        data[end : end + 4] = zlib.crc32(data[pos + 4 : end]).to_bytes(4, "big")[: len(data) - end]
        pos = end + 4


def _mend_ogg(data: bytearray) -> None:
    pos = 0
    while data[pos : pos + 4] == b"OggS" and len(data) >= pos + 27:
        n_segments = data[pos + 26]
        end = pos + 27 + n_segments + sum(data[pos + 27 : pos + 27 + n_segments])
        data[pos + 22 : pos + 26] = bytes(4)
        checksum = 0
        for byte in data[pos:end]:
            checksum = (checksum << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[checksum >> 24 ^ byte]
        data[pos + 22 : pos + 26] = checksum.to_bytes(4, "little")
        pos = end


def _ogg_entry(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = value << 1 ^ (0x104C11DB7 if value >> 31 else 0)
    return value


_OGG_TABLE = [_ogg_entry(byte) for byte in range(256)]


def variants(path: str, n: int, seed: int) -> list[bytes]:
    """n variants of the files of a path, the same ones for the same seed."""
    bases = [make() for make in PATHS[path][1]]
    draws = [random.Random(f"{seed}/{path}/{i}") for i in range(n)]
    return [mutate(bases[i % len(bases)], path, draw) for i, draw in enumerate(draws)]
