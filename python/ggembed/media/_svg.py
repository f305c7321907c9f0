"""SVG drawings as PNG, without what may harm: files, bombs of references, huge canvases."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from ..errors import MediaError
from . import _sources
from ._limits import MediaLimits

SizeOf = Callable[[bytes], tuple[int, int]]

# Elements after every reference has been followed. The renderer takes some 15 microseconds and
# 1.5 KB for each.
MAX_ELEMENTS = 100_000
_PIXELS_PER_ELEMENT = 1_000
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
_REFERENCE = re.compile(r"(?:url\(\s*[\"']?|^\s*)#([^\s\"')]+)")
_ROOT = re.compile(rb"<(?:[\w.-]+:)?svg[\s>/]")


def is_svg(data: bytes) -> bool:
    """Whether a file looks like a drawing."""
    head = data[:65536]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "replace").encode()
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return head[:1] == b"<" and _ROOT.search(head) is not None


def rasterise(data: bytes, limits: MediaLimits, name: str, size_of: SizeOf) -> bytes:
    """The drawing on white, as a PNG file; size_of: width and height of an image in it."""
    resvg = _sources.decoder("resvg_py", "resvg-py", f"{name} (SVG)")
    with _sources.decoding(name):
        root = ET.fromstring(data)  # noqa: S314, expat limits the expansion of entities
        if _tag(root) != "svg":
            raise MediaError(f"{name}: the root of the drawing is <{_tag(root)}>, not <svg>")
        size = _size(root)
        limits.check_pixels((math.ceil(size[0]), math.ceil(size[1])), name)
        _check_references(root, _embedded_images(root, size_of), name)
        _set_size(root, size)
        has_text = any(_tag(element) in ("text", "tspan") for element in root.iter())
        return _rendered(resvg, ET.tostring(root, "unicode"), has_text)


def _rendered(resvg: Any, drawing: str, has_text: bool) -> bytes:
    try:
        png = resvg.svg_to_bytes(
            svg_string=drawing,
            background="#ffffff",
            skip_system_fonts=not has_text,  # finding them takes longer than most drawings
        )
    except BaseException as err:
        if type(err).__name__ != "PanicException":  # of Rust, which is no Exception
            raise
        raise MediaError(f"the renderer failed: {err}") from err
    return bytes(png)


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
    root.attrib.pop("style", None)


def _embedded_images(root: ET.Element, size_of: SizeOf) -> dict[ET.Element, int]:
    """What each image in the drawing costs. Those that are not within its file are removed."""
    costs = {}
    for parent in list(root.iter()):
        for child in list(parent):
            if _tag(child) not in ("image", "feImage"):
                continue
            uri = next((value for key, value in child.items() if key.endswith("href")), "")
            if uri.startswith("#"):
                continue
            mime = _sources.mime_of(uri.strip())
            if mime.startswith("image/") and mime != "image/svg+xml":
                width, height = size_of(_sources.from_data_uri(uri.strip(), "embedded image")[1])
                costs[child] = width * height // _PIXELS_PER_ELEMENT
            else:
                parent.remove(child)
    return costs


def _check_references(root: ET.Element, images: dict[ET.Element, int], name: str) -> None:
    """Raises if references to references make too many elements of a few."""
    targets = {element.get("id"): element for element in root.iter() if element.get("id")}
    costs: dict[ET.Element, int] = {}

    def cost(element: ET.Element) -> int:
        if element in costs:  # a loop counts as 0, the renderer breaks it
            return costs[element]
        costs[element] = 0
        total = 1 + images.get(element, 0) + sum(map(cost, element))
        for key, value in element.items():
            for target in _REFERENCE.findall(value):
                if target in targets:
                    total += _n_uses(element, key, value) * cost(targets[target])
        costs[element] = min(total, MAX_ELEMENTS + 1)
        return costs[element]

    try:
        n_elements = cost(root)
    except RecursionError as err:
        raise MediaError(f"{name}: its elements are nested too deeply") from err
    if n_elements > MAX_ELEMENTS:
        raise MediaError(
            f"{name} has more than {MAX_ELEMENTS} elements when its references are followed "
            f"({_PIXELS_PER_ELEMENT} pixels of an image count as one)"
        )


def _n_uses(element: ET.Element, key: str, value: str) -> int:
    """How often a reference is drawn: a marker at every corner of a path."""
    if "marker" not in key and "marker" not in value:
        return 1
    return 1 + max(len(element.get("d", "")), len(element.get("points", ""))) // 4
