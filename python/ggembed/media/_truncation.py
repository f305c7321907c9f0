"""Whether a file is cut off, as far as the sizes say that its container declares."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from ..errors import MediaError

_ISO_BOXES = frozenset(
    b"ftyp styp moov moof mdat mfra meta free skip wide uuid sidx ssix pdin emsg prft pnot".split()
)
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_RIFF_UNKNOWN = 0x7FFF0000  # writers to a pipe leave such sizes, or 0, where they know none


def check(file: BinaryIO, n_bytes: int, name: str) -> None:
    """Raises if the container says that there is more than the file holds."""
    file.seek(0)
    head = file.read(4096)
    missing = 0
    if head[:4] in (b"RIFF", b"RIFX"):
        missing = _riff(head, n_bytes)
    elif head[4:8] in _ISO_BOXES:
        missing = _iso(file, n_bytes)
    elif head[:4] == b"\x1aE\xdf\xa3":
        missing = _matroska(head, n_bytes)
    elif head[:3] == b"FLV":
        missing = _flv(file, head, n_bytes)
    elif head[:16] == _ASF_HEADER:
        missing = _asf(file, n_bytes)
    elif head[:4] == b"OggS":
        missing = _ogg(file, n_bytes)
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        missing = _mp3(file, head, n_bytes)
    elif head[:4] == b"\x89PNG":
        missing = 0 if b"IEND" in head or b"IEND" in file.read() else 1
    elif head[:5] == b"%PDF-":
        missing = _pdf(file, n_bytes)
    file.seek(0)
    if missing > 0:
        raise MediaError(f"{name} is cut off: at least {missing} of its bytes are missing")


def _riff(head: bytes, n_bytes: int) -> int:
    size = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
    if size == 0 or size >= _RIFF_UNKNOWN:
        return 0
    missing = size + 8 - n_bytes
    return missing if missing > 8 else 0  # some writers count these 8 bytes in


def _iso(file: BinaryIO, n_bytes: int) -> int:
    """MP4, MOV, M4A, HEIC, AVIF: boxes of 32-bit size and name, then a 64-bit size if that is 1."""
    pos = 0
    while pos + 8 <= n_bytes:
        file.seek(pos)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or head[4:8] not in _ISO_BOXES:  # the last one may say 0: to the end
            return 0
        pos += size
    return pos - n_bytes


def _matroska(head: bytes, n_bytes: int) -> int:
    """Matroska and WebM: a header element and the segment, with sizes of variable length."""
    size, start = _vint(head, 4)
    if size is None or head[start + size : start + size + 4] != b"\x18\x53\x80\x67":
        return 0
    segment, begin = _vint(head, start + size + 4)
    return 0 if segment is None else begin + segment - n_bytes


def _vint(data: bytes, pos: int) -> tuple[int | None, int]:
    """Value of an EBML size, None if it is unknown, and where it ends."""
    first = data[pos] if pos < len(data) else 0
    length = 9 - first.bit_length()
    mask = (1 << 7 * length) - 1
    if first == 0 or pos + length > len(data):
        return None, pos
    value = int.from_bytes(data[pos : pos + length], "big") & mask
    return (None if value == mask else value), pos + length


def _flv(file: BinaryIO, head: bytes, n_bytes: int) -> int:
    """Tags of 11 bytes and their data, each between two 32-bit sizes of the tag before."""
    pos = int.from_bytes(head[5:9], "big") + 4
    while pos + 11 <= n_bytes:
        file.seek(pos)
        tag = file.read(4)
        if tag[0] & 0x1F not in (8, 9, 18):
            return 0
        pos += 11 + int.from_bytes(tag[1:4], "big") + 4
    if pos < n_bytes:
        return pos + 11 - n_bytes
    return pos - n_bytes if pos - n_bytes > 4 else 0  # the last size is often left out


def _asf(file: BinaryIO, n_bytes: int) -> int:
    """WMV: objects of a 16-byte name and a 64-bit size."""
    pos = 0
    while pos + 24 <= n_bytes:
        file.seek(pos + 16)
        size = int.from_bytes(file.read(8), "little")
        if size < 24:  # unknown, in a live stream
            return 0
        pos += size
    return pos - n_bytes


def _ogg(file: BinaryIO, n_bytes: int) -> int:
    """Pages of 27 bytes, a table of segment sizes, and the segments."""
    pos = 0
    while pos < n_bytes:
        file.seek(pos)
        page = file.read(27 + 255)
        if page[:4] != b"OggS"[: len(page)]:
            return 0
        if len(page) < 27 or len(page) < 27 + page[26]:
            return 1
        pos += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return pos - n_bytes


def _mp3(file: BinaryIO, head: bytes, n_bytes: int) -> int:
    """MPEG audio: the size that a Xing header in the first frame says, counted from that frame."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        start = 10
        for i, byte in enumerate(head[6:10]):
            start += (byte & 0x7F) << 7 * (3 - i)
    file.seek(start)
    frame = file.read(256)
    match = re.search(b"Xing|Info", frame)
    if not match or frame[:1] != b"\xff":
        return 0
    flags, at = frame[match.end() : match.end() + 4], match.end() + 4
    if len(flags) < 4 or not flags[3] & 2:
        return 0
    at += 4 * (flags[3] & 1)
    return start + int.from_bytes(frame[at : at + 4], "big") - n_bytes


def _pdf(file: BinaryIO, n_bytes: int) -> int:
    """A PDF ends with a mark; PDFium would rebuild a file without one from the pages it finds."""
    file.seek(max(0, n_bytes - 4096), os.SEEK_SET)
    return 0 if b"%%EOF" in file.read() else 1
