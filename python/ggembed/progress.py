"""A small progress bar on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_WIDTH = 24
_MIN_INTERVAL_S = 0.1


class ProgressBar:
    """Draws progress on one line that it rewrites; not on a terminal it writes only the last state.

    Parameters
    ----------
    label : str
        What is going on.
    unit : str
        What is counted.
    stream : text stream, optional
        Where to draw; standard error by default.
    """

    def __init__(self, label: str, unit: str = "tokens", stream: TextIO | None = None) -> None:
        self._label = label
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._start = time.monotonic()
        self._drawn = float("-inf")
        self._line = ""

    def __call__(self, done: int, total: int) -> None:
        """Takes the state: `done` of `total`."""
        now = time.monotonic()
        if now - self._drawn < _MIN_INTERVAL_S and done < total:
            return
        self._drawn = now
        part = done / total if total else 1.0
        filled = "#" * round(part * _WIDTH)
        rate = done / max(now - self._start, 1e-9)
        self._line = (
            f"{self._label} {part:4.0%} [{filled:<{_WIDTH}}] "
            f"{done:,}/{total:,} {self._unit}, {rate:,.0f}/s"
        )
        if self._live:
            self._write(f"\r{self._line}\x1b[K")

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._line:
            self._write("\n" if self._live else f"{self._line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
