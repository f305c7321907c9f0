"""Decodes media and hands pixels and samples to the native library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import InvalidInputError, MediaError
from . import _av, _images, _pdf, _sound, _sources
from ._inputs import Audio, Image, Medium, Pdf, Video
from ._limits import MediaLimits

_DEFAULT_LIMITS = MediaLimits()


def prepare(
    medium: Medium, model: _native.Model, limits: MediaLimits = _DEFAULT_LIMITS
) -> list[_native.Media]:
    """Decodes a medium and brings it to the size that the model's tower wants.

    Any thread may do it. The decoders mostly release the interpreter lock.

    Parameters
    ----------
    medium : Image, Audio, Video or Pdf
    model : _native.Model
        Loaded with a tower for the kind of medium.
    limits : MediaLimits

    Returns
    -------
    list of _native.Media
        One, but for a PDF one per page, and for a video with its sound track that and the video.

    Raises
    ------
    MediaError
        It cannot be decoded, or is beyond a limit.
    MissingDecoderError
        A package of the extra ``media`` is not installed.
    UnsupportedError
        The model has no tower for it.
    OutOfMemoryError
        There is too little memory to decode it.
    """
    if isinstance(medium, Image):
        pixels = _images.decode_image(medium.source, limits, str(medium))
        return [_image(medium, model, pixels)]
    if isinstance(medium, Pdf):
        return [_image(medium, model, pixels) for pixels in _pages(medium, limits)]
    if isinstance(medium, Audio):
        return [_audio(medium, model, _samples(medium, limits))]
    if isinstance(medium, Video):
        return _video_parts(medium, model, limits)
    raise TypeError(f"expected an Image, Audio, Video or Pdf, got {type(medium).__name__}")


def _made(medium: Medium, make: Callable[[], _native.Media]) -> _native.Media:
    """What the native library makes of decoded media; its errors name the input."""
    try:
        return make()
    except MediaError:
        raise
    except InvalidInputError as err:
        raise MediaError(f"{medium}: {err}") from err


def _sizes(medium: Image | Pdf | Video) -> dict[str, int]:
    return {"min_pixels": medium.min_pixels or 0, "max_pixels": medium.max_pixels or 0}


def _image(medium: Image | Pdf, model: _native.Model, pixels: _images.Pixels) -> _native.Media:
    return _made(medium, lambda: _native.Media.image(model, pixels, **_sizes(medium)))


def _audio(medium: Medium, model: _native.Model, samples: _sound.Samples) -> _native.Media:
    return _made(medium, lambda: _native.Media.audio(model, samples))


def _pages(medium: Pdf, limits: MediaLimits) -> Iterable[_images.Pixels]:
    return _pdf.decode_pdf(
        medium.source,
        limits,
        str(medium),
        pages=cast("slice | tuple[int, ...] | None", medium.pages),
        dpi=medium.dpi,
        password=medium.password,
    )


def _samples(medium: Audio, limits: MediaLimits) -> _sound.Samples:
    name = str(medium)
    if not isinstance(medium.source, _sources.File):
        return _sound.decode_samples(medium.source, limits, name, medium.max_seconds)
    samples = _av.decode_audio(medium.source, limits, name, medium.max_seconds)
    if samples is None:
        raise MediaError(f"{name} has no sound track")
    return samples


def _video_parts(medium: Video, model: _native.Model, limits: MediaLimits) -> list[_native.Media]:
    if not isinstance(medium.source, _sources.File):
        return [_frames_given(medium, model, limits)]
    parts = [_frames_decoded(medium, model, limits)]
    if medium.audio:
        samples = _av.decode_audio(medium.source, limits, str(medium))
        if samples is not None:
            parts.insert(0, _audio(medium, model, samples))
    return parts


def chosen(n_frames: int, max_frames: int) -> list[int]:
    """Indices of the frames that are taken of n_frames, evenly spaced with both ends."""
    if n_frames <= max_frames:
        return list(range(n_frames))
    return [int(i) for i in np.linspace(0, n_frames - 1, max_frames)]


def _video(
    medium: Video,
    model: _native.Model,
    frames: Iterable[_images.Pixels],
    indices: list[int],
    size: tuple[int, int],
    times: npt.NDArray[np.float64] | None = None,
) -> _native.Media:
    """A video of the frames that were taken; times: in seconds, of all frames."""
    seconds = None if times is None else np.ascontiguousarray(times[indices])
    if medium.fps is not None and medium.fps != "source":
        seconds = np.array(indices, np.float64) / float(medium.fps)
    return _made(
        medium,
        lambda: _native.Media.video(model, frames, len(indices), size, seconds, **_sizes(medium)),
    )


def _frames_decoded(medium: Video, model: _native.Model, limits: MediaLimits) -> _native.Media:
    """A video from a file.

    How many frames there are is only known after all were decoded. So the first attempt is made
    with the number of packets, which is nearly always that of frames.
    """
    file = _av.VideoFile(medium.source, limits, str(medium))
    times = file.times() if medium.fps == "source" else None
    for _ in range(3):
        n_frames = file.n_frames
        indices = chosen(n_frames, medium.max_frames)
        media = _video(medium, model, file.frames(indices), indices, file.size, times)
        if file.n_frames == n_frames:
            return media
    raise MediaError(f"{medium} has another number of frames whenever it is decoded")


def _frames_given(medium: Video, model: _native.Model, limits: MediaLimits) -> _native.Media:
    """A video from arrays or images."""
    source, name = medium.source, str(medium)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise MediaError(f"{name}: expected (n_frames, height, width, 3)")
    if len(source) == 0:
        raise MediaError(f"{name} has no frames")
    limits._check_frames(len(source), name)

    def frame(i: int) -> _images.Pixels:
        _sources.checkpoint.get()()
        with _sources.decoding(f"{name}, frame {i}"):  # it may be read only now
            item = source[i]
        if not isinstance(item, np.ndarray) and not _sources.is_pil_image(item):
            raise MediaError(
                f"{name}: frame {i} must be an array or a PIL image, got {type(item).__name__}"
            )
        return _images.decode_image(item, limits, f"{name}, frame {i}")

    first = frame(0)

    def same_size(pixels: _images.Pixels, i: int) -> _images.Pixels:
        if pixels.shape != first.shape:
            raise MediaError(
                f"{name}: frame {i} has the shape {pixels.shape}, frame 0 {first.shape}"
            )
        return pixels

    indices = chosen(len(source), medium.max_frames)
    frames = (same_size(frame(i), i) for i in indices)
    return _video(medium, model, frames, indices, (first.shape[1], first.shape[0]))
