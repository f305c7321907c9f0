"""Streams of texts: chunks of bounded size, read ahead on a thread while others are encoded."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

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
    for name, value, low in (
        ("batch_size", batch_size, 1),
        ("batch_chars", batch_chars, 1),
        ("read_ahead", read_ahead, 0),
    ):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    stop = threading.Event()
    chunks = chunked(_each(texts, accepts), n_chars, batch_size, batch_chars, stop)
    return _results(encode_chunk, ahead(chunks, read_ahead, stop))


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
        if not isinstance(text, str) and not accepts(text):
            raise TypeError(f"texts must be str, got {type(text).__name__} at index {i}")
        yield text


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
    chunk: list[T] = []
    total = 0
    try:
        for item in items:
            size = n_chars(item)
            if chunk and total + size > batch_chars:
                yield chunk
                chunk, total = [], 0
            chunk.append(item)
            total += size
            if len(chunk) == batch_size:
                yield chunk
                chunk, total = [], 0
            if stop is not None and stop.is_set():
                return
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


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
