"""Tables of rows: JSON lines, CSV, NumPy and Parquet files, written batch by batch.

A writer appends to a stage, which may be cut back to the end of any batch. That of JSON lines, CSV
and NumPy becomes the file. A Parquet file ends with an index of all that is in it, so its stage is
a sequence of Arrow streams instead, one for each batch, and the file is written from it at the end.
"""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from itertools import repeat
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrow import pyarrow, to_arrow
from .errors import InvalidInputError
from .tables import Batch, plain

Rows = npt.NDArray[Any]


class Part(NamedTuple):
    """A batch with its rows, of which those in `failed` have no values."""

    batch: Batch
    rows: Rows
    failed: Collection[int] = ()


EMBEDDING = "embedding"  # the column of rows
_NPY_HEADER_BYTES = 128  # room for the number of rows, which is known at the end
_ROW_GROUP = 8192  # rows of a Parquet row group, so that 1024 floats each make 32 MiB


class Writer:
    """Writes rows beside the kept columns of a table.

    Parameters
    ----------
    columns : tuple of str
        Names of the kept columns.
    empty : ndarray
        No rows, (0, width), of the type that will come.
    may_fail : bool, optional
        Whether there may be rows without values.
    """

    streams = True  # what is appended can go down a pipe at once
    converts = False  # the stage is not the file yet
    only_rows = False  # kept columns need a file of their own

    def __init__(self, columns: tuple[str, ...], empty: Rows, *, may_fail: bool = False) -> None:
        if EMBEDDING in columns:
            raise InvalidInputError(
                f"the input has a column {EMBEDDING!r} already, which is what rows are called: "
                "name the columns to keep"
            )
        self.columns = columns
        self.empty = empty
        self.may_fail = may_fail

    def begin(self, stage: BinaryIO) -> None:
        """Writes what comes before the first row."""

    def resume(self, stage: BinaryIO) -> None:
        """Reads what it needs of a stage that has rows."""

    def write(self, stage: BinaryIO, part: Part) -> None:
        """Appends the rows of a batch."""
        raise NotImplementedError

    def finish(self, stage: BinaryIO, n_rows: int) -> None:
        """Completes a stage that has all rows."""

    def convert(self, stage: BinaryIO, sink: BinaryIO) -> None:
        """Writes the file from its stage, read from the start."""
        shutil.copyfileobj(stage, sink)


class JsonlWriter(Writer):
    """One JSON object per row; null where a row failed."""

    def write(self, stage: BinaryIO, part: Part) -> None:
        fields = _fields(part.batch)
        for i, (kept, numbers) in enumerate(zip(fields, _numbers(part), strict=True)):
            values = "null" if i in part.failed else f"[{numbers}]"
            stage.write(_json_line([*kept, f'"{EMBEDDING}": {values}']))


class CsvWriter(Writer):
    """Bare numbers; with kept columns these first, and then a header."""

    def begin(self, stage: BinaryIO) -> None:
        if self.columns:
            numbered = [f"{EMBEDDING}_{i}" for i in range(self.empty.shape[1])]
            stage.write(_csv([[*self.columns, *numbered]]))

    def write(self, stage: BinaryIO, part: Part) -> None:
        cells = (
            [*map(_cell, record, self.columns), *numbers.split(",")]
            for record, numbers in zip(_kept(part.batch), _numbers(part), strict=True)
        )
        stage.write(_csv(cells))


class NpyWriter(Writer):
    """One array of rows, without other columns."""

    streams = False
    only_rows = True

    def begin(self, stage: BinaryIO) -> None:
        stage.write(bytes(_NPY_HEADER_BYTES))  # no header: nobody can read an unfinished file

    def write(self, stage: BinaryIO, part: Part) -> None:
        stage.write(np.ascontiguousarray(part.rows).data)

    def finish(self, stage: BinaryIO, n_rows: int) -> None:
        fields = {
            "descr": np.lib.format.dtype_to_descr(self.empty.dtype),
            "fortran_order": False,
            "shape": (n_rows, self.empty.shape[1]),
        }
        # Format 1.0: magic, version, length of the rest, which ends with a newline.
        n_text = _NPY_HEADER_BYTES - 10
        head = b"\x93NUMPY\x01\x00" + n_text.to_bytes(2, "little")
        stage.seek(0)
        stage.write(head + f"{fields!r:<{n_text - 1}}\n".encode())


class ParquetWriter(Writer):
    """Kept columns of the types of the first batch, and rows as lists.

    They are of fixed size, unless rows may fail: before version 23, pyarrow could neither write nor
    read such lists that are null.
    """

    streams = False
    converts = True

    def __init__(self, columns: tuple[str, ...], empty: Rows, *, may_fail: bool = False) -> None:
        super().__init__(columns, empty, may_fail=may_fail)
        self._pa = pyarrow("writing Parquet")
        self._schema: Any = None

    def resume(self, stage: BinaryIO) -> None:
        stage.seek(0)
        self._schema = self._pa.ipc.open_stream(stage).schema

    def write(self, stage: BinaryIO, part: Part) -> None:
        table = self._table(part)
        buffer = self._pa.BufferOutputStream()
        with self._pa.ipc.new_stream(buffer, table.schema) as stream:
            stream.write_table(table)
        stage.write(buffer.getvalue())

    def convert(self, stage: BinaryIO, sink: BinaryIO) -> None:
        import pyarrow.parquet as pq

        nothing = Batch([], {name: [] for name in self.columns})
        group = [self._table(Part(nothing, self.empty))]
        options = {"use_dictionary": list(self.columns)}  # rows do not repeat
        with pq.ParquetWriter(sink, group[0].schema, **options) as file:
            for table in self._staged(stage):
                group.append(table)
                if sum(map(len, group)) >= _ROW_GROUP:
                    file.write_table(self._pa.concat_tables(group))
                    group = []
            if group:
                file.write_table(self._pa.concat_tables(group))

    def _table(self, part: Part) -> Any:
        pa = self._pa
        arrays = [self._array(name, values) for name, values in part.batch.columns.items()]
        arrays.append(self._lists(part) if self.may_fail else to_arrow(part.rows))
        if self._schema is None:
            # A column of nulls tells nothing about its type; what comes later is most often text.
            types = [pa.string() if pa.types.is_null(a.type) else a.type for a in arrays]
            self._schema = pa.schema(list(zip((*self.columns, EMBEDDING), types, strict=True)))
            arrays = [array.cast(t) for array, t in zip(arrays, types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _lists(self, part: Part) -> Any:
        """Rows as lists of any size, those that failed as null ones."""
        good = np.ones(len(part.rows), np.bool_)
        good[list(part.failed)] = False
        bounds = np.zeros(len(good) + 1, np.int32)
        np.cumsum(good * part.rows.shape[1], out=bounds[1:])
        values = self._pa.array(part.rows[good].reshape(-1))
        return self._pa.ListArray.from_arrays(bounds, values, mask=self._pa.array(~good))

    def _array(self, name: str, values: Any) -> Any:
        if not isinstance(values, list):
            return values
        held = None if self._schema is None else self._schema.field(name).type
        try:
            return self._pa.array(_encodable(values), held)
        except (ValueError, TypeError, OverflowError) as err:  # pyarrow's own are among these
            of_type = "" if held is None else f" of type {held}, which its first rows have"
            raise InvalidInputError(f"column {name!r} is no column{of_type}: {err}") from None

    def _staged(self, stage: BinaryIO) -> Iterator[Any]:
        """The tables of a stage."""
        n_bytes = stage.seek(0, io.SEEK_END)
        stage.seek(0)
        while stage.tell() < n_bytes:
            yield self._pa.ipc.open_stream(stage).read_all()


WRITERS: dict[str, type[Writer]] = {
    "npy": NpyWriter,
    "jsonl": JsonlWriter,
    "csv": CsvWriter,
    "parquet": ParquetWriter,
}


def column_lines(batch: Batch) -> bytes:
    """The kept columns of a batch as JSON lines."""
    return b"".join(map(_json_line, _fields(batch)))


def _fields(batch: Batch) -> Iterator[list[str]]:
    """The kept columns beside each row, as pairs of JSON."""
    keys = [(json.dumps(name), name) for name in batch.columns]
    for record in _kept(batch):
        pairs = zip(keys, record, strict=True)
        yield [f"{key}: {_json(value, name)}" for (key, name), value in pairs]


def _json_line(fields: list[str]) -> bytes:
    return f"{{{', '.join(fields)}}}\n".encode()


def _kept(batch: Batch) -> Iterator[tuple[Any, ...]]:
    """The kept values beside each row."""
    if not batch.columns:
        return repeat((), len(batch))
    return zip(*map(plain, batch.columns.values()), strict=True)


def _numbers(part: Part) -> Iterator[str]:
    """Each row as its numbers with commas, the shortest that read back as the same values."""
    return (",".join(row) for row in part.rows.astype("U"))


def _json(value: Any, name: str) -> str:
    def unusual(value: Any) -> str:
        if isinstance(value, (dt.date, dt.time)):
            return value.isoformat()
        if isinstance(value, decimal.Decimal):
            return str(value)
        raise InvalidInputError(
            f"column {name!r} holds {type(value).__name__}, which this format cannot hold"
        )

    return json.dumps(value, default=unusual)


def _encodable(values: list[Any]) -> list[Any]:
    """Values with question marks for lone surrogates, which texts that failed may have."""
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return [
            value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for value in values
        ]
    return values


def _cell(value: Any, name: str) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value, name)


def _csv(cells: Iterable[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(cells)
    return buffer.getvalue().encode("utf-8", "replace")  # lone surrogates, in texts that failed
