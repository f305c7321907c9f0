"""What calls on texts and on media share: arguments, tokens, rows, results, chunks."""

from __future__ import annotations

import contextlib
import operator
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import _buffers, _native
from ._buffers import FloatArray
from .errors import (
    AbortedError,
    ClosedError,
    EmbedError,
    EmbedWarning,
    EmptyTextError,
    InvalidInputError,
    TextTooLongError,
    TruncationWarning,
    moved,
)
from .progress import progress_bar
from .projection import Projection
from .quantization import DTYPES, calibration_ranges, row_width
from .results import Encoded, TokenRows
from .stream import ahead

T = TypeVar("T")
Progress = Callable[[int, int], object]
REFUSED = (TextTooLongError, EmptyTextError, InvalidInputError)
BYTES_PER_TOKEN = 3  # of text, roughly
OVERFLOWS = ("error", "truncate", "truncate_start")
CPU_KERNELS = ("auto", "upstream")
SPLITS = ("layer", "copies", "none")


@dataclass
class StreamPlace:
    """Where in a stream the texts of the current call stand."""

    first: int = 0
    has_warned: bool = False


stream_place: ContextVar[StreamPlace | None] = ContextVar("stream_place", default=None)


@dataclass(frozen=True)
class Call:
    """Arguments of a call, checked and with every default filled in."""

    prompt: str
    end_token: int | None
    max_tokens: int  # 0 = the context, found out after tokenising
    overflow: str
    pooling: str
    dim: int  # values per row
    normalize: bool
    precision: str
    ranges: FloatArray | None
    projection: Projection | None
    adapter: int
    adapter_scale: float
    n_threads: int  # at most, of tokenising
    n_ctx: int  # longest input
    n_ubatch: int  # tokens of a micro-batch
    collects: bool
    reports: bool
    shows_bar: bool
    progress: Progress | None

    @property
    def by_token(self) -> bool:
        """Whether there is a row per token."""
        return self.pooling == "none"

    @property
    def in_floats(self) -> bool:
        """Whether the rows are converted once all are known, by the ranges that they have."""
        return self.precision in ("int8", "uint8") and self.ranges is None

    @property
    def computed(self) -> tuple[int, npt.DTypeLike]:
        """Width and type of the rows that the engine writes."""
        if self.in_floats:
            return self.dim, np.float32
        return row_width(self.precision, self.dim), DTYPES[self.precision]

    @property
    def settings(self) -> _native.Settings:
        """How the engine makes the rows."""
        return {
            "pooling": self.pooling,
            "truncate_dim": 0 if self.pooling == "rank" else self.dim,
            "normalize": self.normalize,
            "precision": "float32" if self.in_floats else self.precision,
            "ranges": self.ranges,
            "projection": self.projection,
            "adapter": self.adapter,
            "adapter_scale": self.adapter_scale,
        }

    def cutting(self, prompt: bytes) -> _native.Cutting:
        """How texts with a prompt in front become tokens."""
        return {
            "prompt": prompt,
            "end_token": self.end_token,
            "max_tokens": self.max_tokens,
            "overflow": self.overflow,
            "n_threads": self.n_threads,
        }


@dataclass(frozen=True)
class Target:
    """Where the rows of a call are computed, and where they end up: often the same."""

    rows: npt.NDArray[Any]
    final: npt.NDArray[Any]
    result: npt.NDArray[Any]  # the final rows as they are returned


def tokenize(
    call: Call,
    model: _native.Model,
    data: _buffers.Bytes,
    offsets: npt.NDArray[np.int64],
    prompt: bytes,
    errors: dict[int, EmbedError] | None,
    parts: Sequence[_native.Part] | None = None,
) -> _native.Tokens:
    """The tokens of texts, or of inputs made of parts."""
    return _native.Tokens(
        model,
        data,
        offsets,
        want_original=call.collects or call.reports,
        parts=parts,
        errors=errors,
        **call.cutting(prompt),
    )


def allocate(call: Call, n_rows: int, single: bool, out: npt.NDArray[Any] | None) -> Target:
    """Room for the rows of a call."""
    width, dtype = row_width(call.precision, call.dim), DTYPES[call.precision]
    shape = (n_rows, width)
    drops_axis = single and not call.by_token
    if out is None:
        final = np.empty(shape, dtype)
    else:
        checked = _buffers.check_out(out, (width,) if drops_axis else shape, dtype)
        final = checked[np.newaxis] if drops_axis else checked
    result = out if out is not None else final[0] if drops_axis else final
    if not call.in_floats:
        return Target(final, final, result)
    if n_rows == 1:
        raise ValueError(f"precision {call.precision!r} needs ranges= for a single row")
    return Target(np.empty((n_rows, call.dim), np.float32), final, result)


@contextlib.contextmanager
def progress_of(call: Call, unit: str) -> Iterator[Progress | None]:
    """What the progress of a call is told to; it draws a bar if it is to."""
    if not call.shows_bar:
        yield call.progress
        return
    with progress_bar("embedding", unit) as bar:
        yield bar if call.progress is None else _both(bar, call.progress)


# A call is written once, for callers that wait and for those that await: as a generator that yields
# the steps which take time, gets their results, and returns what the call does.


@dataclass(frozen=True)
class Work:
    """A step of Python or the tokenizer. It returns what the function does."""

    function: Callable[[], Any]
    n_bytes: int  # of text that it goes through


@dataclass(frozen=True)
class Encoding:
    """A step of the engine: fills the rows of tokens.

    It returns what ended a collecting call before all were there.
    """

    call: Call
    tokens: _native.Tokens
    rows: npt.NDArray[Any]
    errors: dict[int, EmbedError] | None
    progress: Progress | None

    def run(self, engine: _native.Engine) -> EmbedError | None:
        """Computes the rows."""
        return engine.encode(
            self.tokens,
            self.rows,
            progress=self.progress,
            errors=self.errors,
            **self.call.settings,
        )

    def submit(
        self, engine: _native.Engine, on_done: Callable[[_native.Request], None]
    ) -> _native.Request:
        """Starts to compute the rows."""
        return engine.submit(
            self.tokens, self.rows, on_done, errors=self.errors, **self.call.settings
        )


@dataclass(frozen=True)
class Ahead:
    """A step that begins to take the items of an iterator before they are needed.

    It returns what `Next` takes, and what has to be closed.
    """

    items: Iterator[Any]
    n: int


@dataclass(frozen=True)
class Next:
    """A step that returns the next item, or None after the last."""

    items: Any


Step = Work | Encoding | Ahead | Next
Steps = Generator[Step, Any, T]


def drive(steps: Steps[T], engine: _native.Engine) -> T:
    """Does the steps of a call one after the other, on this thread."""
    try:
        step = next(steps)
        while True:
            step = _advance(steps, step, engine)
    except StopIteration as end:
        result: T = end.value
        return result


def _advance(steps: Steps[T], step: Step, engine: _native.Engine) -> Step:
    """The step behind one that is done here."""
    try:
        done = _do(step, engine)
    except BaseException as err:
        return steps.throw(err)
    return steps.send(done)


def _do(step: Step, engine: _native.Engine) -> Any:
    if isinstance(step, Work):
        return step.function()
    if isinstance(step, Encoding):
        return step.run(engine)
    if isinstance(step, Ahead):
        return ahead(step.items, step.n)
    return next(step.items, None)


class Gathered:
    """What becomes of the inputs of a call that is computed in chunks."""

    def __init__(
        self,
        call: Call,
        n_inputs: int,
        rows: npt.NDArray[Any] | None,
        check: Callable[[], None],
    ) -> None:
        """rows: where they go; None if there is a row per token. check: raises to end the call."""
        self.errors: dict[int, EmbedError] | None = {} if call.collects else None
        self.token_rows: dict[int, npt.NDArray[Any]] = {}
        self.n_tokens = np.zeros(n_inputs, np.int64)
        self.n_original = np.zeros(n_inputs, np.int64)
        self.truncated = np.zeros(n_inputs, np.bool_)
        self.is_done = np.zeros(n_inputs, np.bool_)
        self._call = call
        self._rows = rows
        self.check = check
        if rows is not None and call.collects:
            rows[:] = np.nan if rows.dtype.kind == "f" else 0

    def encode(
        self,
        indices: range | list[int],
        tokens: _native.Tokens,
        errors: dict[int, EmbedError] | None,
        progress: Progress | None,
    ) -> Steps[bool]:
        """Computes the inputs at some places; returns False if the call is over.

        errors: those that tokenising has found, counted from the first of these inputs.
        """
        try:
            self.check()
        except (AbortedError, ClosedError) as err:
            self.end(err)
            return False
        where = slice(indices.start, indices.stop) if isinstance(indices, range) else indices
        starts = tokens.offsets()
        rows = self._room(where, len(indices), int(starts[-1]))
        try:
            ended = yield Encoding(self._call, tokens, rows, errors, progress)
        except EmbedError as err:
            raise placed(err, indices) from None
        if self._rows is None:
            pieces = (rows[a:b] for a, b in pairwise(starts.tolist()))
            self.token_rows.update(zip(indices, pieces, strict=True))
        elif not isinstance(where, slice):
            self._rows[where] = rows
        self.n_tokens[where] = np.diff(starts)
        if tokens.n_tokens_original is not None:
            self.n_original[where] = tokens.n_tokens_original
        if tokens.truncated is not None:
            self.truncated[where] = tokens.truncated
        self.is_done[where] = True
        if self.errors is not None and errors:
            self.errors.update((indices[k], placed(err, indices)) for k, err in errors.items())
        if ended is None:
            return True
        self.end(ended)
        return False

    def starts(self) -> npt.NDArray[np.int64]:
        """Where the tokens of the inputs begin: (n_inputs + 1,)."""
        starts = np.zeros(len(self.n_tokens) + 1, np.int64)
        np.cumsum(self.n_tokens, out=starts[1:])
        return starts

    def finish(self, target: Target, single: bool) -> Steps[npt.NDArray[Any] | TokenRows | Encoded]:
        """What the call returns, once its rows are there."""
        report = self.n_original, self.truncated, self.errors
        return (yield from finish(self._call, target, single, self.starts(), *report))

    def end(self, error: EmbedError) -> None:
        """Gives the inputs that are not done the error that ended the call, or raises it."""
        if self.errors is None:
            raise error
        for i in np.flatnonzero(~self.is_done).tolist():
            self.errors[i] = type(error)(str(error), input_index=i)

    def _room(self, where: slice | list[int], n_inputs: int, n_tokens: int) -> npt.NDArray[Any]:
        """Where the engine writes: the rows themselves if they lie together."""
        if self._rows is not None and isinstance(where, slice):
            return self._rows[where]
        width, dtype = self._call.computed
        return np.empty((n_tokens if self._rows is None else n_inputs, width), dtype)


def placed(error: EmbedError, indices: range | list[int]) -> EmbedError:
    """The error of a call on the inputs at some places, with its place among all."""
    k = error.input_index
    return error if k is None else moved(error, indices[k] - k)


def finish(
    call: Call,
    target: Target,
    single: bool,
    starts: npt.NDArray[np.int64],
    n_original: npt.NDArray[np.int64] | None,
    truncated: npt.NDArray[np.bool_] | None,
    errors: dict[int, EmbedError] | None,
) -> Steps[npt.NDArray[Any] | TokenRows | Encoded]:
    """What a call returns, once its rows are there. starts: where the tokens of inputs begin."""
    if call.in_floats:
        convert = partial(_calibrate, call, target.rows, target.final, errors)
        yield Work(convert, target.rows.nbytes)
    if truncated is not None and truncated.any():
        warn_truncated(truncated, call)
    if call.collects or call.reports:
        return _report(call, target.result, starts, n_original, truncated, errors or {})
    return TokenRows(target.result, starts) if call.by_token and not single else target.result


def _calibrate(
    call: Call,
    rows: FloatArray,
    final: npt.NDArray[Any],
    errors: dict[int, EmbedError] | None,
) -> None:
    """Converts rows by the ranges that they have themselves, as Sentence Transformers does."""
    if errors and not call.by_token and len(rows) - len(errors) < 2:
        final[:] = 0
        for i in set(range(len(rows))) - errors.keys():
            message = f"text {i} is the only one with a row, which gives no ranges; pass ranges="
            errors[i] = InvalidInputError(message, input_index=i)
    elif len(rows):
        _native.convert_rows(rows, final, call.precision, calibration_ranges(rows))


def _report(
    call: Call,
    rows: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    n_original: npt.NDArray[np.int64] | None,
    truncated: npt.NDArray[np.bool_] | None,
    errors: dict[int, EmbedError],
) -> Encoded:
    n_tokens = np.diff(starts)
    refused = [i for i, error in errors.items() if isinstance(error, REFUSED)]
    return Encoded(
        rows=rows,
        n_tokens=np.where(np.isin(np.arange(len(n_tokens)), refused), 0, n_tokens),
        n_tokens_original=n_tokens if n_original is None else n_original,
        truncated=np.zeros(len(n_tokens), np.bool_) if truncated is None else truncated,
        errors=dict(sorted(errors.items())),
        offsets=starts if call.by_token else None,
    )


def warn_truncated(truncated: npt.NDArray[np.bool_], call: Call) -> None:
    """Tells that texts were cut: once for a call, and once for a stream."""
    n_cut, first = int(truncated.sum()), int(truncated.argmax())
    texts = "text was" if len(truncated) == 1 else "texts were"
    what = f"{n_cut} of {len(truncated)} {texts} cut to {call.max_tokens} tokens, the first is text"
    if (place := stream_place.get()) is not None:
        if place.has_warned:
            return
        place.has_warned, first = True, place.first + first
        what = f"texts of the stream are cut to {call.max_tokens} tokens, the first is text"
    told = "" if call.pooling == "rank" else "return_info=True tells which, "
    message = f"{what} {first}; {told}overflow='error' refuses them"
    warn(TruncationWarning(message, n_truncated=n_cut, input_index=first))


def warn(warning: str | EmbedWarning) -> None:
    """Warns at the line outside this package that made the call."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("ggembed."):
        level, frame = level + 1, frame.f_back
    instance = EmbedWarning(warning) if isinstance(warning, str) else warning
    warnings.warn(instance, stacklevel=level)


def integer(what: str, value: int, low: int, high: int = 2**31 - 1) -> int:
    """An integer in a range."""
    if isinstance(value, bool):
        raise TypeError(f"{what} must be an int, got bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an int, got {type(value).__name__}") from None
    if not low <= number <= high:
        raise ValueError(f"{what} must be in {low}..{high}, got {number}")
    return number


def one_of(what: str, value: str, choices: tuple[str, ...]) -> str:
    """A word of a set."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{what} must be one of {known}, got {value!r}")
    return value


def _both(first: Progress, second: Progress) -> Progress:
    def report(done: int, total: int) -> None:
        first(done, total)
        second(done, total)

    return report
