"""One encode call with its arguments checked, for callers that wait and for those that await."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt

from . import _buffers, _media_calls, _native, _requests, _text_calls
from ._calls import Ahead, Call, Encoding, Next, Step, Steps, Work, drive
from ._single_texts import SingleTexts, is_short_text
from .errors import AbortedError, EmbedError
from .results import Encoded, TokenRows
from .stream import on_a_thread

T = TypeVar("T")
Result = npt.NDArray[Any] | TokenRows | Encoded

# What takes longer, as tokenising some 100 microseconds of text does, leaves the loop's thread.
_BYTES_ON_LOOP = 1 << 14
_ITEMS_ON_LOOP = 64


class Settled(NamedTuple):
    """What the options of a call come to, whatever its inputs are."""

    call: Call
    media: _media_calls.MediaOptions
    single: SingleTexts | None  # for calls on one text, where they are enough


class Plan(NamedTuple):
    """A call of encode or aencode."""

    settled: Settled
    handles: tuple[_native.Model, _native.Engine]
    inputs: object
    out: npt.NDArray[Any] | None
    check: Callable[[], None]  # raises if the call is to end

    @property
    def call(self) -> Call:
        return self.settled.call

    @property
    def media(self) -> _media_calls.MediaOptions:
        return self.settled.media

    def run(self) -> Result:
        """Computes the rows on this thread."""
        single, inputs = self.settled.single, self.inputs
        if single is not None and is_short_text(inputs):
            return single.encode(inputs, self.out)
        given = self._read()
        if isinstance(given, _buffers.Texts):
            return drive(self._steps(given), self.handles[1])
        return _media_calls.run(self.call, self.handles, *given, self.out, self.media, self.check)

    async def arun(self) -> Result:
        """Computes the rows, while the loop does other things."""
        single, inputs = self.settled.single, self.inputs
        if single is not None and is_short_text(inputs):
            return await single.aencode(inputs, self.out)
        given = self._read() if _is_short(self.inputs) else await on_a_thread(self._read)
        if isinstance(given, _buffers.Texts):
            return await _adrive(self._steps(given), self.handles[1])
        return await self._run_media(*given)

    def _read(self) -> _buffers.Texts | tuple[list[Any], bool]:
        return _media_calls.as_inputs(
            self.inputs,
            keep_invalid=self.call.collects,
            auto=self.media.auto,
            takes_media=bool(self.media.modalities),
        )

    def _steps(self, texts: _buffers.Texts) -> Steps[Result]:
        return _text_calls.steps(self.call, self.handles, texts, self.out, self.check)

    async def _run_media(self, items: list[Any], single: bool) -> Result:
        """Decodes and computes on a thread of the loop's pool, until this is cancelled."""
        is_cancelled = threading.Event()

        def check() -> None:
            if is_cancelled.is_set():
                raise AbortedError("the task was cancelled")
            self.check()

        def progress(done: int, total: int) -> None:
            check()
            if self.call.progress is not None:
                self.call.progress(done, total)

        call = replace(self.call, progress=progress)
        what = call, self.handles, items, single, self.out, self.media, check
        try:
            return await on_a_thread(partial(_media_calls.run, *what))
        finally:
            is_cancelled.set()


def _is_short(inputs: object) -> bool:
    """Whether inputs are so little that reading them takes no time."""
    if isinstance(inputs, str):
        return len(inputs) <= _BYTES_ON_LOOP
    if not isinstance(inputs, (list, tuple)) or len(inputs) > _ITEMS_ON_LOOP:
        return False
    return sum(len(item) for item in inputs if isinstance(item, str)) <= _BYTES_ON_LOOP


class _Ahead:
    """The items of an iterator, of which a thread of the loop's pool takes the next in advance."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._coming = self._take()

    def _take(self) -> asyncio.Future[Any]:
        return on_a_thread(partial(next, self._items, None))

    async def next(self) -> Any:
        """The next item, or None after the last."""
        found = await self._coming
        if found is not None:
            self._coming = self._take()
        return found

    def close(self) -> None:
        self._coming.cancel()
        if self._coming.done() and not self._coming.cancelled():
            self._coming.exception()  # which nobody wants to know


async def _adrive(steps: Steps[T], engine: _native.Engine) -> T:
    """Does the steps of a call one after the other."""
    try:
        step = next(steps)
        while True:
            step = _resume(steps, *await _outcome(step, engine))
    except StopIteration as end:
        result: T = end.value
        return result


async def _outcome(step: Step, engine: _native.Engine) -> tuple[Any, BaseException | None]:
    """What a step gives, or raises."""
    try:
        return await _do(step, engine), None
    except BaseException as err:
        return None, err


def _resume(steps: Steps[T], done: Any, error: BaseException | None) -> Step:
    """The next step. Not in a coroutine, which StopIteration cannot leave."""
    try:
        return steps.send(done) if error is None else steps.throw(error)
    finally:
        error = None  # its traceback holds this frame


async def _do(step: Step, engine: _native.Engine) -> Any:
    if isinstance(step, Work):
        short = step.n_bytes <= _BYTES_ON_LOOP
        return step.function() if short else await on_a_thread(step.function)
    if isinstance(step, Encoding):
        return await _encode(step, engine)
    if isinstance(step, Ahead):
        return _Ahead(step.items)
    if isinstance(step, Next):
        return await step.items.next()
    return None


async def _encode(step: Encoding, engine: _native.Engine) -> EmbedError | None:
    submit, progress = partial(step.submit, engine), step.progress
    if progress is None:
        return await _requests.compute(engine, submit)
    n_tokens, told = int(step.tokens.offsets()[-1]), 0
    progress(0, n_tokens)

    def tell(done: int) -> None:
        nonlocal told
        if done > told:
            told = done
            progress(done, n_tokens)

    ended = await _requests.compute(engine, submit, tell)
    if ended is None and told < n_tokens:
        progress(n_tokens, n_tokens)
    return ended
