"""Images, audio, video and PDF files as inputs: what users hand in, and how it is decoded."""

from __future__ import annotations

from ._inputs import Audio, Image, Medium, Pdf, Video
from ._limits import MediaLimits
from ._parts import Part, parts_of
from ._prepare import prepare

__all__ = [
    "Audio",
    "Image",
    "MediaLimits",
    "Medium",
    "Part",
    "Pdf",
    "Video",
    "parts_of",
    "prepare",
]
