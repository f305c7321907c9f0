"""The process of a trial of chaos.py: computes on threads and coroutines until it is hit.

python chaos_child.py KIND SEED MODEL

Prints "ready" once the load runs, and "done" with what it measured when it has come through.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import functools
import gc
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from ggembed import AbortedError, BusyError, ClosedError, Embedder
from load import N_CTX, PATIENCE_S, Load

MANY = 100_000  # texts: more than are computed before the hit


def ready() -> None:
    print("ready", flush=True)


def done(load: Load, **measured: object) -> None:
    """Ends the load, and tells what came of the trial."""
    faults = load.stop()
    print("done" if not faults else "\n".join(faults), json.dumps(measured), flush=True)
    if faults:
        sys.exit(1)


def still_usable(load: Load) -> None:
    for _ in range(1000):
        with contextlib.suppress(AbortedError):  # by the load
            load.check(range(len(load.texts)), load.embedder.encode(load.texts))
            return
    raise AssertionError("all calls are aborted")


def moment(draw: random.Random) -> None:
    """Waits for a random time, often none."""
    time.sleep(draw.choice((0.0, 0.003, 0.03, 0.3)) * draw.random())


# ------------------------------------------------------------------ a worker is killed

_mine: Embedder | None = None


def make_own(model: str) -> None:
    global _mine
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _mine = Embedder(model, n_threads=1, n_ctx=N_CTX)


def encode_own(texts: list[str]) -> np.ndarray:
    assert _mine is not None
    return _mine.encode(texts)


def kill_worker(load: Load, draw: random.Random, model: str) -> None:
    """A worker dies: the pool says so, and the engine here and a new pool are as good as before."""
    load.start(n_threads=1)
    way = draw.choice(("fork", "forkserver", "spawn"))

    def pool() -> ProcessPoolExecutor:
        context = multiprocessing.get_context(way)
        return ProcessPoolExecutor(2, context, make_own, (model,))

    with pool() as workers:
        load.check(range(5), workers.submit(encode_own, load.texts[:5]).result(PATIENCE_S))
        futures = [workers.submit(encode_own, load.texts * 20) for _ in range(20)]
        ready()
        moment(draw)
        os.kill(draw.choice(list(workers._processes)), signal.SIGKILL)
        n_broken = sum(isinstance(f.exception(PATIENCE_S), BrokenProcessPool) for f in futures)
    still_usable(load)
    with pool() as workers:
        load.check(range(5), workers.submit(encode_own, load.texts[:5]).result(PATIENCE_S))
    done(load, way=way, n_broken=n_broken)


# ------------------------------------------------------------------ the process forks


def fork(load: Load, draw: random.Random, _model: str) -> None:
    """Forked children, in which the object is refused, end as any process does."""
    load.start()
    ready()
    for _ in range(3):
        moment(draw)
        way = draw.choice(("exit", "close", "collect"))
        pid = os.fork()
        if pid == 0:
            _end_of_forked(load, way)
        if (status := os.waitpid(pid, 0)[1]) != 0:
            load.faults.append(f"the forked child ended with status {status}")
    still_usable(load)
    done(load)


def _end_of_forked(load: Load, way: str) -> None:
    for use in (
        lambda: load.embedder.encode("a"),
        lambda: asyncio.run(load.embedder.aencode("a")),
        load.embedder.stats,
    ):
        with contextlib.suppress(ClosedError):
            use()
            raise AssertionError("a forked child may use the engine of its parent")
    if way == "close":
        load.embedder.close()
    elif way == "collect":
        del load.embedder
        gc.collect()
    sys.exit(0)


# ------------------------------------------------------------------ another thread closes


def close(load: Load, draw: random.Random, _model: str) -> None:
    """All calls end with ClosedError, whoever closes, and however often."""
    load.may_close.set()
    load.start(n_threads=4)
    ready()
    moment(draw)
    n = draw.choice((1, 1, 3))
    closers = [threading.Thread(target=load.embedder.close) for _ in range(n)]
    for thread in closers:
        thread.start()
    with contextlib.suppress(ClosedError, AbortedError):
        load.embedder.encode(load.texts * 50)
    for thread in closers:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "close() hangs"
    try:
        load.embedder.encode("a")
    except ClosedError:
        done(load)


# ------------------------------------------------------------------ Ctrl-C


def interrupt(load: Load, draw: random.Random, _model: str) -> None:
    """KeyboardInterrupt leaves a long call of the main thread soon, and a usable engine."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore it
    what = draw.choice(("encode", "collect", "stream", "many", "coroutines"))
    texts = (load.texts * (MANY // len(load.texts) + 1))[:MANY]
    embedder = load.embedder

    async def await_all() -> None:
        ready()  # here, since asyncio.run itself does not mind where it is interrupted
        while True:
            with contextlib.suppress(AbortedError):
                await asyncio.gather(*(embedder.aencode(load.texts) for _ in range(200)))

    calls = {
        "encode": lambda: embedder.encode(texts),
        "collect": lambda: embedder.encode(texts, on_error="collect"),
        "stream": lambda: sum(1 for _ in embedder.encode_iter(texts)),
        "many": lambda: [embedder.encode(text) for text in texts],
        "coroutines": lambda: asyncio.run(await_all()),
    }
    load.start(n_threads=draw.randrange(3), n_coroutines=draw.choice((0, 4)))
    try:
        if what != "coroutines":
            ready()
        while True:  # AbortedError is the load's
            with contextlib.suppress(AbortedError):
                calls[what]()
    except KeyboardInterrupt:
        at = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    still_usable(load)
    done(load, what=what, at=at)


# ------------------------------------------------------------------ the interpreter ends


def leave(load: Load, draw: random.Random, _model: str) -> None:
    """The interpreter ends in the middle of it all, and without close()."""
    ending = draw.choice(("return", "exit", "error", "atexit", "drop"))
    load.may_close.set()
    load.start(n_threads=3)
    if ending == "atexit":
        atexit.register(lambda: print("late", load.embedder.encode("a").shape, flush=True))
    ready()
    moment(draw)
    print("done", json.dumps({"ending": ending}), flush=True)
    if ending == "exit":
        sys.exit(0)
    if ending == "error":
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        raise SystemExit(0) from RuntimeError()
    if ending == "drop":
        del load.embedder
        gc.collect()


# ------------------------------------------------------------------ SIGTERM


def terminate(load: Load, draw: random.Random, _model: str) -> None:
    """What a service does: the handler closes, and the process ends."""
    how = draw.choice(("close", "wait"))
    embedder = load.embedder

    def handler(_number: int, _frame: object) -> None:
        load.may_close.set()
        load.is_over.set()
        with contextlib.suppress(BusyError):  # the handler interrupts a call
            embedder.close(wait=how == "wait")
        embedder.close()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, handler)
    is_busy = draw.randrange(2) == 0  # the main thread, too
    load.start()
    atexit.register(_report_at_exit, load, how, is_busy)
    ready()
    while True:
        with contextlib.suppress(AbortedError):
            load.embedder.encode(load.texts * 20) if is_busy else time.sleep(PATIENCE_S)


def _report_at_exit(load: Load, how: str, is_busy: bool) -> None:
    faults = load.stop()
    print("done" if not faults else "\n".join(faults), json.dumps([how, is_busy]), flush=True)


KINDS = {
    "kill-worker": kill_worker,
    "fork": fork,
    "close": close,
    "interrupt": interrupt,
    "leave": leave,
    "terminate": terminate,
}


def main() -> None:
    kind, seed, model = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    faulthandler.enable()  # of a hang, too: the driver sends SIGABRT
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside other threads
    draw = random.Random(seed)
    embedder = Embedder(model, n_threads=1, n_ctx=N_CTX, n_ubatch=draw.choice((64, 512)))
    load = Load(embedder, seed, n_texts=20)
    del embedder
    functools.partial(KINDS[kind], load, draw, model)()


if __name__ == "__main__":
    main()
