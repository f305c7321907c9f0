"""Sizes, resized images, mel spectrograms and patches by transformers and Pillow.

python reference_media.py    # data/media.npz
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version

import media_cases
import numpy as np
from golden import DATA
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import (
    smart_resize as smart_resize_video,
)

REFUSED = (0, 0)  # in place of the size of an image that is too narrow


def image_size(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    try:
        return smart_resize(height, width, factor, min_pixels, max_pixels)
    except ValueError:
        return REFUSED


def video_size(
    n_frames: int, height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    try:
        return smart_resize_video(n_frames, height, width, 2, factor, min_pixels, max_pixels)
    except ValueError:
        return REFUSED


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def log_mel(samples: np.ndarray) -> np.ndarray:
    """[bins, frames] with the sound in them: padded to 30 seconds, longer ones as they are."""
    extract = WhisperFeatureExtractor(feature_size=media_cases.N_BINS)
    longer = {"padding": "longest", "truncation": False}
    options = longer if len(samples) > media_cases.PADDED else {}
    features = extract(
        samples, sampling_rate=media_cases.SAMPLE_RATE, return_tensors="np", **options
    )
    return features.input_features[0][:, : media_cases.n_compared_frames(len(samples))]


def patches(pixels: np.ndarray, patch_size: int, normalization: str) -> np.ndarray:
    """[patches, values] of an image whose sides are multiples of two patches."""
    mean, std = media_cases.NORMALIZATIONS[normalization]
    n_pixels = pixels.shape[0] * pixels.shape[1]
    process = Qwen2VLImageProcessorPil(
        patch_size=patch_size,
        merge_size=2,
        image_mean=list(mean),
        image_std=list(std),
        size={"shortest_edge": n_pixels, "longest_edge": n_pixels},
    )
    values = process(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    return media_cases.in_our_order(values, patch_size)


def main() -> None:
    packages = ("transformers", "torch", "pillow", "numpy")
    data = {"versions": np.array([f"{name} {version(name)}" for name in packages])}
    for name, cases, size in (
        ("image_sizes", media_cases.image_sizes(400), image_size),
        ("video_sizes", media_cases.video_sizes(400), video_size),
    ):
        data[name] = np.array([(*case, *size(*case)) for case in cases], dtype=np.int32)
    data["resized_sha256"] = np.array(
        [
            hashlib.sha256(resized(media_cases.image(*source), *target).tobytes()).hexdigest()
            for source, target in media_cases.RESIZES
        ]
    )
    for name, samples in media_cases.sounds().items():
        data[f"mel/{name}"] = media_cases.thinned(log_mel(samples))
    for name in media_cases.NORMALIZATIONS:
        data[f"patches/{name}"] = patches(media_cases.image(12, 24), 3, name)
    np.savez_compressed(DATA / "media.npz", **data)


if __name__ == "__main__":
    main()
