"""What ``embed`` is given on the command line: texts, media files, and folders of files."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from . import _folders, tables
from .errors import InvalidInputError
from .media._sources import kind_of_suffix
from .tables import Record, Table

TEXT, FOLDER = "text", "folder"

# What an input counts against the characters of a batch, by how long it takes: rows are written
# batch by batch, and those that are not are lost when a run is killed. 128 images are a batch.
_WEIGHTS = {"image": 1 << 13, "audio": 1 << 13, "video": 1 << 16, "pdf": 1 << 16, TEXT: 1 << 11}

# What a model must see or hear.
_SENSES = {"image": "vision", "video": "vision", "pdf": "vision", "audio": "audio"}


class Given(NamedTuple):
    """An argument that stands for an input, or for a folder of them."""

    kind: str
    value: str


@dataclass(frozen=True)
class InputFile:
    """A file that is one input. Two are equal if the file is the same and has not changed."""

    kind: str
    path: str
    n_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: str, kind: str) -> InputFile:
        """The file of a path, which need not be there."""
        try:
            found = Path(path).stat()
        except OSError:
            return cls(kind, path, -1, 0)
        return cls(kind, path, found.st_size, found.st_mtime_ns)

    def read_text(self) -> str:
        """The text of a text file, without the line ends behind it."""
        path = Path(self.path)
        if path.is_fifo():  # it may never end
            raise InvalidInputError(f"{self.path} is not a regular file")
        try:
            return path.read_text("utf-8-sig").rstrip("\n")
        except UnicodeDecodeError as err:
            raise InvalidInputError(f"{self.path} is not valid UTF-8 at byte {err.start}") from None
        except OSError as err:
            raise InvalidInputError(f"cannot read {self.path}: {err.strerror}") from err


class InOrder(argparse.Action):
    """Collects the arguments of several options, each with its kind, as they come."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        several = [values] if isinstance(values, str) else values
        given = [Given(self.const, value) for value in several]
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *given))


def as_folders(
    given: Iterable[Given], *, all_texts: bool, say: Callable[[str], None]
) -> tuple[Given, ...]:
    """Arguments with texts that name folders taken as these.

    A word can be a text and the name of a folder, so only what looks like a path is one, which is
    said; or `all_texts` are.
    """
    taken = tuple(
        Given(FOLDER, value)
        if kind == TEXT and _means_folder(value, all_texts, say)
        else Given(kind, value)
        for kind, value in given
    )
    files = [value for kind, value in taken if kind == TEXT and _is_medium(value)]
    if files:
        others = f" (and {len(files) - 1} like it)" if len(files) > 1 else ""
        option = f"--{kind_of(files[0])} {files[0]}"
        say(f"warning: {files[0]} is taken as a text{others}; {option} would be the file")
    return taken


def _is_medium(text: str) -> bool:
    """Whether a text is the path of a file that can be embedded."""
    try:
        return kind_of(text) not in (None, TEXT) and Path(text).is_file()
    except (OSError, ValueError):
        return False


def _means_folder(text: str, surely: bool, say: Callable[[str], None]) -> bool:
    try:
        is_folder = text != "" and Path(text).is_dir()
    except (OSError, ValueError):  # a text that is no path, or too long for one
        is_folder = False
    if surely and not is_folder:
        raise InvalidInputError(f"{text!r} is not a folder")
    if not is_folder or surely or text in (".", "..") or "/" in text or os.sep in text:
        return is_folder
    say(f"warning: {text} is taken as a text; {text}/ would be the folder")
    return False


class Inputs:
    """The inputs of a run, one after the other.

    Parameters
    ----------
    given : sequence of Given
        The arguments.
    patterns : sequence of str, optional
        Which files of folders to take, see ``_folders.matcher``; by default all.
    on_error : callable
        Takes what keeps a folder from being read.
    say : callable
        Takes what is to be said of files that are no inputs.
    """

    def __init__(
        self,
        given: Sequence[Given],
        patterns: Sequence[str] = (),
        *,
        on_error: Callable[[OSError], None],
        say: Callable[[str], None],
    ) -> None:
        self._given = given
        self._matches = _folders.matcher(patterns or ["**"])
        self._on_error = on_error
        self._say = say

    def main_columns(self, column: str) -> tuple[str, ...]:
        """What tells rows apart: the paths, and the texts if there are any."""
        return ("path", column) if any(one.kind == TEXT for one in self._given) else ("path",)

    def table(self, column: str, keep: tuple[str, ...] | None, batch_size: int) -> Table:
        """The inputs as a table with the columns path, kind, and `column` for texts.

        The inputs are str and InputFile; `keep` is as in ``tables.read``.
        """
        columns = tables.kept_columns(keep, ("path", "kind", column), "the command line")
        return Table(columns, tables.batches(self._records(columns), columns, batch_size, _weight))

    def modality(self) -> str:
        """What a model must take: "text", "vision", "audio" or "omni". May look into folders."""
        senses = {_SENSES[one.kind] for one in self._given if one.kind in _SENSES}
        for folder in (one.value for one in self._given if one.kind == FOLDER):
            for path in self._paths(folder, lambda _: None):
                if len(senses) == 2:
                    return "omni"
                kind = kind_of(path)
                if kind in _SENSES:
                    senses.add(_SENSES[kind])
        return "omni" if len(senses) == 2 else next(iter(senses), "text")

    def _records(self, columns: tuple[str, ...]) -> Iterator[Record]:
        for item in self._items():
            path, kind = (item.path, item.kind) if isinstance(item, InputFile) else (None, TEXT)
            text = None if isinstance(item, InputFile) else item
            yield item, tuple({"path": path, "kind": kind}.get(name, text) for name in columns)

    def _items(self) -> Iterator[str | InputFile]:
        for kind, value in self._given:
            if kind == FOLDER:
                yield from self._files(value)
            else:
                yield value if kind == TEXT else InputFile.at(value, kind)

    def _files(self, folder: str) -> Iterator[InputFile]:
        others: Counter[str] = Counter()
        n_files = 0
        for path in self._paths(folder, self._on_error):
            kind = kind_of(path)
            if kind is None:
                others[Path(path).suffix.lower() or "none"] += 1
            else:
                n_files += 1
                yield InputFile.at(str(Path(folder, path)), kind)
        if others:
            listed = ", ".join(f"{suffix} {n}" for suffix, n in others.most_common(5))
            more = "" if len(others) <= 5 else ", ..."
            self._say(
                f"warning: files of no known type in {folder}, which have no row: "
                f"{others.total()} ({listed}{more})"
            )
        if not n_files:
            self._say(f"warning: {folder} has no files that can be embedded")

    def _paths(self, folder: str, on_error: Callable[[OSError], None]) -> Iterator[str]:
        return filter(self._matches, _folders.walk(Path(folder), on_error))


def kind_of(path: str) -> str | None:
    """What a file is, by its name.

    Examples
    --------
    >>> from ggembed import _embed_inputs
    >>> _embed_inputs.kind_of("a/b.PNG"), _embed_inputs.kind_of("b.docx")
    ('image', None)
    """
    if path.lower().endswith(".txt"):
        return TEXT
    kind = kind_of_suffix(path)
    return None if kind is None else kind.lower()


def _weight(item: str | InputFile) -> int:
    return len(item) if isinstance(item, str) else _WEIGHTS[item.kind]
