"""Requests of coroutines: told of by the engine, finished on the loop that made them."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import Callable

from . import _native
from .errors import BusyError, EmbedError

# How many are begun and finished before a loop may do something else: about a millisecond of each.
_AT_ONCE = 16
_TELL_S = 0.1  # how often a request says how far it is


class _Room:
    """Who waits until an engine takes another request: first come, first served."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiter] = deque()

    def tell_first(self) -> None:
        """Lets the first try again. Any thread."""
        while self.waiting:
            with contextlib.suppress(IndexError):  # it has just gone
                first = self.waiting[0]
                if first.tell():
                    return
                with contextlib.suppress(ValueError):
                    self.waiting.remove(first)  # its loop is closed

    async def enter(
        self, submit: Callable[[], _native.Request], loop: _LoopQueue
    ) -> _native.Request:
        """Submits a request once there is room for it."""
        if not self.waiting:
            with contextlib.suppress(BusyError):
                return submit()
        waiter = _Waiter(loop)
        self.waiting.append(waiter)
        try:
            # The first tries again at once: what was done before it waited has told nobody.
            while True:
                if self.waiting[0] is waiter:
                    with contextlib.suppress(BusyError):
                        return submit()
                await waiter.event.wait()
                waiter.event.clear()
        finally:
            with contextlib.suppress(ValueError):
                self.waiting.remove(waiter)
            self.tell_first()


class _Waiter:
    """A coroutine that waits for room."""

    def __init__(self, loop: _LoopQueue) -> None:
        self.event = asyncio.Event()
        self._loop = loop

    def tell(self) -> bool:
        """Wakes it, from any thread; False if its loop is closed."""
        return self._loop.add(self)

    def settle(self) -> None:
        self.event.set()


class _Pending:
    """A request, and the future that a coroutine awaits."""

    def __init__(self, loop: _LoopQueue, room: _Room) -> None:
        self.future: asyncio.Future[EmbedError | None] = asyncio.get_running_loop().create_future()
        self.request: _native.Request | None = None
        self.is_awaited = True
        self._loop = loop
        self._room = room

    def on_done(self, request: _native.Request) -> None:
        """Hands a request that is done to its loop. Runs on a thread of the engine."""
        self.request = request
        if not self._loop.add(self):
            # Nothing may be let go of here, since it may hold the last reference to the engine.
            _left.append(self)
        self._room.tell_first()

    def settle(self) -> None:
        """Finishes the request, whose task may have been cancelled."""
        request, self.request = self.request, None
        if request is None:
            return
        try:
            ended = request.finish()
        except EmbedError as err:
            if self.is_awaited and not self.future.done():
                self.future.set_exception(err)
        else:
            if self.is_awaited and not self.future.done():
                self.future.set_result(ended)

    def drop(self) -> None:
        """Finishes the request of a loop that is closed."""
        request, self.request = self.request, None
        if request is not None:
            with contextlib.suppress(EmbedError):
                request.finish()


_left: deque[_Pending] = deque()  # requests that were done when their loop was closed


def _leave(items: deque[_Pending | _Waiter]) -> None:
    """Keeps what a loop had not settled when it ended."""
    _left.extend(item for item in items if isinstance(item, _Pending))


class _LoopQueue:
    """What the engines' threads have for a loop, which is woken once for as much as there is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._items: deque[_Pending | _Waiter] = deque()
        self._is_told = False
        self._n_begun = 0  # in this turn of the loop
        self._beginning: deque[asyncio.Future[None]] = deque()  # that wait for a later one
        weakref.finalize(loop, _leave, self._items).atexit = False

    async def begin(self) -> None:
        """Waits for a turn of the loop that has not begun enough calls yet: first come first."""
        loop = asyncio.get_running_loop()
        if self._n_begun == 0:
            loop.call_soon(self._next_turn)
        if self._n_begun < _AT_ONCE and not self._beginning:
            self._n_begun += 1
            return
        place: asyncio.Future[None] = loop.create_future()
        self._beginning.append(place)
        await place

    def _next_turn(self) -> None:
        self._n_begun = 0
        while self._beginning and self._n_begun < _AT_ONCE:
            place = self._beginning.popleft()
            if not place.done():  # it may be cancelled
                place.set_result(None)
                self._n_begun += 1
        loop = self._loop()
        if self._n_begun and loop is not None:
            loop.call_soon(self._next_turn)

    def add(self, item: _Pending | _Waiter) -> bool:
        """Has an item settled on the loop; False if the loop is closed. Any thread."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            return False
        self._items.append(item)
        if not self._is_told:
            self._is_told = True
            try:
                loop.call_soon_threadsafe(self._settle)
            except RuntimeError:  # it was closed just now
                return False
        return True

    def _settle(self) -> None:
        self._is_told = False
        for _ in range(min(len(self._items), _AT_ONCE)):
            self._items.popleft().settle()
        loop = self._loop()
        if self._items and loop is not None and not self._is_told:
            self._is_told = True
            loop.call_soon(self._settle)


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopQueue] = (
    weakref.WeakKeyDictionary()
)
_rooms: weakref.WeakKeyDictionary[_native.Engine, _Room] = weakref.WeakKeyDictionary()


def _queue() -> _LoopQueue:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    if (queue := _loops.get(loop)) is None:
        queue = _loops[loop] = _LoopQueue(loop)
    return queue


async def begin() -> None:
    """Comes before all else that a call does, so that many at once do not hold up their loop."""
    await _queue().begin()


async def compute(
    engine: _native.Engine,
    submit: Callable[[Callable[[_native.Request], None]], _native.Request],
    tell: Callable[[int], object] | None = None,
) -> EmbedError | None:
    """What a request comes to. Cancelled, it aborts the request.

    submit: starts the request, given what is called once it is done.
    tell: called on the loop's thread with the tokens that are done. Its exception ends
        the request.
    """
    while _left:
        _left.popleft().drop()
    queue = _queue()
    if (room := _rooms.get(engine)) is None:
        room = _rooms.setdefault(engine, _Room())
    pending = _Pending(queue, room)
    request = await room.enter(lambda: submit(pending.on_done), queue)
    try:
        while tell is not None and not pending.future.done():
            await asyncio.wait([pending.future], timeout=_TELL_S)
            if not pending.future.done():
                tell(request.n_done)
        return await pending.future
    finally:
        if not pending.future.done() or pending.future.cancelled():
            pending.is_awaited = False
            request.abort()
