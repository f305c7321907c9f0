"""Tables of texts: lines, JSON lines, CSV, Parquet and NumPy files, read batch by batch."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ._arrow import pyarrow
from .errors import InvalidInputError
from .stream import BATCH_SIZE, chunked

INPUT_FORMATS = ("lines", "jsonl", "csv", "parquet", "npy")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"} | {
    ".pq": "parquet",
    ".npy": "npy",
}

Record = tuple[Any, tuple[Any, ...]]  # a text, and the values of the kept columns


def format_of(path: str | None, default: str) -> str:
    """The format that the name of a file stands for."""
    return default if path is None else _SUFFIXES.get(Path(path).suffix.lower(), default)


@dataclass(frozen=True)
class Batch:
    """Some consecutive texts of a table, with the columns that are kept beside them.

    Attributes
    ----------
    texts : list or pyarrow array
        Something that is not a str, or null, has no text.
    columns : dict of str to list or pyarrow array
        By name, each as long as `texts`.
    """

    texts: Any
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.texts)

    def after(self, n: int) -> Batch:
        """The batch without its first `n` texts."""
        columns = {name: values[n:] for name, values in self.columns.items()}
        return Batch(self.texts[n:], columns)

    def before(self, n: int) -> Batch:
        """The first `n` texts of the batch."""
        columns = {name: values[:n] for name, values in self.columns.items()}
        return Batch(self.texts[:n], columns)

    def records(self) -> Iterator[tuple[Any, ...]]:
        """Each text with its values, as Python objects."""
        return zip(
            plain(self.texts), *(plain(values) for values in self.columns.values()), strict=True
        )


def plain(values: Any) -> list[Any]:
    """Values of a column as Python objects."""
    listed: list[Any] = values if isinstance(values, list) else values.to_pylist()
    return listed


@dataclass(frozen=True)
class Table:
    """A table that is being read.

    Attributes
    ----------
    columns : tuple of str
        Names of the columns that are kept.
    batches : iterator of Batch
        The rows, in order.
    """

    columns: tuple[str, ...]
    batches: Iterator[Batch]


def read(
    source: BinaryIO | Path,
    form: str,
    *,
    name: str,
    column: str = "text",
    keep: tuple[str, ...] | None = (),
    batch_size: int = BATCH_SIZE,
) -> Table:
    """Reads a table of texts batch by batch.

    Parameters
    ----------
    source : binary stream or Path
        A stream for lines, jsonl and csv, which is read as it comes; a file for parquet and npy.
    form : str
        One of ``INPUT_FORMATS``.
    name : str
        What errors call the source.
    column : str, optional
        The column of texts; what the only column of lines and npy is called.
    keep : tuple of str or None, optional
        Columns to give beside the texts, which may name `column` too; None for all. Those of jsonl
        are the keys of the first record.
    batch_size : int, optional
        Most texts of a batch.

    Returns
    -------
    Table
        Whose batches raise InvalidInputError where the source is not what it should be.

    Examples
    --------
    >>> import io
    >>> from ggembed import tables
    >>> source = io.BytesIO(b'{"id": 1, "text": "a"}')
    >>> list(tables.read(source, "jsonl", name="it", keep=None).batches)
    [Batch(texts=['a'], columns={'id': [1], 'text': ['a']})]
    """
    if isinstance(source, Path):
        reader = _read_parquet if form == "parquet" else _read_npy
        return reader(source, name, column, keep, batch_size)
    if form == "lines":
        records, columns = from_texts(lines(source, name), column, keep, name)
    else:
        rows = _json_rows(source, name) if form == "jsonl" else _csv_rows(source, name)
        records, columns = _select(rows, name, column, keep)
    return Table(columns, batches(records, columns, batch_size))


def from_texts(
    texts: Iterable[str], column: str, keep: tuple[str, ...] | None, name: str
) -> tuple[Iterator[Record], tuple[str, ...]]:
    """Records of a table whose only column is its texts."""
    columns = kept_columns(keep, (column,), name)
    return ((text, (text,) * len(columns)) for text in texts), columns


def batches(
    records: Iterable[Record],
    columns: tuple[str, ...],
    batch_size: int,
    n_chars: Callable[[Any], int] = lambda text: len(text) if isinstance(text, str) else 0,
) -> Iterator[Batch]:
    """Records in batches that are limited in texts and in characters."""
    for chunk in chunked(records, lambda record: n_chars(record[0]), batch_size):
        values = zip(*(record[1] for record in chunk), strict=True)
        yield Batch(
            [record[0] for record in chunk],
            dict(zip(columns, map(list, values), strict=True)),
        )


def lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8 without their ends."""
    for i, line in enumerate(_decoded(stream, name)):
        text = line.removesuffix("\n").removesuffix("\r")
        yield text if i else text.removeprefix("\ufeff")


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        yield _decode(line, number, name)


def _decode(line: bytes, number: int, name: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"line {number} of {name} is not valid UTF-8") from None


def _without_mark(lines_of_text: Iterator[str]) -> Iterator[str]:
    """Lines without a byte order mark, which spreadsheets put at the start of a file."""
    first = next(lines_of_text, None)
    return iter(()) if first is None else chain([first.removeprefix("\ufeff")], lines_of_text)


def kept_columns(
    keep: tuple[str, ...] | None, known: Iterable[str], name: str, column: str | None = None
) -> tuple[str, ...]:
    """Names of the kept columns, once `column` and they are known to be there."""
    names = tuple(known)
    for wanted in (*(() if column is None else (column,)), *(keep or ())):
        if wanted not in names:
            known_names = ", ".join(map(repr, names)) or "no columns"
            raise InvalidInputError(f"{name} has no column {wanted!r}; it has {known_names}")
    return names if keep is None else tuple(dict.fromkeys(keep))


def _select(
    rows: Iterator[tuple[int, dict[str, Any]]],
    name: str,
    column: str,
    keep: tuple[str, ...] | None,
) -> tuple[Iterator[Record], tuple[str, ...]]:
    """Texts and kept values of rows that come as dicts, each with its line."""
    first = next(rows, None)
    if first is None:
        return iter(()), keep or ()
    known = set(first[1])
    columns = kept_columns(keep, first[1], name, column)

    def records() -> Iterator[Record]:
        for line, row in chain([first], rows):
            if keep is None and not known.issuperset(row):
                extra = next(key for key in row if key not in known)
                raise InvalidInputError(
                    f"line {line} of {name} has the column {extra!r}, which the first one lacks; "
                    "name the columns to keep"
                )
            yield row.get(column), tuple(map(row.get, columns))

    return records(), columns


def _json_rows(stream: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_without_mark(lines(stream, name)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise InvalidInputError(f"line {number} of {name} is not JSON: {err}") from None
        if not isinstance(row, dict):
            raise InvalidInputError(
                f"line {number} of {name} is not a JSON object but {type(row).__name__}"
            )
        yield number, row


def _csv_rows(stream: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)  # of the process; the default of 128 KiB is for old machines
    reader = csv.reader(_without_mark(_decoded(stream, name)), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InvalidInputError(f"{name} has two columns of one name: {', '.join(header)}")
        for row in reader:
            if row and len(row) != len(header):
                raise InvalidInputError(
                    f"line {reader.line_num} of {name} has {len(row)} fields, the header "
                    f"has {len(header)}"
                )
            if row:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as err:
        raise InvalidInputError(f"line {reader.line_num} of {name} is not CSV: {err}") from None


def _read_parquet(
    path: Path, name: str, column: str, keep: tuple[str, ...] | None, batch_size: int
) -> Table:
    pa = pyarrow("reading Parquet")
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as err:
        raise InvalidInputError(f"{name} is not a Parquet file: {err}") from None
    schema = file.schema_arrow
    columns = kept_columns(keep, schema.names, name, column)
    held = schema.field(column).type
    if pa.types.is_dictionary(held):
        held = held.value_type
    if held not in (pa.string(), pa.large_string(), pa.string_view()):
        raise InvalidInputError(f"column {column!r} of {name} holds {held}, not strings")

    def batches_of_file() -> Iterator[Batch]:
        wanted = list(dict.fromkeys((column, *columns)))
        with file:
            for batch in file.iter_batches(batch_size, columns=wanted):
                yield Batch(batch.column(column), {key: batch.column(key) for key in columns})

    return Table(columns, batches_of_file())


def _read_npy(
    path: Path, name: str, column: str, keep: tuple[str, ...] | None, batch_size: int
) -> Table:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise InvalidInputError(f"{name} is not a NumPy file of strings: {err}") from None
    if array.dtype.kind != "U" or array.ndim != 1:
        raise InvalidInputError(
            f"{name} holds {array.dtype} of shape {array.shape}, not strings of shape (n,)"
        )
    texts = chain.from_iterable(
        array[start : start + batch_size].tolist() for start in range(0, len(array), batch_size)
    )
    records, columns = from_texts(texts, column, keep, name)
    return Table(columns, batches(records, columns, batch_size))
