"""The calls of an Embedder that have begun and not ended."""

from __future__ import annotations

import threading
import time

from .errors import BusyError

_WAKE_S = 0.01


class Running:
    """Knows the thread that each call began on; costs a call next to nothing."""

    def __init__(self) -> None:
        self._threads: list[int] = []

    def begin(self) -> int:
        """Notes a call; returns what `end` takes, perhaps on the garbage collector's thread."""
        thread = threading.get_ident()
        self._threads.append(thread)
        return thread

    def end(self, thread: int) -> None:
        """Notes the end of a call."""
        self._threads.remove(thread)

    def check(self) -> None:
        """Refuses to wait on a thread that has begun calls itself."""
        if n := self._threads.count(threading.get_ident()):
            raise BusyError(
                f"this thread has begun {n} calls that have not ended, so it cannot wait for them; "
                "on an event loop: await asyncio.to_thread(embedder.close, wait=True)"
            )

    def wait(self) -> None:
        """Returns when all have ended."""
        while self._threads:
            time.sleep(_WAKE_S)
