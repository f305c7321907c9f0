"""What a media file may cost before it is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import MediaError
from ._numbers import check_count, check_quantity


@dataclass(frozen=True)
class MediaLimits:
    """What a media input may cost; one that is beyond a limit is a `MediaError`.

    Sizes are taken from the headers before anything is decoded, lengths are watched while it is.

    Attributes
    ----------
    max_bytes : int
        Size of a file.
    max_image_pixels : int
        Width times height of an image, of a frame of a video, of a drawing and of a PDF page at
        its dpi. The default is the size at which Pillow begins to warn of decompression bombs;
        decoding takes up to 20 bytes per pixel, 1.8 GB.
    max_svg_seconds : float
        Time to render a drawing, which happens in a process of its own that may take 256 MiB and
        16 bytes per pixel of `max_image_pixels`. It may have 1 048 576 elements and attributes.
    max_video_frames : int
        Frames in a video, which are all decoded before some are chosen. The default is two hours
        at 30 frames per second.
    max_audio_seconds : float
        Length of a sound. One hour has 90 000 tokens, more than any context known today.
    max_pdf_pages : int
        Pages of a PDF that become part of the input, chosen by ``Pdf(pages=...)``.
    """

    max_bytes: int = 2 << 30
    max_image_pixels: int = 89_478_485
    max_svg_seconds: float = 8.0
    max_video_frames: int = 216_000
    max_audio_seconds: float = 3_600.0
    max_pdf_pages: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            check = check_quantity if field.name.endswith("_seconds") else check_count
            check(field.name, getattr(self, field.name))

    def _check_bytes(self, n_bytes: int, name: str) -> None:
        if n_bytes > self.max_bytes:
            raise MediaError(f"{name} has {n_bytes} bytes, max_bytes is {self.max_bytes}")

    def _check_pixels(self, size: tuple[int, int], name: str) -> None:
        width, height = size
        if width <= 0 or height <= 0:
            raise MediaError(f"{name} has no pixels: its size is {width} x {height}")
        if width * height > self.max_image_pixels:
            raise MediaError(
                f"{name} has {width} x {height} = {width * height} pixels, "
                f"max_image_pixels is {self.max_image_pixels}"
            )

    def _check_frames(self, n_frames: int, name: str) -> None:
        if n_frames > self.max_video_frames:
            raise MediaError(
                f"{name} has more than {self.max_video_frames} frames, the limit max_video_frames"
            )

    def _check_seconds(self, seconds: float, name: str) -> None:
        if seconds > self.max_audio_seconds:
            raise MediaError(
                f"{name} lasts longer than {self.max_audio_seconds:g} s, the limit "
                "max_audio_seconds; max_seconds of Audio keeps its beginning"
            )
