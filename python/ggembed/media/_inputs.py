"""The public classes of media inputs."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, SupportsIndex

import numpy as np

from ..errors import InvalidInputError
from . import _sources
from ._numbers import check_count, check_quantity


class Medium:
    """Base of the media inputs.

    A medium is only described when it is made; files are opened and decoded by the call that
    embeds it, so that a bad file is an error of that input alone. File objects are the exception:
    they are read at once.
    """

    kind: ClassVar[str]
    source: Any

    def __str__(self) -> str:
        return f"{self.kind} {_sources.describe(self.source)}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _set_source(self, other: str, *accepted: type) -> None:
        """Makes the source a path or bytes, or leaves it if it is of an accepted class."""
        file = _sources.as_file(self.source, self.kind)
        if file is not None:
            object.__setattr__(self, "source", file)
        elif not isinstance(self.source, accepted):
            raise TypeError(
                f"the source of {type(self).__name__} must be a path, bytes, a binary file, a "
                f"data URI{other}, got {type(self.source).__name__}"
            )

    def _check_pixels(self) -> None:
        for name in ("min_pixels", "max_pixels"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)


@dataclass(frozen=True, eq=False, repr=False)
class Image(Medium):
    """A still image.

    Files are JPEG, PNG, GIF (the first frame), WebP, BMP, TIFF, AVIF, HEIC and SVG, told apart by
    their content. All become 8-bit RGB as ``PIL.Image.convert("RGB")`` does it: transparency is
    dropped and an orientation tag of a photograph is not applied, as in the reference
    implementation. Values of 16 bits are divided by 257, floating-point pixels of 0 to 1 are
    multiplied by 255, other ranges are stretched from their least to their greatest value. SVG is
    drawn on white at the size that it names; what it refers to outside of itself is not loaded.

    Parameters
    ----------
    source : path, bytes, binary file, data URI, PIL image, or ndarray
        An array has the shape (height, width), (height, width, 3) or (height, width, 4) and the
        type uint8, or a floating-point type with values from 0 to 1.
    min_pixels, max_pixels : int, optional
        Limits of width times height within which the image is scaled for the model. Default: the
        model's.

    Examples
    --------
    >>> import numpy as np
    >>> Image(np.zeros((2, 3, 3), np.uint8))
    <image of shape (2, 3, 3)>
    """

    kind: ClassVar[str] = "image"
    source: Any
    _: KW_ONLY
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if not _sources.is_pil_image(self.source):
            self._set_source(", a PIL image or an array", np.ndarray)
        self._check_pixels()


@dataclass(frozen=True, eq=False, repr=False)
class Audio(Medium):
    """A sound.

    Files are WAV, MP3, FLAC, Ogg, Opus and M4A, or the sound track of a video file. All become
    one channel, the mean of the channels, at 16 000 samples per second. Samples that are not finite
    count as 0; if one is beyond -1 to 1, all are divided by the largest magnitude.

    Parameters
    ----------
    source : path, bytes, binary file, data URI, or tuple of ndarray and int
        A tuple is samples and their rate: (n_samples,) or (n_samples, n_channels), of a
        floating-point type, or of int16, int32 or uint8, which are divided by their range.
    max_seconds : float, optional
        Keep no more than that of the beginning.

    Examples
    --------
    >>> import numpy as np
    >>> Audio((np.zeros(16000, np.int16), 16000))
    <audio of shape (16000,)>
    """

    kind: ClassVar[str] = "audio"
    source: Any
    _: KW_ONLY
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        self._set_source(" or a tuple (samples, rate)", tuple)
        if self.max_seconds is not None:
            check_quantity("max_seconds", self.max_seconds)


@dataclass(frozen=True, eq=False, repr=False)
class Video(Medium):
    """A video.

    Files are MP4, MOV, AVI, MKV, WebM, FLV and WMV. All frames are decoded; of more than
    `max_frames`, the frames at ``linspace(0, n - 1, max_frames)`` are taken, as in the reference
    implementation. A rotation that a player would apply is not applied.

    Parameters
    ----------
    source : path, bytes, binary file, data URI, ndarray, or sequence of frames
        An array has the shape (n_frames, height, width, 3); a sequence holds arrays or PIL images
        of one size, see `Image`.
    fps : float or "source", optional
        Decides the times of the frames, for models whose input names them. By default the frames
        taken are as if they followed each other at 24 per second, which is what the reference
        implementation comes to. A number: the frames of the source, before some are chosen, have
        that rate. ``"source"``: the times that the file says.
    max_frames : int
        Frames to take.
    audio : bool
        Put the sound track, if there is one, before the video.
    min_pixels, max_pixels : int, optional
        Limits of width times height times frames within which the video is scaled for the model.
        Default: the model's.

    Examples
    --------
    >>> import numpy as np
    >>> Video(np.zeros((4, 2, 3, 3), np.uint8), fps=2)
    <video of shape (4, 2, 3, 3)>
    """

    kind: ClassVar[str] = "video"
    source: Any
    _: KW_ONLY
    fps: float | Literal["source"] | None = None
    max_frames: int = 32
    audio: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        self._set_source(", an array or a sequence of frames", np.ndarray, Sequence)
        if isinstance(self.fps, str):
            if self.fps != "source":
                raise InvalidInputError(f'fps must be a number, "source" or None, got {self.fps!r}')
            if not isinstance(self.source, _sources.File):
                raise InvalidInputError('fps="source" needs a file, which says its times')
        elif self.fps is not None:
            check_quantity("fps", self.fps)
        if self.audio and not isinstance(self.source, _sources.File):
            raise InvalidInputError("audio=True needs a file, frames have no sound track")
        check_count("max_frames", self.max_frames)
        self._check_pixels()


@dataclass(frozen=True, eq=False, repr=False)
class Pdf(Medium):
    """Pages of a PDF, each an image, one after the other in one input.

    Parameters
    ----------
    source : path, bytes, binary file, or data URI
    pages : int, slice, or sequence of int, optional
        Which pages, in that order, counted from 0, or from the end if negative. Default: all.
    dpi : float
        Pixels per inch of the rendering.
    password : str, optional
        Opens an encrypted file.
    min_pixels, max_pixels : int, optional
        As in `Image`, for each page.
    """

    kind: ClassVar[str] = "PDF"
    source: Any
    _: KW_ONLY
    pages: SupportsIndex | slice | Iterable[int] | None = None
    dpi: float = 150
    password: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.pages, slice):
            self.pages.indices(0)  # raises if it is none of int
        elif self.pages is not None:
            pages = self.pages if isinstance(self.pages, Iterable) else [self.pages]
            object.__setattr__(self, "pages", tuple(map(operator.index, pages)))
        if not isinstance(self.password, (str, type(None))):
            raise TypeError(f"password must be a str, got {type(self.password).__name__}")
        self._set_source("")
        check_quantity("dpi", self.dpi)
        self._check_pixels()
