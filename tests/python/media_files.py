"""Makes a small file of every media type that is read, each from a seed.

``make_image``, ``make_video``, ``make_audio`` and ``make_pdf`` return the bytes of a file;
``pixels``, ``frames`` and ``tone`` what was put into it.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from fractions import Fraction

import av
import numpy as np
import pillow_heif
from PIL import Image

IMAGES = ("jpg", "png", "gif", "webp", "bmp", "tiff", "avif", "heic", "svg")
LOSSLESS_IMAGES = ("png", "bmp", "tiff", "webp-lossless")

# Container of FFmpeg, encoder, pixel format, encoder of the sound.
VIDEOS = {
    "mp4": ("mp4", "libx264", "yuv420p", "aac"),
    "mov": ("mov", "libx264", "yuv420p", "aac"),
    "avi": ("avi", "mpeg4", "yuv420p", "libmp3lame"),
    "mkv": ("matroska", "libx264", "yuv420p", "flac"),
    "webm": ("webm", "libvpx-vp9", "yuv420p", "libopus"),
    "flv": ("flv", "flv", "yuv420p", "libmp3lame"),
    "wmv": ("asf", "wmv2", "yuv420p", "wmav2"),
}

# Container of FFmpeg, encoder, the rate that it takes.
AUDIOS = {
    "wav": ("wav", "pcm_s16le", 44_100),
    "wav-float": ("wav", "pcm_f32le", 44_100),
    "mp3": ("mp3", "libmp3lame", 44_100),
    "flac": ("flac", "flac", 44_100),
    "ogg": ("ogg", "vorbis", 44_100),
    "m4a": ("ipod", "aac", 44_100),
    "opus": ("ogg", "libopus", 48_000),
}


def pixels(width: int = 48, height: int = 32, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture, which also lossy formats keep: (height, width, 3) uint8."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases, waves = draw.uniform(0, 6, 3), draw.uniform(1, 4, (3, 2))
    planes = [
        np.sin(phase + wx * x + wy * y) for phase, (wx, wy) in zip(phases, waves, strict=True)
    ]
    return np.uint8(np.rint(127.5 + 110 * np.stack(planes, -1)))


def make_image(kind: str, width: int = 48, height: int = 32, seed: int = 0) -> bytes:
    """An image file; kind: of IMAGES, or "webp-lossless"."""
    if kind == "svg":
        return svg(width, height)
    image, out = Image.fromarray(pixels(width, height, seed)), io.BytesIO()
    if kind == "heic":
        pillow_heif.from_pillow(image).save(out, quality=90)
    elif kind == "webp-lossless":
        image.save(out, "webp", lossless=True)
    else:
        options = {"quality": 90} if kind in ("jpg", "webp", "avif") else {}
        image.save(out, "jpeg" if kind == "jpg" else kind, **options)
    return out.getvalue()


def svg(width: int = 48, height: int = 32, body: str = "", attributes: str | None = None) -> bytes:
    """A drawing: its left half red, and `body`."""
    size = f'width="{width}" height="{height}"' if attributes is None else attributes
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        f'<rect width="{width // 2}" height="{height}" fill="#ff0000"/>{body}</svg>'
    ).encode()


def frames(n_frames: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames of one grey value each, which says which frame it is: (n_frames, h, w, 3)."""
    values = (20 + grey_step(n_frames) * np.arange(n_frames)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (n_frames, height, width, 3)).copy()


def grey_step(n_frames: int) -> float:
    """Difference of the grey values of two frames in succession."""
    return 210 / max(1, n_frames - 1)


def make_video(
    kind: str,
    n_frames: int = 10,
    fps: int = 8,
    *,
    seconds: float | None = None,
    pts=None,
    size: tuple[int, int] = (64, 48),
) -> bytes:
    """A video file, of VIDEOS.

    seconds: length of a sound track; pts: when each frame is shown, in units of 1 / fps. In an MP4
    those before 0 are in the file and are not shown.
    """
    container, codec, pix_fmt, sound_codec = VIDEOS[kind]
    out, options = io.BytesIO(), {"avoid_negative_ts": "disabled"} if pts else {}
    with av.open(out, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 6
        stream.codec_context.max_b_frames = 0
        stream.bit_rate = 2_000_000
        sound = None if seconds is None else _sound_stream(file, sound_codec, 44_100, 2)
        for i, array in enumerate(frames(n_frames, *size)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = (i if pts is None else pts[i]), Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if sound is not None:
            _encode_sound(file, sound, tone(seconds, sound.rate, 2), sound.rate)
    return out.getvalue()


def tone(seconds: float, rate: int, n_channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """A sine with a swell, the channels alike: (n_samples, n_channels) float32."""
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 1.5 * t))
    return np.repeat(wave[:, None], n_channels, 1).astype(np.float32)


def make_audio(kind: str, seconds: float = 1.0, n_channels: int = 2, rate: int = 0) -> bytes:
    """An audio file, of AUDIOS."""
    container, codec, own_rate = AUDIOS[kind]
    rate, out = rate or own_rate, io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = _sound_stream(file, codec, rate, n_channels)
        _encode_sound(file, stream, tone(seconds, rate, n_channels), rate)
    return out.getvalue()


def _sound_stream(file, codec: str, rate: int, n_channels: int):
    layout = {1: "mono", 2: "stereo"}[n_channels]
    rate = 48_000 if codec == "libopus" else rate
    stream = file.add_stream(codec, rate=rate, layout=layout)
    stream.bit_rate = 128_000
    if codec == "vorbis":
        stream.codec_context.options = {"strict": "experimental"}
    return stream


def _encode_sound(file, stream, samples: np.ndarray, rate: int) -> None:
    layout = stream.layout.name
    resampler = av.AudioResampler(
        stream.codec_context.format,
        layout,
        rate,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.T), format="fltp", layout=layout
    )
    frame.sample_rate, frame.pts = rate, 0
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        file.mux(stream.encode(piece))
    file.mux(stream.encode())


def make_pdf(sizes: list[tuple[float, float]] | None = None, password: str | None = None) -> bytes:
    """A PDF of pages of those sizes in points; page i has i + 1 black squares in a row.

    With a password it is encrypted with RC4 of 40 bits, as PDF 1.4 has it.
    """
    sizes = [(144, 72), (72, 144)] if sizes is None else sizes
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(sizes)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(sizes)} >>".encode(),
    ]
    key, encrypt = (b"", b"") if password is None else _rc4_keys(password)
    for i, (width, height) in enumerate(sizes):
        squares = "".join(f"{12 + 18 * k} 12 12 12 re f " for k in range(i + 1)).encode()
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Resources << >> "
        objects.append(f"{page}/Contents {4 + 2 * i} 0 R >>".encode())
        if key:
            squares = _rc4(_object_key(key, 4 + 2 * i), squares)
        objects.append(b"<< /Length %d >> stream\n%s\nendstream" % (len(squares), squares))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for i, body in enumerate(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (i + 1, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (len(objects) + 1, encrypt)
    out += b"startxref\n%d\n%%%%EOF\n" % start
    return bytes(out)


_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
_PERMISSIONS = 0xFFFFFFFC


def _rc4_keys(password: str) -> tuple[bytes, bytes]:
    """The file's key and its entries in the trailer; algorithms 2 to 4 of PDF 1.4, 3.5.2."""
    padded = (password.encode() + _PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    file_id = bytes(range(16))
    seed = padded + owner + _PERMISSIONS.to_bytes(4, "little") + file_id
    key = hashlib.md5(seed).digest()[:5]
    user = _rc4(key, _PADDING)
    entries = (
        b"/ID [<%s> <%s>] /Encrypt << /Filter /Standard /V 1 /R 2 /P %d /O <%s> /U <%s> >>"
        % (
            *(file_id.hex().encode(),) * 2,
            _PERMISSIONS - (1 << 32),
            owner.hex().encode(),
            user.hex().encode(),
        )
    )
    return key, entries


def _object_key(key: bytes, number: int) -> bytes:
    return hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10]


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says a size, and which has no pixels for it."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        checksum = zlib.crc32(name + data).to_bytes(4, "big")
        out += len(data).to_bytes(4, "big") + name + data + checksum
    return out
