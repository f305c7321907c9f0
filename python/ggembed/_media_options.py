"""The options of ``embed`` for media: projectors, how files are read, and what they may cost."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ._embed_inputs import TEXT, InOrder, InputFile, Inputs
from .media import Audio, Image, MediaLimits, Medium, Pdf, Video

_ARTICLES = {"image": "an image", "audio": "a sound", "video": "a video", "pdf": "a PDF"}

# Those of ggembed.media.MediaLimits.
_LIMITS = {
    "max_bytes": "larger files",
    "max_image_pixels": "images, frames and pages with more pixels",
    "max_svg_seconds": "drawings that take longer to render",
    "max_video_frames": "videos with more frames",
    "max_audio_seconds": "longer sound",
    "max_pdf_pages": "PDFs of which more pages are wanted",
}

# Classes of ggembed.media, with what they take beside the path.
_CLASSES: Mapping[str, tuple[Callable[..., Medium], tuple[str, ...]]] = {
    "image": (Image, ("max_pixels",)),
    "audio": (Audio, ("max_seconds",)),
    "video": (Video, ("fps", "max_frames", "max_pixels")),
    "pdf": (Pdf, ("pages", "dpi", "max_pixels")),
}


def add_arguments(media: argparse._ArgumentGroup) -> None:
    """Adds the files that are inputs, and what concerns them."""
    for kind in ("image", "audio", "video", "pdf"):
        media.add_argument(
            f"--{kind}",
            action=InOrder,
            const=kind,
            dest="given",
            default=(),
            metavar="FILE",
            help=f"{_ARTICLES[kind]} file, one input; may be repeated",
        )
    media.add_argument(
        "--text",
        action=InOrder,
        const=TEXT,
        dest="given",
        default=(),
        metavar="TEXT",
        help="a text between files, whose order is kept",
    )
    media.add_argument(
        "--glob",
        action="append",
        default=[],
        metavar="PATTERN",
        help="which files of the folders, such as **/*.png; may be repeated (default: all of known "
        "types, by their suffixes)",
    )
    media.add_argument(
        "--mmproj", action="append", metavar="FILE", help="projector file; may be repeated"
    )
    media.add_argument(
        "--modality",
        choices=("text", "vision", "audio", "omni"),
        help="which projectors to load from beside the model (default: those that the inputs need)",
    )
    media.add_argument(
        "--media-template",
        choices=("bare", "chat"),
        help="what stands around files: nothing, or the model's chat template (default: the "
        "model's)",
    )
    media.add_argument("--dpi", type=number, metavar="N", help="resolution of PDF pages")
    media.add_argument("--pages", type=pages, metavar="LIST", help="pages of PDFs, such as 1-3,7")
    media.add_argument(
        "--fps", type=rate, metavar="N", help="frames per second of videos, or source"
    )
    media.add_argument("--max-frames", type=positive, metavar="N", help="most frames of a video")
    media.add_argument(
        "--max-seconds", type=number, metavar="S", help="cut sound that is longer than that"
    )
    media.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="scale images down to that many for the model",
    )
    for name, what in _LIMITS.items():
        media.add_argument(
            f"--{name.replace('_', '-')}",
            type=number if name.endswith("_seconds") else positive,
            metavar="N",
            help=f"refuse {what}",
        )


def embedder_options(args: argparse.Namespace, inputs: Inputs | None) -> dict[str, Any]:
    """What the Embedder of a run is opened with to take its inputs."""
    modality = args.modality
    if inputs is not None and modality is None and args.mmproj is None:
        modality = inputs.modality()
    limits = {name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None}
    options = {
        "mmproj": args.mmproj,
        "modality": modality,
        "limits": MediaLimits(**limits) if limits else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def encode_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of ``Embedder.encode`` for a run."""
    return {} if args.media_template is None else {"media_template": args.media_template}


def origin(args: argparse.Namespace) -> dict[str, Any]:
    """What the rows of a run depend on."""
    names = (*(field.name for field in fields(Decoding)), *_LIMITS)
    values = {name: getattr(args, name) for name in names}
    return {name: repr(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Decoding:
    """How files are read: what the classes of ``ggembed.media`` take beside the path."""

    fps: float | str | None = None
    max_frames: int | None = None
    max_seconds: float | None = None
    pages: Sequence[int] | slice | None = None
    dpi: float | None = None
    max_pixels: int | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Decoding:
        """The options of a run."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})

    def load(self, file: InputFile) -> str | Medium:
        """What ``Embedder.encode`` takes for a file."""
        if file.kind == TEXT:
            return file.read_text()
        make, names = _CLASSES[file.kind]
        values = {name: getattr(self, name) for name in names}
        return make(file.path, **{name: v for name, v in values.items() if v is not None})


def pages(text: str) -> Sequence[int] | slice:
    """Pages of a PDF, which people count from 1: a range such as 2-5, -5 or 2-, or a list of both.

    A range takes what there is of it; the pages of a list must all be there.

    Examples
    --------
    >>> from ggembed import _media_options
    >>> _media_options.pages("2-5"), _media_options.pages("1,4-6")
    (slice(1, 5, None), (0, 3, 4, 5))
    """
    spans = [_span(part, text) for part in text.split(",")]
    if len(spans) == 1 and "-" in text:
        return slice(spans[0][0] - 1, spans[0][1])
    chosen: list[int] = []
    for first, last in spans:
        if last is None:
            raise argparse.ArgumentTypeError(f"{text!r} has an open range in a list")
        chosen.extend(range(first - 1, last))
    return tuple(chosen)


def _span(part: str, text: str) -> tuple[int, int | None]:
    first, dash, last = part.strip().partition("-")
    try:
        begin = int(first or 1)
        end = begin if not dash else int(last) if last else None
    except ValueError:
        begin = end = 0
    if not part.strip(" -") or begin < 1 or (end is not None and end < begin):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of pages such as 1-3,7")
    return begin, end


def rate(text: str) -> float | str:
    """Frames per second of the command line."""
    return text if text == "source" else number(text)


def number(text: str) -> float:
    """A quantity of the command line."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def positive(text: str) -> int:
    """A count of the command line."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {count}")
    return count
