"""Streams of texts: chunks of bounded size, read ahead on a thread while others are encoded."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from functools import partial
from typing import Any, Generic, TypeVar

from .errors import EmbedError, moved

T = TypeVar("T")

BATCH_SIZE = 512
BATCH_CHARS = 1 << 20

# How long the end of a stream waits for its thread, which may be inside the caller's iterable: long
# enough for the next line of a file, short enough for a terminal that nobody types into.
_GRACE_S = 0.5

# How often a wait looks up. Python takes note of Ctrl-C between bytecodes only: one that comes just
# before a wait begins would be slept through.
WAKE_S = 0.2


def encode_iter(
    encode_chunk: Callable[[list[Any]], Iterable[T]],
    texts: Iterable[Any],
    *,
    batch_size: int = BATCH_SIZE,
    batch_chars: int = BATCH_CHARS,
    read_ahead: int = 1,
    accepts: Callable[[Any], bool] = lambda _: False,
    n_chars: Callable[[Any], int] = len,
) -> Generator[T]:
    """Encodes a stream of any length in bounded memory.

    Texts are read in chunks. While one chunk is encoded, a thread reads the next ones, so that
    never more than ``batch_size * (1 + read_ahead)`` texts are read that have not come out yet.

    Parameters
    ----------
    encode_chunk : callable
        Takes a list of texts and gives one result for each.
    texts : iterable of str
        Read as it is needed, on another thread unless `read_ahead` is 0.
    batch_size : int, optional
        Most texts of a chunk.
    batch_chars : int, optional
        Most characters of a chunk; a longer text is a chunk of its own.
    read_ahead : int, optional
        Chunks that are read before they are needed. With 0 everything happens on the calling
        thread, for iterables that must not leave it, such as a database cursor.
    accepts : callable, optional
        Says whether something that is not a str is an input too.
    n_chars : callable, optional
        Gives the size of an input in characters.

    Yields
    ------
    object
        One result for each text, in order.

    Raises
    ------
    TypeError
        Something that is no input, with its index in the stream.
    EmbedError
        As `encode_chunk` raises it; ``input_index`` and message name the place in the stream.

    Notes
    -----
    An exception comes out after the results of all chunks before it; one that the iterable raises
    comes after the results of all texts before it. Closing the generator ends the thread; when that
    is inside the iterable, it ends once the iterable gives its next text.

    Examples
    --------
    >>> from ggembed.stream import encode_iter
    >>> list(encode_iter(lambda chunk: map(len, chunk), ["a", "bb", "ccc"], batch_size=2))
    [1, 2, 3]
    """
    _check_sizes(
        batch_size=(batch_size, 1), batch_chars=(batch_chars, 1), read_ahead=(read_ahead, 0)
    )
    stop = threading.Event()
    chunks = chunked(_each(texts, accepts), n_chars, batch_size, batch_chars, stop)
    return _results(encode_chunk, ahead(chunks, read_ahead, stop))


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (value, low) in sizes.items():
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")


def _results(
    encode_chunk: Callable[[list[Any]], Iterable[T]], chunks: Generator[list[Any]]
) -> Generator[T]:
    first = 0
    try:
        for chunk in chunks:
            try:
                results = encode_chunk(chunk)
            except EmbedError as err:
                moved(err, first)
                raise
            yield from results
            first += len(chunk)
    finally:
        chunks.close()


def _each(texts: Iterable[Any], accepts: Callable[[Any], bool]) -> Iterator[Any]:
    """The texts one by one, checked."""
    kind = type(texts).__name__
    if isinstance(texts, (str, bytes, bytearray, memoryview, Mapping)):
        raise TypeError(f"texts must be an iterable of str, got {kind}")
    shape = getattr(texts, "shape", None)  # iterating over a frame gives its column names
    if isinstance(shape, tuple) and len(shape) != 1:
        raise ValueError(f"texts must be one-dimensional, got shape {shape}")
    try:
        items = _of_arrow(texts) if hasattr(texts, "to_pylist") else iter(texts)
    except TypeError:
        raise TypeError(f"texts must be an iterable of str, got {kind}") from None
    return _checked(items, accepts)


def _checked(texts: Iterator[Any], accepts: Callable[[Any], bool]) -> Iterator[Any]:
    for i, text in enumerate(texts):
        _check(text, i, accepts)
        yield text


def _check(text: Any, i: int, accepts: Callable[[Any], bool]) -> None:
    if not isinstance(text, str) and not accepts(text):
        raise TypeError(f"texts must be str, got {type(text).__name__} at index {i}")


def _of_arrow(column: Any) -> Iterator[Any]:
    """Values of a pyarrow column, whose own iterator gives scalar objects."""
    for start in range(0, len(column), BATCH_SIZE):
        yield from column.slice(start, BATCH_SIZE).to_pylist()


def chunked(
    items: Iterable[T],
    n_chars: Callable[[T], int],
    batch_size: int,
    batch_chars: int = BATCH_CHARS,
    stop: threading.Event | None = None,
) -> Iterator[list[T]]:
    """Lists of at most `batch_size` items and `batch_chars` characters, but at least one item.

    What came before an exception of `items` comes out before it. Once `stop` is set, nothing more
    is taken.
    """
    gathering = _Gathering(n_chars, batch_size, batch_chars)
    try:
        for item in items:
            yield from gathering.add(item)
            if stop is not None and stop.is_set():
                return
    except Exception:
        if gathering.items:
            yield gathering.take()
        raise
    if gathering.items:
        yield gathering.take()


class _Gathering(Generic[T]):
    """The chunk that items are being gathered to."""

    def __init__(self, n_chars: Callable[[T], int], batch_size: int, batch_chars: int) -> None:
        self.items: list[T] = []
        self._n_chars = n_chars
        self._batch_size = batch_size
        self._batch_chars = batch_chars
        self._total = 0

    def add(self, item: T) -> Iterator[list[T]]:
        """Adds an item; gives the chunks that are complete now."""
        size = self._n_chars(item)
        if self.items and self._total + size > self._batch_chars:
            yield self.take()
        self.items.append(item)
        self._total += size
        if len(self.items) == self._batch_size:
            yield self.take()

    def take(self) -> list[T]:
        """What is there, and begins anew."""
        taken, self.items, self._total = self.items, [], 0
        return taken


async def achunks(
    texts: Iterable[Any] | AsyncIterable[Any],
    *,
    batch_size: int,
    read_ahead: int,
    accepts: Callable[[Any], bool],
    n_chars: Callable[[Any], int],
) -> AsyncGenerator[list[Any]]:
    """The chunks of a stream for a coroutine, of which `read_ahead` are read in advance.

    An iterable is read on threads of the loop's default executor, with `read_ahead` 0 on the
    loop's own. Other arguments as for ``encode_iter``.

    Examples
    --------
    >>> import asyncio
    >>> from ggembed.stream import achunks
    >>> async def chunks():
    ...     found = achunks(
    ...         ["a", "bb", "ccc"], batch_size=2, read_ahead=1, accepts=bool, n_chars=len
    ...     )
    ...     return [chunk async for chunk in found]
    >>> asyncio.run(chunks())
    [['a', 'bb'], ['ccc']]
    """
    _check_sizes(batch_size=(batch_size, 1), read_ahead=(read_ahead, 0))
    stop = threading.Event()
    gathering: _Gathering[Any] = _Gathering(n_chars, batch_size, BATCH_CHARS)
    if isinstance(texts, AsyncIterable):
        chunks = _of_async(texts, accepts, gathering)
    else:
        items = chunked(_each(texts, accepts), n_chars, batch_size, BATCH_CHARS, stop)
        chunks = _of_iterator(items, on_loop=read_ahead == 0)
    try:
        async with contextlib.aclosing(_aahead(chunks, read_ahead)) as found:
            async for chunk in found:
                yield chunk
    finally:
        stop.set()


async def _of_async(
    texts: AsyncIterable[Any], accepts: Callable[[Any], bool], gathering: _Gathering[Any]
) -> AsyncGenerator[list[Any]]:
    n = 0
    try:
        async for text in texts:
            _check(text, n, accepts)
            n += 1
            for chunk in gathering.add(text):
                yield chunk
    except Exception:
        if gathering.items:
            yield gathering.take()
        raise
    if gathering.items:
        yield gathering.take()


async def _of_iterator(chunks: Iterator[T], *, on_loop: bool) -> AsyncGenerator[T]:
    take = partial(next, chunks, None)
    while (chunk := take() if on_loop else await on_a_thread(take)) is not None:
        yield chunk


async def _aahead(items: AsyncGenerator[T], n: int) -> AsyncGenerator[T]:
    """The items of an asynchronous generator, of which a task takes the next `n` in advance."""
    if n == 0:
        async for item in items:
            yield item
        return
    slots = asyncio.Semaphore(n)
    taken: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()

    async def take() -> None:
        try:
            while await slots.acquire():
                taken.put_nowait((await anext(items),))
        except StopAsyncIteration:
            taken.put_nowait(None)
        except BaseException as err:
            taken.put_nowait(err)

    task = asyncio.ensure_future(take())
    try:
        while isinstance(found := await taken.get(), tuple):
            slots.release()
            yield found[0]
        if found is not None:
            raise found
    finally:
        found = None  # an exception's traceback holds this frame, and this frame the exception
        task.cancel()
        await asyncio.wait([task])
        await items.aclose()


def on_a_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """What a function returns that a thread of the loop's default executor runs.

    Examples
    --------
    >>> import asyncio
    >>> from ggembed.stream import on_a_thread
    >>> async def main():
    ...     return await on_a_thread(lambda: 1 + 1)
    >>> asyncio.run(main())
    2
    """
    context = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(None, context.run, function)


def ahead(items: Iterator[T], n: int, stop: threading.Event | None = None) -> Generator[T]:
    """The items of an iterator, of which a thread takes the next `n` while one is in use.

    Closing the generator sets `stop` and ends the thread.
    """
    if n == 0:
        yield from items
        return
    stop = threading.Event() if stop is None else stop
    slots = threading.Semaphore(n)
    taken: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    def take() -> None:
        try:
            while slots.acquire() and not stop.is_set():
                taken.put((next(items),))
        except StopIteration:
            taken.put(None)
        except BaseException as err:
            taken.put(err)

    # A daemon, because nothing can interrupt an iterable that waits for its next item.
    thread = threading.Thread(target=take, name="ggembed-reader", daemon=True)
    try:  # Ctrl-C may come inside of start
        if not _starts(thread):
            yield from items
            return
        while isinstance(found := _wait(taken), tuple):
            slots.release()
            yield found[0]
        if found is not None:
            raise found
    finally:
        found = None  # an exception's traceback holds this frame, and this frame the exception
        stop.set()
        slots.release()
        with contextlib.suppress(RuntimeError):  # it was not started
            thread.join(_GRACE_S)


def _starts(thread: threading.Thread) -> bool:
    """Starts a thread, unless the system has no more."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _wait(taken: queue.SimpleQueue[T]) -> T:
    while True:
        with contextlib.suppress(queue.Empty):
            return taken.get(timeout=WAKE_S)
