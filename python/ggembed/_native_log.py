"""The last lines of the native log, kept for the exceptions of the calls that they belong to."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

N_LINES = 16  # of an exception, at most


class NativeLog:
    """Sorts lines by what they belong to.

    A call that loads something logs on the thread that made it. What the threads of engines log
    while they compute may belong to any of the calls that wait for it; of that, only complaints are
    kept, which what an engine sets up anew after a failure would push out.
    """

    def __init__(self) -> None:
        self._loading: dict[int, deque[str]] = {}  # by thread
        self._computing: deque[tuple[int, str]] = deque(maxlen=N_LINES)
        self._n = 0

    @property
    def mark(self) -> int:
        """What `lines` takes to leave out those from before."""
        return self._n

    def add(self, line: str, *, complains: bool) -> None:
        """Takes a line of the thread that logs. complains: it is a warning or an error."""
        own = self._loading.get(threading.get_ident())
        if own is not None:
            own.append(line)
        elif complains:
            self._n += 1
            self._computing.append((self._n, line))

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Keeps the lines of this thread apart meanwhile."""
        thread = threading.get_ident()
        outer = self._loading.get(thread)  # a progress callback may load another model
        self._loading[thread] = deque(maxlen=N_LINES)
        try:
            yield
        finally:
            if outer is None:
                del self._loading[thread]
            else:
                self._loading[thread] = outer

    def lines(self, mark: int) -> tuple[str, ...]:
        """The last lines of the call on this thread, or of the engines since the mark."""
        own = self._loading.get(threading.get_ident())
        if own is not None:
            return tuple(own)
        return tuple(line for n, line in self._computing.copy() if n > mark)
