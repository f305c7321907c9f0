"""One input of a call, in any of the forms in which people write it, as a list of parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, MediaError
from . import _sources
from ._inputs import Audio, Image, Pdf, Video

_Class = type[Image] | type[Audio] | type[Video] | type[Pdf]
Part = str | Image | Audio | Video | Pdf

_CLASSES: dict[str, _Class] = {
    "image": Image,
    "audio": Audio,
    "video": Video,
    "pdf": Pdf,
}
# Where the part of a type keeps its content; for media, a key inside of that.
_TYPES = {
    "text": ("text", None),
    "input_text": ("text", None),
    "image_url": ("image_url", "url"),
    "input_image": ("image_url", "url"),
    "audio_url": ("audio_url", "url"),
    "input_audio": ("input_audio", "data"),
    "video_url": ("video_url", "url"),
    "file": ("file", "file_data"),
    "input_file": ("file_data", None),
}
_KNOWN = (
    f'with "type": {", ".join((*_TYPES, *_CLASSES))}; {{"content": [...]}}; '
    f"or with the keys text, {', '.join(_CLASSES)}"
)


def parts_of(value: object, *, auto: bool = False) -> list[Part]:
    """The parts of one input, in the order in which the model is to see them.

    Parameters
    ----------
    value : str, os.PathLike, Image, Audio, Video, Pdf, PIL image, dict, list or tuple
        A str is text. A path becomes what its suffix stands for. A dict is a content part as
        OpenAI (``{"type": "image_url", "image_url": {"url": "data:..."}}``), Elastic
        (``{"type": "image", "format": "base64", "value": "..."}``) and Jina
        (``{"image": "..."}``) write it, or a message, whose ``"content"`` holds parts. Strings in
        it are data URIs or base64, never paths or URLs: content parts often come from strangers.
        A list or tuple is one fused input.
    auto : bool
        A str that is a data URI of a medium, or the path of an existing file whose suffix is
        known, becomes that medium.

    Raises
    ------
    InvalidInputError
        There is no part, or a dict of an unknown form.
    MediaError
        A medium that is not valid base64, or would have to be fetched.
    TypeError
        A value of another type.

    Examples
    --------
    >>> parts_of(["a ", {"type": "text", "text": "cat"}])
    ['a ', 'cat']
    """
    try:
        parts = _parts(value, auto)
    except RecursionError:
        raise InvalidInputError("an input is nested too deeply, or part of itself") from None
    if not parts:
        raise InvalidInputError("an input needs at least one part, got an empty list")
    return parts


def _parts(value: object, auto: bool) -> list[Part]:
    if isinstance(value, str):
        return [_auto(value) if auto else value]
    if isinstance(value, (Image, Audio, Video, Pdf)):
        return [value]
    if isinstance(value, os.PathLike):
        return [_from_path(Path(os.fsdecode(value)))]
    if isinstance(value, Mapping):
        return _from_dict(value, auto)
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in _parts(item, auto)]
    if _sources.is_pil_image(value):
        return [Image(value)]
    raise TypeError(
        "an input must be a str, a path, an Image, Audio, Video or Pdf, a content part or a list "
        f"of those, got {type(value).__name__}; arrays and bytes go into Image(...), Audio(...), "
        "Video(...) or Pdf(...)"
    )


def _auto(text: str) -> Part:
    medium = _class_of_mime(_sources.mime_of(text))
    if medium:
        return medium(text)
    if _sources.kind_of_suffix(text) and _is_file(text):
        return _from_path(Path(text))
    return text


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _from_path(path: Path) -> Part:
    kind = _sources.kind_of_suffix(path)
    if kind is None:
        known = " ".join(suffix for suffixes in _sources.SUFFIXES.values() for suffix in suffixes)
        raise MediaError(
            f"file {_sources.shown(path)}: the suffix {path.suffix!r} says no kind of medium; "
            f"known are {known}; Image(...), Audio(...), Video(...) or Pdf(...) says it"
        )
    return _CLASSES[kind.lower()](path)


def _class_of_mime(mime: str) -> _Class | None:
    return Pdf if mime == "application/pdf" else _CLASSES.get(mime.split("/")[0])


def _from_dict(part: Mapping[Any, Any], auto: bool) -> list[Part]:
    try:
        return _from_keys(part, auto)
    except TypeError as err:  # what strangers write is no mistake of the program
        raise InvalidInputError(str(err)) from err


def _from_keys(part: Mapping[Any, Any], auto: bool) -> list[Part]:
    if "type" in part:
        return [_from_typed(part)]
    if "content" in part:
        return _parts(part["content"], auto)
    kinds = [key for key in part if key == "text" or key in _CLASSES]
    if not kinds:
        raise InvalidInputError(
            f"unknown content part with the keys {sorted(map(str, part))}; known are dicts {_KNOWN}"
        )
    return [_of_kind(key, part[key], f'content part "{key}"') for key in kinds]


def _from_typed(part: Mapping[Any, Any]) -> Part:
    kind = part["type"]
    if not isinstance(kind, str):
        raise InvalidInputError(f'the "type" of a content part must be a str, got {kind!r}')
    what = f'content part "{kind}"'
    if kind in _CLASSES or (kind == "text" and "text" not in part):
        key = next((key for key in ("value", kind, "data") if key in part), "value")
        return _of_kind(kind, _get(part, key, what), what)
    if kind not in _TYPES:
        raise InvalidInputError(f"unknown content part of type {kind!r}; known are dicts {_KNOWN}")
    key, inner = _TYPES[kind]
    content = _get(part, key, what)
    name = part.get("filename")
    if inner and isinstance(content, Mapping):
        name = content.get("filename")
        content = _get(content, inner, what)
    if kind in ("file", "input_file"):
        return _from_upload(content, name, what)
    return _of_kind(kind.removeprefix("input_").removesuffix("_url"), content, what)


def _get(part: Mapping[Any, Any], key: str, what: str) -> Any:
    if key not in part:
        raise InvalidInputError(f'{what} has no key "{key}", but {sorted(map(str, part))}')
    return part[key]


def _of_kind(kind: str, content: Any, what: str) -> Part:
    if kind == "text":
        if not isinstance(content, str):
            raise TypeError(f"{what}: text must be a str, got {type(content).__name__}")
        return content
    if isinstance(content, _CLASSES[kind]):
        return content
    return _CLASSES[kind](_decoded(content, what)[1])


def _decoded(content: Any, what: str) -> tuple[str, Any]:
    """MIME type, if it is said, and the content of a data URI or of plain base64."""
    if not isinstance(content, str):
        return "", content
    if _sources.is_data_uri(content):
        return _sources.from_data_uri(content, what)
    _sources.refuse_url(content, what)
    try:
        return "", _sources.from_base64(content, what)
    except MediaError as err:
        if not _sources.kind_of_suffix(content):
            raise
        raise MediaError(
            f"{what} takes data URIs and base64, no paths such as {content[:80]!r}: use a path "
            "object, Image(...), Audio(...), Video(...) or Pdf(...)"
        ) from err


def _from_upload(content: Any, name: Any, what: str) -> Part:
    """A part whose kind its MIME type or its file name says."""
    mime, data = _decoded(content, what)
    kind = _sources.kind_of_suffix(name) if isinstance(name, str) else None
    medium = _class_of_mime(mime) or _CLASSES.get((kind or "").lower())
    if medium is None:
        raise MediaError(
            f"{what}: neither its MIME type {mime!r} nor its filename {name!r} says a known kind "
            "of medium"
        )
    return medium(data)
