"""One encode call on texts alone; many are tokenised in chunks, ahead of the engine.

While the engine computes a chunk, a thread makes tokens of all that come behind it. What a call
gives is what it would give without chunks, errors too: those of tokenising come first, then texts
that the engine refuses, with no tokens or too many, then what is found in computing. Once one of
the first two is known, the engine gets no more chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _buffers, _native
from ._buffers import FloatArray
from ._calls import (
    BYTES_PER_TOKEN,
    Ahead,
    Call,
    Encoding,
    Gathered,
    Next,
    Progress,
    Steps,
    Work,
    allocate,
    finish,
    placed,
    progress_of,
    tokenize,
    warn_truncated,
)
from .errors import AbortedError, ClosedError, EmbedError
from .results import Encoded, TokenRows

Handles = tuple[_native.Model, _native.Engine]

# Sizes of chunks, in micro-batches. The first is small, so that the device begins early. Each next
# one is twice as large, so that its tokens are there in time, until they are so large that the
# micro-batch at the end of each, which is not full, does not matter. A shorter call is one piece.
_FIRST_CHUNK = 16
_LARGEST_CHUNK = 64
_SPECIAL_TOKENS = 2  # of a text, usually


def steps(
    call: Call,
    handles: Handles,
    texts: _buffers.Texts,
    out: npt.NDArray[Any] | None,
    check: Callable[[], None],
) -> Steps[npt.NDArray[Any] | TokenRows | Encoded]:
    """Computes the rows of texts in the form that was asked for. check: raises to end the call."""
    prompt = _buffers.encode_text(call.prompt, "prompt")
    chunks = _Chunks(texts.offsets, len(prompt), call.n_ubatch)
    if call.by_token or len(chunks.bounds) <= 2:
        return (yield from _whole(call, handles[0], texts, prompt, out))
    target = allocate(call, texts.n_texts, texts.single, out)
    gathered = Gathered(call, texts.n_texts, target.rows, check)
    reader = _Tokenizing(call, handles, texts, prompt, chunks, target.rows)
    with progress_of(call, "tokens") as progress:
        yield from _encode_chunks(gathered, reader, progress)
    return (yield from gathered.finish(target, texts.single))


def _whole(
    call: Call,
    model: _native.Model,
    texts: _buffers.Texts,
    prompt: bytes,
    out: npt.NDArray[Any] | None,
) -> Steps[npt.NDArray[Any] | TokenRows | Encoded]:
    """Computes the rows of texts that are tokenised together."""
    errors: dict[int, EmbedError] | None = {} if call.collects else None
    work = partial(tokenize, call, model, texts.data, texts.offsets, prompt, errors)
    n_bytes = int(texts.offsets[-1] - texts.offsets[0]) + len(prompt) * texts.n_texts
    tokens: _native.Tokens = yield Work(work, n_bytes)
    starts = tokens.offsets()
    target = allocate(call, int(starts[-1]) if call.by_token else tokens.n_texts, texts.single, out)
    if tokens.n_texts:
        with progress_of(call, "tokens") as progress:
            yield Encoding(call, tokens, target.rows, errors, progress)
    report = tokens.n_tokens_original, tokens.truncated, errors
    return (yield from finish(call, target, texts.single, starts, *report))


class _Chunks:
    """Where the chunks of texts begin and end; that depends on the texts and the budget alone.

    Attributes
    ----------
    bounds : list of int
        Texts bounds[k] to bounds[k + 1] are chunk k.
    sizes : list of float
        About how many tokens there are before each of the bounds.
    """

    def __init__(self, offsets: npt.NDArray[np.int64], n_prompt: int, n_ubatch: int) -> None:
        n = len(offsets) - 1
        n_bytes = int(offsets[-1]) - int(offsets[0]) + n * n_prompt
        total = n_bytes / BYTES_PER_TOKEN + n * _SPECIAL_TOKENS
        first, largest = _FIRST_CHUNK * n_ubatch, _LARGEST_CHUNK * n_ubatch
        self.bounds, self.sizes = [0, n], [0.0, total]
        if total < largest:
            return
        edges, edge, size = [], first, first
        while edge + first <= total:
            edges.append(edge)
            size = min(2 * size, largest)
            edge += size
        places = np.arange(n + 1)
        before = (offsets - offsets[0] + n_prompt * places) / BYTES_PER_TOKEN
        before += _SPECIAL_TOKENS * places
        bounds = np.unique([0, *np.searchsorted(before, edges), n])
        self.bounds, self.sizes = bounds.tolist(), before[bounds].tolist()


@dataclass(frozen=True)
class _Chunk:
    indices: range
    tokens: _native.Tokens
    errors: dict[int, EmbedError] | None  # counted from the first of its texts


class _Tokenizing:
    """Makes tokens of chunks on one thread, and tells others what is known so far."""

    def __init__(
        self,
        call: Call,
        handles: Handles,
        texts: _buffers.Texts,
        prompt: bytes,
        chunks: _Chunks,
        rows: npt.NDArray[Any],
    ) -> None:
        self.failed = False  # a chunk has an error that fails the call
        self._call = call
        self._handles = handles
        self._texts = texts
        self._prompt = prompt
        self._chunks = chunks
        self._rows = rows
        self._n_tokens: list[int] = []  # of each chunk that has been tokenised

    def __iter__(self) -> Iterator[_Chunk]:
        refusal: EmbedError | None = None
        try:
            for a, b in pairwise(self._chunks.bounds):
                chunk = self._chunk(range(a, b))
                if refusal is None:
                    refusal = self._refusal(chunk)
                    self.failed = refusal is not None
                yield chunk
            if refusal is not None:
                raise refusal
        except BaseException:
            self.failed = True
            raise
        finally:
            refusal = None  # its traceback holds this frame

    @property
    def n_chunks(self) -> int:
        return len(self._chunks.bounds) - 1

    def n_tokens_behind(self, k: int) -> int:
        """Tokens of the chunks behind chunk k; those that nobody has counted yet are estimated."""
        counts, sizes = self._n_tokens[:], self._chunks.sizes
        counted = sizes[len(counts)]
        return sum(counts[k + 1 :]) + round((sizes[-1] - counted) * sum(counts) / counted)

    def _chunk(self, indices: range) -> _Chunk:
        call, model = self._call, self._handles[0]
        errors: dict[int, EmbedError] | None = {} if call.collects else None
        offsets = self._texts.offsets[indices.start : indices.stop + 1]
        try:
            tokens = tokenize(call, model, self._texts.data, offsets, self._prompt, errors)
        except EmbedError as err:
            raise placed(err, indices) from None
        self._n_tokens.append(int(tokens.offsets()[-1]))
        return _Chunk(indices, tokens, errors)

    def _refusal(self, chunk: _Chunk) -> EmbedError | None:
        """What the engine says of texts that it refuses, which it does before it computes any."""
        n_tokens = np.diff(chunk.tokens.offsets())
        if self._call.collects or 0 < n_tokens.min() <= n_tokens.max() <= self._call.n_ctx:
            return None
        rows = self._rows[chunk.indices.start : chunk.indices.stop]
        try:
            Encoding(self._call, chunk.tokens, rows, None, None).run(self._handles[1])
        except EmbedError as err:
            return placed(err, chunk.indices)
        return None


class _Count:
    """Progress over all chunks, of which the engine tells one after the other."""

    def __init__(self, progress: Progress, reader: _Tokenizing) -> None:
        self._progress = progress
        self._reader = reader
        self._k = 0
        self._before = 0  # tokens of the chunks before
        self._total = 0  # and of this one
        self._is_complete = True

    def __call__(self, done: int, total: int) -> None:
        self._total = total
        whole = self._before + total + self._reader.n_tokens_behind(self._k)
        self._is_complete = self._before + done == whole
        self._progress(self._before + done, whole)

    def next_chunk(self) -> None:
        self._k += 1
        self._before += self._total
        self._total = 0

    def end(self) -> None:
        """Ends with all done, also if the last chunk had nothing to compute."""
        if not self._is_complete:
            self._progress(self._before, self._before)


def _encode_chunks(
    gathered: Gathered, reader: _Tokenizing, progress: Progress | None
) -> Steps[None]:
    count = None if progress is None else _Count(progress, reader)
    failure: EmbedError | None = None
    try:
        with contextlib.closing((yield Ahead(iter(reader), reader.n_chunks))) as chunks:
            while (chunk := (yield Next(chunks))) is not None:
                if failure is not None or reader.failed:
                    continue  # to the error of a text that cannot be tokenised, which goes first
                try:
                    piece = gathered.encode(chunk.indices, chunk.tokens, chunk.errors, count)
                    if not (yield from piece):
                        return
                except (AbortedError, ClosedError):
                    raise
                except EmbedError as err:
                    failure = err
                if count is not None:
                    count.next_chunk()
        if failure is not None:
            raise failure
    finally:
        failure = None  # its traceback holds this frame
    if count is not None:
        count.end()


def run_pairs(
    call: Call,
    handles: Handles,
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
            Encoding(call, tokens, scores, None, progress).run(engine)
    if tokens.truncated is not None and tokens.truncated.any():
        warn_truncated(tokens.truncated, call)
    return scores
