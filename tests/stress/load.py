"""Threads and coroutines that embed random texts and compare each row with that of its text alone.

Used in processes of their own by chaos_child.py and soak.py. Needs ggembed and numpy, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import traceback
from typing import TYPE_CHECKING

import numpy as np
from ggembed import AbortedError, ClosedError, TextTooLongError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ggembed import Embedder

N_CTX = 200  # tokens, for all embedders of a load
LIMIT = 0.99999
PATIENCE_S = 60
WORDS = [
    "the",
    "question",
    "of",
    "Zürich",
    "search",
    "a",
    "向量",
    "2024",
    "don't",
    "\n",
    "мир",
    "...",
]
TOO_LONG = "too long " * N_CTX


class StopError(Exception):
    """Raised by callbacks of these calls."""


def draw_texts(seed: int, n: int) -> list[str]:
    """Texts of one word up to a good part of the context."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=int(1.5 ** draw.randrange(10)))) for _ in range(n)]


class Load:
    """What embeds on one Embedder until it is stopped, or the Embedder closed."""

    def __init__(self, embedder: Embedder, seed: int, *, n_texts: int = 60) -> None:
        self.embedder = embedder
        self.seed = seed
        self.texts = draw_texts(seed, n_texts)
        self.alone = np.stack([embedder.encode(text) for text in self.texts])
        self.is_over = threading.Event()
        self.may_close = threading.Event()  # ClosedError is no fault
        self.faults: list[str] = []
        self.n_calls = 0
        self.n_rows = 0
        self.n_errors = 0
        self.n_threads = 0
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, *, n_threads: int = 2, n_coroutines: int = 4, daemon: bool = True) -> None:
        """Starts the threads, one of which runs the coroutines."""
        works: list[Callable[[random.Random], None]] = [self._in_thread] * n_threads
        if n_coroutines:
            works.append(lambda draw: asyncio.run(self._coroutines(draw, n_coroutines)))
        for work in works:
            self.n_threads += 1
            draw = random.Random(self.seed * 1000 + self.n_threads)
            thread = threading.Thread(target=self._guard, args=(work, draw), daemon=daemon)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> list[str]:
        """Waits for the threads; returns what went wrong."""
        self.is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                self.faults.append("a thread did not come back")
        self._threads.clear()
        return self.faults

    def check(self, picks: Sequence[int], rows: np.ndarray) -> None:
        """Raises if a row is not that of its text alone."""
        cosine = np.einsum("ij,ij->i", rows, self.alone[list(picks)])
        if not (cosine >= LIMIT).all():
            worst = int(np.nan_to_num(cosine, nan=-1).argmin())
            raise AssertionError(f"text {picks[worst]}: cosine {cosine[worst]} with its row alone")
        with self._lock:
            self.n_rows += len(picks)

    def draw(self, draw: random.Random) -> list[int]:
        """Numbers of the texts of a call, mostly few."""
        return draw.choices(range(len(self.texts)), k=draw.choice((1, 1, 2, 5, 40)))

    def call(self, draw: random.Random) -> None:
        """One call of a thread."""
        embedder, picks = self.embedder, self.draw(draw)
        texts = [self.texts[pick] for pick in picks]
        what = draw.randrange(20)
        if what == 0:
            embedder.abort()
        elif what == 1:
            self._fails(TextTooLongError, lambda: embedder.encode([*texts, TOO_LONG]))
        elif what == 2:
            self._fails(StopError, lambda: embedder.encode(texts, progress=_raise))
        elif what == 3:
            self._fails(TypeError, lambda: embedder.encode([*texts, 7]))
        elif what <= 6:
            found = embedder.encode([*texts, TOO_LONG], on_error="collect")
            assert isinstance(found.errors.pop(len(picks)), TextTooLongError)
            endings = (AbortedError, ClosedError) if self.may_close.is_set() else AbortedError
            if not all(isinstance(err, endings) for err in found.errors.values()):
                raise AssertionError(f"errors {found.errors}")
            there = [k for k in range(len(picks)) if k not in found.errors]
            self.check([picks[k] for k in there], found.rows[there])
        elif what <= 8:
            self.check(picks, np.stack(list(embedder.encode_iter(texts))))
        else:
            self.check(picks, embedder.encode(texts))

    def _fails(self, error: type[Exception], call: Callable[[], object]) -> None:
        try:
            call()
        except error:
            self.n_errors += 1
        else:
            raise AssertionError(f"no {error.__name__}")

    async def acall(self, draw: random.Random) -> None:
        """One call of a coroutine, which may not wait for it."""
        picks = self.draw(draw)
        task = asyncio.ensure_future(self.embedder.aencode([self.texts[pick] for pick in picks]))
        if draw.randrange(4) == 0:
            await asyncio.sleep(draw.random() * 0.01)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self.check(picks, await task)

    def _in_thread(self, draw: random.Random) -> None:
        while not self.is_over.is_set():
            with contextlib.suppress(AbortedError):
                self.call(draw)
            self.n_calls += 1

    async def _coroutines(self, draw: random.Random, n: int) -> None:
        async def work(own: random.Random) -> None:
            while not self.is_over.is_set():
                with contextlib.suppress(AbortedError):
                    await self.acall(own)
                self.n_calls += 1

        done = await asyncio.gather(
            *(work(random.Random(draw.random())) for _ in range(n)), return_exceptions=True
        )
        for error in done:
            if error is not None:
                raise error

    def _guard(self, work: Callable[[random.Random], None], draw: random.Random) -> None:
        try:
            work(draw)
        except ClosedError:
            if not self.may_close.is_set():
                self.faults.append(traceback.format_exc())
        except BaseException:
            self.faults.append(traceback.format_exc())


def _raise(_done: int, _total: int) -> None:
    raise StopError
