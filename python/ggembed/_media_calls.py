"""One encode call with media in it: prepared ahead on threads, encoded in chunks.

An input is a list of texts and media. Threads decode and resize the media in the order of the
inputs, while the calling thread gathers those that are ready into chunks, makes tokens of them and
has them encoded. What is ready, but not yet in a chunk, is bounded in bytes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _buffers, _native
from ._calls import (
    BYTES_PER_TOKEN,
    Call,
    Gathered,
    Progress,
    allocate,
    drive,
    placed,
    progress_of,
    stream_place,
    tokenize,
)
from .errors import (
    AbortedError,
    ClosedError,
    EmbedError,
    OutOfMemoryError,
    UnsupportedError,
)
from .media import Audio, MediaLimits, Medium, Video, parts_of, prepare
from .media._sources import checkpoint
from .profiles import MediaRules
from .results import Encoded, TokenRows
from .stream import WAKE_S

# A chunk ends when it has as many tokens, bytes or inputs: enough for many micro-batches, little
# enough to stay in memory. What is ready ahead of it is as large again at most.
_CHUNK_TOKENS = 1 << 14
_CHUNK_BYTES = 1 << 28
_CHUNK_INPUTS = 1 << 11


@dataclass(frozen=True)
class MediaOptions:
    """What a call with media needs besides the arguments of every call."""

    rules: MediaRules
    template: str
    limits: MediaLimits
    auto: bool
    n_threads: int
    modalities: frozenset[str]  # of the towers


def as_inputs(
    inputs: object, *, keep_invalid: bool, auto: bool, takes_media: bool
) -> _buffers.Texts | tuple[list[Any], bool]:
    """The texts of an argument; or, if they are not texts alone, its items and if it was one."""
    try:
        if auto:
            return _buffers.as_list(inputs)
        return _buffers.as_texts(inputs, keep_invalid=keep_invalid)
    except _buffers.NotTextsError as err:
        if not (takes_media or any(map(_holds_media, err.items))):
            raise TypeError(str(err)) from None
        return err.items, err.single


def accepts(item: object, *, takes_media: bool) -> bool:
    """Whether something that is not a str is an input of a call."""
    return _holds_media(item) or (takes_media and isinstance(item, (list, tuple)))


def n_chars(item: Any) -> int:
    """The size of an input of a stream, in characters of a text that takes as much memory or time.

    A chunk of a stream gets 512 files, or 64 MB of media that are in memory.
    """
    try:
        return _n_chars(item)
    except RecursionError:  # parts_of will say so
        return 0


def _n_chars(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    if isinstance(item, (list, tuple)):
        return sum(map(_n_chars, item))
    return 2048 + _n_held(getattr(item, "source", item)) // 64


def _n_held(value: Any) -> int:
    """About how many bytes a source holds."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_n_held, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_n_held, value))
    return int(getattr(value, "nbytes", 0))


def _holds_media(item: object) -> bool:
    if isinstance(item, (list, tuple)):
        try:
            return any(map(_holds_media, item))
        except RecursionError:  # parts_of will say so
            return True
    return isinstance(item, (Medium, Mapping, os.PathLike))


def run(
    call: Call,
    handles: tuple[_native.Model, _native.Engine],
    items: list[Any],
    single: bool,
    out: npt.NDArray[Any] | None,
    options: MediaOptions,
    check: Callable[[], None],
) -> npt.NDArray[Any] | TokenRows | Encoded:
    """Computes the rows of inputs that may hold media, in the form that was asked for.

    check: raises to end the call.
    """
    target = None if call.by_token else allocate(call, len(items), single, out)
    rows = None if target is None else target.rows
    gathered = Gathered(call, len(items), rows, check)
    with progress_of(call, "inputs") as progress:
        _Work(call, handles, options, items, gathered).run(progress)
    starts = gathered.starts()
    if target is None:
        target = allocate(call, int(starts[-1]), single, out)
        for i, token_rows in gathered.token_rows.items():
            target.rows[starts[i] : starts[i + 1]] = token_rows
    return drive(gathered.finish(target, single), handles[1])


@dataclass
class _Chunk:
    """Inputs that are tokenised and encoded together."""

    prompt: bytes
    indices: list[int] = field(default_factory=list)
    parts: list[_native.Part] = field(default_factory=list)
    bounds: list[int] = field(default_factory=lambda: [0])
    n_tokens: int = 0  # about
    n_bytes: int = 0

    def add(self, i: int, parts: list[_native.Part]) -> None:
        for _, content in parts:
            if isinstance(content, _native.Media):
                self.n_tokens += content.n_rows
                self.n_bytes += _n_bytes(content)
            else:
                self.n_tokens += len(content) // BYTES_PER_TOKEN
        self.indices.append(i)
        self.parts.extend(parts)
        self.bounds.append(len(self.parts))

    @property
    def is_full(self) -> bool:
        return (
            self.n_tokens >= _CHUNK_TOKENS
            or self.n_bytes >= _CHUNK_BYTES
            or len(self.indices) == _CHUNK_INPUTS
        )


class _Work:
    """One call: the way of its inputs through the engine, and what becomes of each."""

    def __init__(
        self,
        call: Call,
        handles: tuple[_native.Model, _native.Engine],
        options: MediaOptions,
        items: list[Any],
        gathered: Gathered,
    ) -> None:
        self._call = call
        self._model, self._engine = handles
        self._options = options
        self._gathered = gathered
        self._prompt = _buffers.encode_text(call.prompt, "prompt")
        self._inputs = [self._input_of(item, i) for i, item in enumerate(items)]

    def run(self, progress: Progress | None) -> None:
        """Computes all rows; a collecting call that is ended keeps what it has."""
        media = [part for parts in self._inputs for part in parts if isinstance(part, Medium)]
        with _Reader(media, self._model, self._options, self._gathered.check) as reader:
            try:
                for chunk in self._chunks(reader):
                    if not self._encode(chunk, progress):
                        break
            except (AbortedError, ClosedError) as err:
                self._gathered.end(err)
        if progress is not None:
            progress(len(self._inputs), len(self._inputs))

    def _input_of(self, item: object, i: int) -> list[str | Medium]:
        """The texts and media of an item; none if it has an error."""
        if isinstance(item, str) and not self._options.auto:
            return [item]
        try:
            parts = parts_of(item, auto=self._options.auto)
            for part in parts:
                if isinstance(part, Medium):
                    _check_tower(part, self._options.modalities)
        except TypeError as err:
            place = stream_place.get()
            raise TypeError(f"input {i + (place.first if place else 0)}: {err}") from None
        except EmbedError as err:
            self._fail(err, i)
            return []
        return list(parts)

    def _fail(self, error: EmbedError, i: int) -> None:
        """Keeps the error of an input, or raises it."""
        if error.input_index is None:
            error.args = (f"input {i}: {error}",)
            error.input_index = i
        if self._gathered.errors is None:
            raise error
        self._gathered.errors[i] = error
        self._gathered.is_done[i] = True

    def _chunks(self, reader: _Reader) -> Iterator[_Chunk]:
        """The inputs in order, but those with one prompt together."""
        chunks: dict[bytes, _Chunk] = {}
        for i, given in enumerate(self._inputs):
            if self._gathered.is_done[i]:
                continue
            # All are taken before the first error counts, for the reader goes on to the next.
            found = [reader.take() if isinstance(part, Medium) else part for part in given]
            try:
                prompt, parts = self._laid_out(given, found)
            except EmbedError as err:
                self._fail(err, i)
                continue
            chunk = chunks.setdefault(prompt, _Chunk(prompt))
            chunk.add(i, parts)
            if chunk.is_full:
                yield chunks.pop(prompt)
        yield from chunks.values()

    def _laid_out(
        self, given: list[str | Medium], found: list[str | list[_native.Media] | Exception]
    ) -> tuple[bytes, list[_native.Part]]:
        """The prompt that the tokenizer puts in front of an input, and the parts of the input."""
        parts: list[_native.Part] = []
        for part in found:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, str):
                parts.append(("text", self._bytes_of(part)))
            else:
                parts.extend(("media", media) for media in part)
        kinds = {part.kind for part in given if isinstance(part, Medium)}
        if not kinds:
            return self._prompt, parts
        rules = self._options.rules
        prompt = self._prompt if rules.takes_prompt else b""
        before, after = rules.around(self._options.template, kinds)
        if not before and not after:
            return prompt, parts
        begins = isinstance(given[0], str) and given[0].startswith(self._call.prompt)
        if prompt and not begins:
            parts.insert(0, ("text", prompt))
        return b"", [("template", before.encode()), *parts, ("template", after.encode())]

    def _bytes_of(self, text: str) -> bytes:
        if self._call.collects:  # what is not valid becomes an error of the input later on
            return text.encode("utf-8", "surrogatepass")
        return _buffers.encode_text(text, "the text")

    def _encode(self, chunk: _Chunk, progress: Progress | None) -> bool:
        """Fills in what there is to know of the inputs of a chunk; False if the call is over."""
        n_done, n = int(self._gathered.is_done.sum()), len(self._inputs)
        errors: dict[int, EmbedError] | None = {} if self._call.collects else None

        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(n_done + len(chunk.indices) * done // total, n)

        bounds = np.array(chunk.bounds, np.int64)
        try:
            tokens = tokenize(
                self._call, self._model, b"", bounds, chunk.prompt, errors, chunk.parts
            )
        except EmbedError as err:
            raise placed(err, chunk.indices) from None
        told = None if progress is None else report
        steps = self._gathered.encode(chunk.indices, tokens, errors, told)
        return drive(steps, self._engine)


def _check_tower(medium: Medium, modalities: frozenset[str]) -> None:
    needed = ["audio" if isinstance(medium, Audio) else "vision"]
    if isinstance(medium, Video) and medium.audio:
        needed.append("audio")
    wanted = "omni" if len(needed) > 1 else needed[0]
    for kind in needed:
        if kind not in modalities:
            raise UnsupportedError(
                f"{medium} needs {kind}, and no {kind} projector is loaded; give the Embedder "
                f"mmproj= the model's, or modality={wanted!r} to find it beside the model"
            )


def _n_bytes(media: _native.Media) -> int:
    """Memory of what a tower is given: RGB pixels, or 128 floats per mel frame."""
    width, height, n_frames = media.shape()
    return n_frames * (3 * width * height if width else 512)


class _Reader:
    """Prepares media on threads, ahead of the one that takes them in order."""

    def __init__(
        self,
        media: Sequence[Medium],
        model: _native.Model,
        options: MediaOptions,
        check: Callable[[], None],
    ) -> None:
        self._check = check
        self._media = media
        self._model = model
        self._options = options
        self._changed = threading.Condition()
        self._next = 0  # the first that no thread has begun
        self._taken = 0
        self._ready: dict[int, list[_native.Media] | Exception] = {}
        self._n_bytes = 0  # of what is ready
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name="ggembed-media", daemon=True)
            for _ in range(min(options.n_threads, len(media)))
        ]

    def __enter__(self) -> _Reader:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the system has no more threads, or Ctrl-C came
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):  # it was not started
                thread.join()

    def take(self) -> list[_native.Media] | Exception:
        """The next medium as towers take it, or why it cannot be."""
        with self._changed:
            while self._taken not in self._ready:
                self._changed.wait(WAKE_S)
                self._check()
            found = self._ready.pop(self._taken)
            self._taken += 1
            self._n_bytes -= _size(found)
            self._changed.notify_all()
        return found

    def _go_on(self) -> None:
        if self._closed:
            raise AbortedError("the call has ended")

    def _work(self) -> None:
        checkpoint.set(self._go_on)
        while (i := self._begin()) is not None:
            found: list[_native.Media] | Exception
            try:
                found = prepare(self._media[i], self._model, self._options.limits)
            except MemoryError as err:
                found = OutOfMemoryError(f"{self._media[i]}: {err}")
            except Exception as err:
                found = err
            with self._changed:
                self._ready[i] = found
                self._n_bytes += _size(found)
                self._changed.notify_all()

    def _begin(self) -> int | None:
        """The place of the next medium; None if there is nothing more to do."""
        with self._changed:
            # What is taken next has been begun before all that is ready, so this ends.
            while self._n_bytes >= _CHUNK_BYTES and not self._closed:
                self._changed.wait()
            if self._closed or self._next == len(self._media):
                return None
            self._next += 1
            return self._next - 1


def _size(found: list[_native.Media] | Exception) -> int:
    return 0 if isinstance(found, Exception) else sum(map(_n_bytes, found))
