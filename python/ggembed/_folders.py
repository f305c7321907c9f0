"""Folders of files: a walk whose order is always the same, and patterns for what it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import InvalidInputError

# A set of characters, or any one character.
_GLOB_PARTS = re.compile(r"\[!?\]?[^]]*\]|.", re.DOTALL)


def walk(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[str]:
    """Files of a folder and of those in it, by their paths from there, with slashes between.

    Names are sorted within each folder. Those that begin with a dot are skipped, and so is a folder
    that was entered before, by another link. No more is in memory than the names of the folders
    that lie on the way.

    Parameters
    ----------
    folder : Path
        Where to begin.
    on_error : callable
        Takes what keeps a folder, or what something in it is, from being read; what it raises ends
        the walk.
    """
    entered: set[tuple[int, int]] = set()
    open_folders = [iter(_names(folder, "", entered, on_error))]
    while open_folders:
        relative = next(open_folders[-1], None)
        if relative is None:
            open_folders.pop()
            continue
        path = folder / relative
        try:
            is_folder = path.is_dir()
        except OSError as err:
            on_error(err)
            continue
        if is_folder:
            open_folders.append(iter(_names(path, f"{relative}/", entered, on_error)))
        else:  # or a link to nowhere, which whoever opens it finds out
            yield relative


def _names(
    folder: Path, prefix: str, entered: set[tuple[int, int]], on_error: Callable[[OSError], None]
) -> list[str]:
    """What a folder holds that is not hidden; nothing the second time."""
    try:
        found = folder.stat()
        if (found.st_dev, found.st_ino) in entered:
            return []
        entered.add((found.st_dev, found.st_ino))
        names = sorted(path.name for path in folder.iterdir())
        return [prefix + name for name in names if not name.startswith(".")]
    except OSError as err:
        on_error(err)
        return []


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path matches one of some patterns.

    ``*`` and ``?`` stand for characters of one name, ``[a-z]`` and ``[!a-z]`` for one that is in a
    set or not, and ``**`` for any number of folders.

    Examples
    --------
    >>> from ggembed import _folders
    >>> list(map(_folders.matcher(["**/*.png"]), ["a.png", "b/c/a.png", "a.jpg"]))
    [True, True, False]
    """
    compiled = [_compiled(pattern) for pattern in patterns]
    return lambda path: any(pattern.fullmatch(path) for pattern in compiled)


def _compiled(pattern: str) -> re.Pattern[str]:
    *folders, name = pattern.removeprefix("./").split("/")
    parts = [r"(?:[^/]+/)*" if part == "**" else _one_name(part) + "/" for part in folders]
    parts.append(r"(?:[^/]+/)*[^/]+" if name == "**" else _one_name(name))
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as err:
        raise InvalidInputError(f"{pattern!r} is not a pattern: {err}") from None


def _one_name(pattern: str) -> str:
    return "".join(map(_expression, _GLOB_PARTS.findall(pattern)))


def _expression(part: str) -> str:
    if part in ("*", "?"):
        return "[^/]*" if part == "*" else "[^/]"
    if len(part) == 1:
        return re.escape(part)
    negated = part.startswith("[!")
    members = part[2:-1] if negated else part[1:-1]
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    return f"(?!/)[{'^' if negated else ''}{members}]"
