"""Decodes one media file after another as told on standard input, and says how each ended.

Runs as a process of its own, so that a crash is the finding and not the end of the test run. A
stand-in takes the place of the native library: the decoders are what is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
from ggembed import EmbedError
from ggembed.media import Audio, Image, Medium, Pdf, Video, _prepare, prepare

# What a process that decodes with the default limits may take. The address space is larger by
# that of the libraries, their threads and what they reserve but do not touch.
MAX_RESIDENT_BYTES = 2 << 30
ADDRESS_SPACE = 6 << 30

MEDIA = {"image": Image, "audio": Audio, "pdf": Pdf}


class Taker:
    """Takes what the native library would, and checks that it may."""

    @staticmethod
    def image(_model: object, pixels: np.ndarray, **_limits: int) -> str:
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.size > 0
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        return "image"

    @classmethod
    def video(cls, model, frames, n_frames, size, seconds, **_limits) -> str:
        n_taken = 0
        for frame in frames:
            cls.image(model, frame)
            assert frame.shape == (size[1], size[0], 3)
            n_taken += 1
        assert 1 <= n_frames <= 32
        assert n_taken <= n_frames
        assert seconds is None or seconds.shape == (n_frames,)
        return "video"

    @staticmethod
    def audio(_model: object, samples: np.ndarray) -> str:
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert samples.size > 0
        assert samples.flags.c_contiguous
        assert np.isfinite(samples).all()
        return "audio"


def run(path: str, kind: str) -> tuple[str, str]:
    """How a file ended: "works", or the name and the message of our error."""
    if kind == "video":  # with the times of the file and without, which are two ways
        ends = [
            attempt(Video(path, audio=True, fps="source")),
            attempt(Video(Path(path).read_bytes())),
        ]
        return next((end for end in ends if end[0] == "wrong"), ends[1])
    options = {"password": "secret"} if path.endswith("-password") else {}
    return attempt(MEDIA[kind](path, **options))


def attempt(medium: Medium) -> tuple[str, str]:
    """How preparing a medium ended."""
    try:
        prepare(medium, None)
    except EmbedError as err:
        if not str(err) or "\n" in str(err):
            return "wrong", f"{type(err).__name__} with the message {str(err)!r}"
        return type(err).__name__, str(err)
    return "works", ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prepare._native.Media = Taker
    stderr, writer = os.pipe()
    os.set_blocking(stderr, False)
    os.dup2(writer, 2)
    print("ready", flush=True)
    for line in sys.stdin:
        printed = b""
        try:
            end, message = run(*json.loads(line))
        except Exception as err:  # any other class is a finding
            end, message = "wrong", f"{type(err).__module__}.{type(err).__name__}: {err}"
        with contextlib.suppress(BlockingIOError):
            printed = os.read(stderr, 200)
        if printed:
            end, message = "wrong", f"printed {printed!r}, after which: {end} {message}"
        unit = 1 if sys.platform == "darwin" else 1024
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if resident > MAX_RESIDENT_BYTES:
            end, message = "wrong", f"{resident >> 20} MiB of memory, after which: {end} {message}"
        print(json.dumps([end, message]), flush=True)


if __name__ == "__main__":
    main()
