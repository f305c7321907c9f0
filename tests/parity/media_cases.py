"""Sizes, images and sounds on which the preparation of media is compared. None is random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from make_tiny_models import random_uniform

SAMPLE_RATE = 16000
PADDED = 30 * SAMPLE_RATE
N_BINS = 128

# Of Jina's two families of vision towers and beyond: cells of one size, tight limits, wide limits.
IMAGE_RULES = (
    (32, 262_144, 1_310_720),
    (28, 3_136, 1_003_520),
    (28, 3_136, 37_788_800),
    (32, 1_024, 1_024),
    (28, 1, 100),
)
VIDEO_RULES = ((32, 262_144, 12_845_056), (32, 4_096, 25_165_824), (32, 2_048, 40_960))

NORMALIZATIONS = {
    "halves": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}

# (height, width) -> (height, width): larger, smaller, sides of one pixel, one side kept, more of
# the height lost than of the width.
RESIZES = (
    ((31, 47), (64, 96)),
    ((123, 77), (32, 64)),
    ((1, 1), (28, 28)),
    ((1, 200), (32, 800)),
    ((90, 1), (45, 3)),
    ((50, 60), (50, 32)),
    ((50, 60), (28, 60)),
    ((40, 40), (40, 40)),
    ((300, 100), (64, 96)),
    ((200, 33), (64, 32)),
    ((35, 34), (36, 33)),
)


def _uniform(label: str, n: int, low: float, high: float) -> np.ndarray:
    draws = random_uniform(f"media/{label}", (n,)).astype(np.float64) / np.sqrt(12.0) + 0.5
    return low + draws * (high - low)


def _sides(label: str, factor: int, n: int) -> np.ndarray:
    """Pairs of sides: two of three of any size, the others halfway between multiples."""
    sides = np.exp2(_uniform(label, 2 * n, 0.0, 13.5)).astype(np.int64).reshape(n, 2)
    odd = 1 + 2 * _uniform(f"{label}/ties", 2 * n, 0.0, 60.0).astype(np.int64).reshape(n, 2)
    return np.where(np.arange(n)[:, None] % 3 == 0, odd * (factor // 2), sides)


def image_sizes(n: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(height, width, factor, min_pixels, max_pixels), n for each rule."""
    for i, rule in enumerate(IMAGE_RULES):
        for height, width in _sides(f"image/{i}", rule[0], n).tolist():
            yield (height, width, *rule)


def video_sizes(n: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(n_frames, height, width, factor, min_pixels, max_pixels), n for each rule.

    The numbers of frames are even: transformers and ggembed count odd ones differently.
    """
    for i, rule in enumerate(VIDEO_RULES):
        counts = _uniform(f"frames/{i}", n, 1.0, 40.0).astype(int).tolist()
        sides = _sides(f"video/{i}", rule[0], n).tolist()
        for half, (height, width) in zip(counts, sides, strict=True):
            yield (2 * half, height, width, *rule)


def image(height: int, width: int) -> np.ndarray:
    """Noise, darker to the right, with black and white in it: (height, width, 3) uint8."""
    values = _uniform(f"pixels/{height}/{width}", height * width * 3, -60.0, 400.0)
    shade = np.linspace(1.0, 0.6, width)[None, :, None]
    return np.clip(values.reshape(height, width, 3) * shade, 0, 255).astype(np.uint8)


def _noise(label: str, n: int, amplitude: float) -> np.ndarray:
    return random_uniform(f"media/{label}", (n,)) * np.float32(amplitude)


def sounds() -> dict[str, np.ndarray]:
    """Samples by name."""
    seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    click = np.zeros(15_990, np.float32)
    click[-1] = 1.0
    return {
        "noise": _noise("noise", SAMPLE_RATE, 0.2),
        "near silence": _noise("near", SAMPLE_RATE, 1e-4),
        "silence": np.zeros(SAMPLE_RATE // 2, np.float32),
        "chirp": np.sin(2 * np.pi * (50 * seconds + 1900 * seconds**2)).astype(np.float32),
        "click at the end": click,
        "201 samples": _noise("201", 201, 0.5),
        "480 samples": _noise("480", 480, 0.5),
        "11 s": _noise("11", 11 * SAMPLE_RATE, 0.1),
        "30 s": _noise("30", PADDED, 0.1),
        "30 s and a sample": _noise("30+", PADDED + 1, 0.1),
        "30.01 s": _noise("30.01", PADDED + 160, 0.1),
        "61 s": _noise("61", 61 * SAMPLE_RATE, 0.1),
    }


def n_compared_frames(n_samples: int) -> int:
    """Frames that both have: beyond 30 s transformers drops the last one if it is not full."""
    return n_samples // 160 if n_samples > PADDED else -(-n_samples // 160)


def thinned(mel: np.ndarray) -> np.ndarray:
    """What the golden file keeps of a spectrogram: up to 30 frames, the last included."""
    step = -(-mel.shape[1] // 30)
    return mel[::5, ::-1][:, ::step]


def in_our_order(pixel_values: np.ndarray, patch_size: int) -> np.ndarray:
    """Patches of transformers, (channel, frame, y, x), as (frame, channel, y, x)."""
    n = len(pixel_values)
    patches = pixel_values.reshape(n, 3, 2, patch_size, patch_size)
    return np.ascontiguousarray(patches.transpose(0, 2, 1, 3, 4).reshape(n, -1))
