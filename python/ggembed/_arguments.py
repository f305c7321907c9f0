"""The arguments of an Embedder in a form that makes the same one in another process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from . import hub
from . import mmproj as mmproj_files
from ._calls import integer
from ._hub_names import Modality

_UNITS = {"B": 1}
for _k, _letter in enumerate("KMGT", 1):
    _UNITS[f"{_letter}B"], _UNITS[f"{_letter}iB"] = 1000**_k, 1024**_k
_MOST_BYTES = 2**63 - 1

# Callables belong to this process, and a secret to its owner.
_LEFT_OUT = ("self", "progress")


class File(NamedTuple):
    """A file of a model: where it is, and a name for it that holds in other processes too."""

    path: str
    name: str


def find(file: str | os.PathLike[str]) -> File:
    """A file, fetched from the Hub if its name says so."""
    path = os.fspath(file)
    if isinstance(file, str) and path.startswith(hub.PREFIX):
        files = hub.resolve(path)
        return File(str(files.model), hub.pinned(path, files.revision))
    return File(path, absolute(path))


def find_with_projectors(path: str, modality: Modality) -> tuple[File, list[str]]:
    """A model and the projectors that it needs for a modality, fetched if its name says so."""
    if path.startswith(hub.PREFIX):
        files = hub.resolve(path, modality=modality)
        model = File(str(files.model), hub.pinned(path, files.revision))
        return model, list(map(str, files.mmproj))
    return File(path, absolute(path)), mmproj_files.beside(path, modality)


def device_names(device: str | Sequence[str]) -> str:
    """Devices as the library takes them."""
    names = [device] if isinstance(device, str) or not isinstance(device, Iterable) else [*device]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"device must be a str or a sequence of them, got {device!r}")
    if not all(name.strip() for name in names) or not names:
        raise ValueError(f"device must name a device, got {device!r}")
    return ",".join(names)


def n_bytes(what: str, size: int | str | None) -> int:
    """Bytes of an option whose default is 0: a number, or one with its unit, such as "2GiB"."""
    if size is None:
        return 0
    if not isinstance(size, str):
        return integer(what, size, 1, _MOST_BYTES)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
    units = {"": 1, **{unit.lower(): factor for unit, factor in _UNITS.items()}}
    if match is None or match[2].lower() not in units:
        known = ", ".join(_UNITS)
        raise ValueError(f"{what} must be a number of bytes, or one with {known}, got {size!r}")
    return integer(what, int(Fraction(match[1]) * units[match[2].lower()]), 1, _MOST_BYTES)


def absolute(path: str) -> str:
    """A path that does not depend on the current folder."""
    return str(Path(path).absolute())


def portable(
    given: Mapping[str, Any],
    model: File | None,
    adapters: Mapping[str, File],
    mmproj: list[str] | None,
    projection: npt.NDArray[Any] | None,
) -> dict[str, Any]:
    """Arguments as they were given, with files by names that hold elsewhere.

    `projection` is the matrix that was given, if it was not a file.
    """
    kept = {name: value for name, value in given.items() if name not in _LEFT_OUT}
    kept["model"] = None if model is None else model.name
    kept["adapters"] = {name: file.name for name, file in adapters.items()}
    kept["mmproj"] = None if mmproj is None else list(map(absolute, mmproj))
    if isinstance(given["projection"], (str, os.PathLike)):
        kept["projection"] = absolute(os.fspath(given["projection"]))
    else:
        kept["projection"] = projection
    if given["prompts"] is not None:
        kept["prompts"] = dict(given["prompts"])
    return kept


def remake(make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What unpickling calls."""
    return make(**arguments)
