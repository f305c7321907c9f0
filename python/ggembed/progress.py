"""Progress bars on standard error, and in notebooks."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

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


class TqdmBar:
    """The same with a bar of tqdm.

    Parameters
    ----------
    make : callable
        The class of tqdm to use.
    label, unit : str
        As for ``ProgressBar``.
    """

    def __init__(self, make: Any, label: str, unit: str) -> None:
        self._bar = make(desc=label, unit=f" {unit}", unit_scale=True, file=sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        """Takes the state: `done` of `total`."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> TqdmBar:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


def progress_bar(label: str, unit: str) -> ProgressBar | TqdmBar:
    """The bar of ``show_progress_bar``: tqdm's where it is installed and there is something to see.

    That is on a terminal, and in a notebook, where it is a widget. Elsewhere, as in a log file, and
    without tqdm it is a ``ProgressBar``.

    Parameters
    ----------
    label, unit : str
        As for ``ProgressBar``.

    Returns
    -------
    ProgressBar or TqdmBar

    Examples
    --------
    >>> from ggembed.progress import progress_bar
    >>> with progress_bar("work", "pages") as bar:
    ...     bar(10, 10)
    """
    if sys.stderr.isatty() or _in_notebook():
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            return TqdmBar(tqdm, label, unit)
    return ProgressBar(label, unit)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
