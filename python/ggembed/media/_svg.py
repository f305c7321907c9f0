"""SVG drawings as PNG, without what may harm: other files, huge canvases, bombs."""

from __future__ import annotations

import math
import multiprocessing.spawn
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from ..errors import MediaError
from . import _sources
from ._limits import MediaLimits

# The renderer draws whatever it is asked for, and ends the process when memory is short. So it runs
# in one of its own, with limits.
_PROGRAM = """
import sys
try:
    import resource
    n_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass  # not on this system
sys.path.insert(0, sys.argv[2])
try:
    import resvg_py
    drawing = sys.stdin.buffer.read().decode()
    # Looking for fonts takes longer than most drawings.
    png = resvg_py.svg_to_bytes(
        svg_string=drawing, background="#ffffff", skip_system_fonts=sys.argv[3] == "0"
    )
    sys.stdout.buffer.write(bytes(png))
except BaseException as err:
    print(err, file=sys.stderr)
    sys.exit(1)
"""
_BASE_BYTES = 256 << 20

# Elements and attributes of a drawing, which take some 200 bytes each before the renderer begins.
# A file of a megabyte could make millions of them out of its entities.
_MAX_ITEMS = 1 << 20
_BYTES_PER_PIXEL = 16

_DEFAULT_SIZE = (300.0, 150.0)  # of CSS, for a drawing that names none

# Pixels in a unit of length.
_UNITS = {
    "": 1.0,
    "px": 1.0,
    "pt": 96 / 72,
    "pc": 16.0,
    "in": 96.0,
    "mm": 96 / 25.4,
    "cm": 96 / 2.54,
    "em": 16.0,
    "ex": 8.0,
}
_LENGTH = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-z]*)\s*")
_ROOT = re.compile(rb"<(?:[\w.-]+:)?svg[\s>/]")


def is_svg(data: bytes) -> bool:
    """Whether a file looks like a drawing."""
    head = data[:65536]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "replace").encode()
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return head[:1] == b"<" and _ROOT.search(head) is not None


def rasterise(data: bytes, limits: MediaLimits, name: str) -> bytes:
    """The drawing on white, as a PNG file."""
    resvg = _sources.decoder("resvg_py", "resvg-py", f"{name} (SVG)")
    with _sources.decoding(name):
        parser = ET.XMLParser(target=_TreeBuilder(name))  # noqa: S314, expat bounds entities
        root: ET.Element = ET.XML(data, parser)
        if _tag(root) != "svg":
            raise MediaError(f"{name}: the root of the drawing is <{_tag(root)}>, not <svg>")
        size = _size(root)
        limits._check_pixels((math.ceil(size[0]), math.ceil(size[1])), name)
        _drop_references(root)
        _set_size(root, size)
        has_text = any(_tag(element) in ("text", "tspan") for element in root.iter())
        args = [str(Path(resvg.__file__).parents[1]), str(int(has_text))]
        return _rendered(ET.tostring(root, "utf-8"), args, limits, name)


class _TreeBuilder(ET.TreeBuilder):
    """Builds the tree of a drawing, which may only be so large."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._n_items = 0

    def start(self, tag: Any, attrs: dict[Any, Any]) -> ET.Element:
        self._n_items += 1 + len(attrs)
        if self._n_items > _MAX_ITEMS:
            raise MediaError(f"{self._name} has more than {_MAX_ITEMS} elements and attributes")
        return super().start(tag, attrs)


def _rendered(drawing: bytes, args: list[str], limits: MediaLimits, name: str) -> bytes:
    """What the renderer makes in a process of its own."""
    n_bytes = _BASE_BYTES + _BYTES_PER_PIXEL * limits.max_image_pixels
    python = os.fsdecode(multiprocessing.spawn.get_executable())
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PROGRAM, str(n_bytes), *args],
            input=drawing,
            capture_output=True,
            timeout=limits.max_svg_seconds,
            check=False,
            env={**os.environ, "RUST_BACKTRACE": "0"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as err:
        raise MediaError(
            f"{name} takes longer to draw than max_svg_seconds, {limits.max_svg_seconds:g} s"
        ) from err
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode == 1 and lines:
        raise MediaError(f"{name} cannot be drawn: {lines[-1]}")
    raise MediaError(
        f"{name} cannot be drawn: the renderer failed, or wanted more than {n_bytes} bytes"
    )


def _tag(element: ET.Element) -> str:
    """Name of an element without its namespace; empty for comments."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _size(root: ET.Element) -> tuple[float, float]:
    """Width and height in pixels: those of the root, else those of its view box."""
    box = _view_box(root)
    width, height = _length(root.get("width")), _length(root.get("height"))
    if width is None and height is None:
        return (box[2], box[3]) if box else _DEFAULT_SIZE
    ratio = box[2] / box[3] if box else _DEFAULT_SIZE[0] / _DEFAULT_SIZE[1]
    if width is None:
        return (height or 0.0) * ratio, height or 0.0
    return width, width / ratio if height is None else height


def _view_box(root: ET.Element) -> list[float] | None:
    numbers = re.split(r"[\s,]+", root.get("viewBox", "").strip())
    try:
        box = [float(number) for number in numbers]
    except ValueError:
        return None
    usable = len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) > 0
    return box if usable else None


def _length(text: str | None) -> float | None:
    """A length in pixels; None if there is none, or one that depends on what is around it."""
    if text is None or text.strip().endswith("%") or text.strip() == "auto":
        return None
    match = _LENGTH.fullmatch(text)
    if not match or match[2] not in _UNITS:
        raise MediaError(f"{text[:40]!r} is no width or height")
    return float(match[1]) * _UNITS[match[2]]


def _set_size(root: ET.Element, size: tuple[float, float]) -> None:
    """Writes the size in whole pixels, so that the renderer makes no other one."""
    if _view_box(root) is None:
        root.set("viewBox", f"0 0 {size[0]!r} {size[1]!r}")
    root.set("width", str(math.ceil(size[0])))
    root.set("height", str(math.ceil(size[1])))


def _drop_references(root: ET.Element) -> None:
    """Removes images that are other files, and drawings in the drawing, which may have some."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _tag(child) not in ("image", "feImage"):
                continue
            uris = [value.strip() for key, value in child.items() if key.endswith("href")]
            mimes = [_sources.mime_of(uri) for uri in uris if not uri.startswith("#")]
            if any(not m.startswith("image/") or m.startswith("image/svg") for m in mimes):
                parent.remove(child)
