"""One encode call, from checked arguments to rows: what ``Embedder.encode`` decides and does."""

from __future__ import annotations

import contextlib
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _buffers, _native
from ._buffers import FloatArray
from .errors import (
    EmbedError,
    EmbedWarning,
    EmptyTextError,
    InvalidInputError,
    TextTooLongError,
    TruncationWarning,
)
from .progress import ProgressBar
from .projection import Projection
from .quantization import DTYPES, calibration_ranges, row_width
from .results import Encoded, TokenRows

Progress = Callable[[int, int], object]
REFUSED = (TextTooLongError, EmptyTextError, InvalidInputError)
OVERFLOWS = ("error", "truncate", "truncate_start")


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


@dataclass(frozen=True)
class Target:
    """Where the rows of a call are computed, and where they end up: often the same."""

    rows: npt.NDArray[Any]
    final: npt.NDArray[Any]
    result: npt.NDArray[Any]  # the final rows as they are returned


def run(
    call: Call,
    handles: tuple[_native.Model, _native.Engine],
    texts: _buffers.Texts,
    out: npt.NDArray[Any] | None,
) -> npt.NDArray[Any] | TokenRows | Encoded:
    """Computes the rows of texts in the form that was asked for."""
    model, engine = handles
    errors: dict[int, EmbedError] | None = {} if call.collects else None
    prompt = _buffers.encode_text(call.prompt, "prompt")
    tokens = tokenize(call, model, texts.data, texts.offsets, prompt, errors)
    starts = tokens.offsets()
    target = allocate(call, int(starts[-1]) if call.by_token else tokens.n_texts, texts.single, out)
    if tokens.n_texts:
        with progress_of(call, "tokens") as progress:
            encode(call, engine, tokens, target.rows, errors, progress)
    return finish(
        call, target, texts.single, starts, tokens.n_tokens_original, tokens.truncated, errors
    )


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
        prompt=prompt,
        end_token=call.end_token,
        max_tokens=call.max_tokens,
        overflow=call.overflow,
        want_original=call.collects or call.reports,
        n_threads=call.n_threads,
        parts=parts,
        errors=errors,
    )


def run_pairs(
    call: Call,
    handles: tuple[_native.Model, _native.Engine],
    query: str,
    documents: Iterable[str],
) -> FloatArray:
    """Computes the scores of a query with each of some documents: (n_documents, n_outputs)."""
    model, engine = handles
    listed, single = _buffers.as_list(documents)
    if single:
        raise TypeError("documents must be an iterable of str, got str")
    encoded = _buffers.encode_text(query, "query")
    data, bounds = _buffers.flatten(listed)
    pairs = np.zeros(2 * len(listed) + 1, np.int64)
    pairs[1::2] = len(encoded)
    pairs[2::2] = np.diff(bounds)
    joined = b"".join(part for a, b in pairwise(bounds.tolist()) for part in (encoded, data[a:b]))
    tokens = _native.Tokens(
        model,
        joined,
        np.cumsum(pairs),
        max_tokens=call.max_tokens,
        overflow=call.overflow,
        n_threads=call.n_threads,
        pairs=True,
    )
    scores = np.empty((len(listed), call.dim), np.float32)
    if listed:
        with progress_of(call, "tokens") as progress:
            encode(call, engine, tokens, scores, None, progress)
    if tokens.truncated is not None and tokens.truncated.any():
        _warn_truncated(tokens.truncated, call)
    return scores


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
    with ProgressBar("embedding", unit) as bar:
        yield bar if call.progress is None else _both(bar, call.progress)


def encode(
    call: Call,
    engine: _native.Engine,
    tokens: _native.Tokens,
    rows: npt.NDArray[Any],
    errors: dict[int, EmbedError] | None,
    progress: Progress | None,
) -> None:
    """Fills the rows of tokens."""
    engine.encode(
        tokens,
        rows,
        pooling=call.pooling,
        truncate_dim=0 if call.pooling == "rank" else call.dim,
        normalize=call.normalize,
        precision="float32" if call.in_floats else call.precision,
        ranges=call.ranges,
        projection=call.projection,
        adapter=call.adapter,
        adapter_scale=call.adapter_scale,
        progress=progress,
        errors=errors,
    )


def finish(
    call: Call,
    target: Target,
    single: bool,
    starts: npt.NDArray[np.int64],
    n_original: npt.NDArray[np.int64] | None,
    truncated: npt.NDArray[np.bool_] | None,
    errors: dict[int, EmbedError] | None,
) -> npt.NDArray[Any] | TokenRows | Encoded:
    """What a call returns, once its rows are there. starts: where the tokens of inputs begin."""
    if call.in_floats:
        _calibrate(call, target.rows, target.final, errors)
    if truncated is not None and truncated.any():
        _warn_truncated(truncated, call)
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


def _warn_truncated(truncated: npt.NDArray[np.bool_], call: Call) -> None:
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
