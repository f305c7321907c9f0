"""Where a run's rows go: down a pipe, or to a file that an interrupted run can be continued on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from ._writers import Part, Writer, column_lines
from .errors import InvalidInputError
from .tables import Batch


class Output(Protocol):
    """Takes the rows of batches, one after the other."""

    n_rows: int

    def remaining(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches whose rows are not there yet."""

    def write(self, part: Part) -> None:
        """Adds the rows of a batch."""

    def finish(self) -> None:
        """Completes the output."""

    def __enter__(self) -> Output: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class StreamOutput:
    """Rows down a pipe: at once, or through a temporary file where the format wants it."""

    def __init__(self, sink: BinaryIO, writer: Writer) -> None:
        self.n_rows = 0
        self._sink = sink
        self._writer = writer
        self._stage = sink if writer.streams else tempfile.TemporaryFile()  # noqa: SIM115
        writer.begin(self._stage)

    def __enter__(self) -> StreamOutput:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stage is not self._sink:
            self._stage.close()

    def remaining(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """All batches."""
        return batches

    def write(self, part: Part) -> None:
        """Adds the rows of a batch."""
        self._writer.write(self._stage, part)
        self._stage.flush()
        self.n_rows += len(part.batch)

    def finish(self) -> None:
        """Completes the output."""
        self._writer.finish(self._stage, self.n_rows)
        if self._stage is not self._sink:
            self._stage.seek(0)
            self._writer.convert(self._stage, self._sink)
        self._sink.flush()


class FileOutput:
    """Rows to a file that appears when it is complete.

    Until then they are appended to ``NAME.partial``. After each batch, ``NAME.partial.json`` is
    replaced: it says how many bytes and rows of that are good, and what they were computed from, so
    that a run can be ended at any moment and continued. What lies behind the good bytes is cut off
    then; the inputs of the good rows are read again, and must be the same. A writer that holds rows
    only gets a file beside its own, ``NAME.jsonl``, for the kept columns; a continued run writes it
    again from the start.
    """

    def __init__(
        self, path: Path, writer: Writer, origin: Mapping[str, Any], *, resume: bool
    ) -> None:
        self.n_rows = 0
        self._path = Path(os.path.realpath(path))
        self.stage_path = self._path.with_name(f"{self._path.name}.partial")
        self._state_path = self._path.with_name(f"{self._path.name}.partial.json")
        self._new_path = self._path.with_name(f"{self._path.name}.partial.new")
        self._columns_path = self._path.with_name(f"{self._path.name}.jsonl")
        self._new_columns_path = self._path.with_name(f"{self._path.name}.partial.jsonl")
        self._columns: BinaryIO | None = None
        self._writer = writer
        self._origin = json.loads(json.dumps(origin))
        self._resume = resume
        self._inputs = hashlib.sha256()
        self._inputs_before = ""

    def __enter__(self) -> FileOutput:
        is_new = not self.stage_path.exists()
        self.stage_path.touch()
        with contextlib.ExitStack() as stack:
            self._stage = stack.enter_context(self.stage_path.open("r+b"))
            if not _lock(self._stage):
                raise InvalidInputError(f"another run is writing to {self.stage_path}")
            if is_new or not self._state_path.exists():
                self._begin()
            else:
                self._continue()
            if self._writer.only_rows and self._writer.columns:
                self._columns = self._new_columns_path.open("wb")
            stack.pop_all()
        return self

    def _begin(self) -> None:
        self._state_path.unlink(missing_ok=True)  # it would speak of another stage
        self._stage.truncate(0)
        self._writer.begin(self._stage)

    def _continue(self) -> None:
        """Goes back to the last good state, if the rest of the run fits it."""
        try:
            found = json.loads(self._state_path.read_text("utf-8"))
            state = {key: found[key] for key in ("rows", "bytes", "inputs", "origin")}
        except (ValueError, KeyError, TypeError):
            raise InvalidInputError(self._refusal(f"{self._state_path} cannot be read")) from None
        if not self._resume:
            raise InvalidInputError(
                f"{self.stage_path} holds {state['rows']} rows of an interrupted run: continue it "
                "with --resume, or delete it"
            )
        for what, now in self._origin.items():
            before = state["origin"].get(what)
            if before != now:
                raise InvalidInputError(self._refusal(f"{what} was {before}, now it is {now}"))
        if (n_bytes := self.stage_path.stat().st_size) < state["bytes"]:
            raise InvalidInputError(self._refusal(f"it has {n_bytes} bytes of {state['bytes']}"))
        self._stage.truncate(state["bytes"])
        self._writer.resume(self._stage)
        self._stage.seek(0, os.SEEK_END)
        self.n_rows, self._inputs_before = state["rows"], state["inputs"]

    def _refusal(self, reason: str) -> str:
        return f"cannot continue {self.stage_path}: {reason}; delete it to start again"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stage.close()
        if self._columns is not None:
            self._columns.close()
            self._new_columns_path.unlink(missing_ok=True)
        if self.n_rows == 0:
            self.stage_path.unlink(missing_ok=True)

    def remaining(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches whose rows are not there yet, once those before them prove to be the same."""
        left = self.n_rows
        for batch in batches:
            done = batch.before(left)
            self._add_inputs(done)
            left -= len(done)
            if len(done) and not left and self._inputs.hexdigest() != self._inputs_before:
                raise InvalidInputError(
                    self._refusal(f"the input of its {self.n_rows} rows has changed")
                )
            if len(done) < len(batch):
                yield batch.after(len(done))
        if left:
            n_inputs = self.n_rows - left
            raise InvalidInputError(
                self._refusal(f"it has {self.n_rows} rows, the input only {n_inputs}")
            )

    def _add_inputs(self, batch: Batch) -> None:
        for record in batch.records():
            self._inputs.update(json.dumps(record, default=repr).encode() + b"\n")
        if self._columns is not None:
            self._columns.write(column_lines(batch))

    def write(self, part: Part) -> None:
        """Adds the rows of a batch."""
        self._writer.write(self._stage, part)
        self._sync()  # else a crash of the machine might keep the state and lose the rows
        self._add_inputs(part.batch)
        self.n_rows += len(part.batch)
        state = {
            "rows": self.n_rows,
            "bytes": self._stage.tell(),
            "inputs": self._inputs.hexdigest(),
            "origin": self._origin,
        }
        self._new_path.write_text(json.dumps(state, indent=1), "utf-8")
        self._new_path.replace(self._state_path)

    def finish(self) -> None:
        """Completes the file and puts it in its place."""
        self._writer.finish(self._stage, self.n_rows)
        self._sync()
        if self._writer.converts:
            self._stage.seek(0)
            with self._new_path.open("wb") as sink:
                self._writer.convert(self._stage, sink)
                sink.flush()
                os.fsync(sink.fileno())
        if self._columns is not None:
            self._columns.flush()
            os.fsync(self._columns.fileno())
            self._columns.close()
            self._new_columns_path.replace(self._columns_path)
        self._stage.close()
        if self._writer.converts:
            self._new_path.replace(self._path)
            self.stage_path.unlink()
        else:
            self.stage_path.replace(self._path)
        self._state_path.unlink(missing_ok=True)

    def _sync(self) -> None:
        self._stage.flush()
        os.fsync(self._stage.fileno())


def _lock(file: BinaryIO) -> bool:
    """Keeps other runs from an open file, where the system can; False if one has it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
