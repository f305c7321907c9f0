"""close(), with, garbage collection, threads."""

from __future__ import annotations

import gc
import platform
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from ggembed import ClosedError, Embedder


def test_close_twice_is_fine(tiny):
    embedder = Embedder(tiny("bert-mean"))
    embedder.close()
    embedder.close()


def test_use_after_close_raises(tiny):
    embedder = Embedder(tiny("bert-mean"))
    embedder.close()
    for use in (
        lambda: embedder.encode("a"),
        lambda: embedder.encode([]),
        lambda: embedder.encode_query("a"),
        lambda: embedder.tokenize("a"),
        lambda: embedder.count_tokens(["a"]),
        embedder.info,
        embedder.__enter__,
    ):
        with pytest.raises(ClosedError, match="this Embedder is closed"):
            use()
    assert embedder.dim == 32


def test_with_closes(tiny):
    with Embedder(tiny("bert-mean")) as embedder:
        embedder.encode("a")
    with pytest.raises(ClosedError):
        embedder.encode("a")


def test_with_closes_after_an_error(tiny):
    with pytest.raises(ZeroDivisionError), Embedder(tiny("bert-mean")) as embedder:
        raise ZeroDivisionError
    with pytest.raises(ClosedError):
        embedder.encode("a")


def test_unused_embedder_dies(tiny):
    embedder = Embedder(tiny("bert-mean"))
    embedder.encode("a")
    _, engine = embedder._live()
    died = weakref.ref(engine)
    del embedder, engine
    gc.collect()
    assert died() is None


def test_failed_constructor_leaves_nothing(tiny):
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        with pytest.raises(ValueError, match="truncate_dim"):
            Embedder(tiny("bert-mean"), truncate_dim=1000)
    gc.collect()
    assert len(gc.get_objects()) < before + 200


def test_several_models_live_side_by_side(tiny, bert):
    expected = bert.encode("the question")
    with Embedder(tiny("qwen3-last")) as other, Embedder(tiny("bert-mean")) as same:
        other.encode("the question")
        np.testing.assert_allclose(same.encode("the question"), expected, atol=1e-6)
    np.testing.assert_allclose(bert.encode("the question"), expected, atol=1e-6)


def test_threads_share_one_embedder(bert):
    texts = [f"the question {i} " + "and answer " * (i % 7) for i in range(24)]
    expected = bert.encode(texts)
    barrier, wrong = threading.Barrier(6), []

    def work(seed):
        order = np.random.default_rng(seed).permutation(len(texts))
        barrier.wait()
        for part in np.array_split(order, 4):
            rows = bert.encode([texts[i] for i in part])
            wrong.extend(part[(rows * expected[part]).sum(1) < 1 - 1e-5])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_close_ends_calls_of_other_threads(tiny):
    embedder = Embedder(tiny("bert-mean"), n_threads=1)
    started, outcome = threading.Event(), []

    def work():
        try:
            while True:
                embedder.encode(["the question " * 100] * 20, progress=lambda *_: started.set())
        except Exception as err:
            outcome.append(err)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    embedder.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [type(err) for err in outcome] == [ClosedError]


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "os.kill(os.getpid(), 15)"])
def test_process_ends_with_an_open_embedder(run_python, tiny, ending):
    program = f"""
import os, sys, threading
from ggembed import Embedder
embedder = Embedder(sys.argv[1], n_threads=1)
def work():
    while True:
        embedder.encode(["the question " * 50] * 50)
threading.Thread(target=work, daemon=True).start()
embedder.encode("a")
print("ready", flush=True)
{ending}
"""
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout == "ready\n"
    assert done.returncode == (-15 if "kill" in ending else 0), done.stderr


@pytest.mark.parametrize(
    "work",
    [
        "while True: embedder.encode(texts, on_error='collect')",
        "while True: embedder.encode(texts[:50], progress=lambda *_: None)",
        "while True: embedder.encode(['a' * 3] * 2000 + ['x ' * 600], on_error='collect')",
        "while True: Embedder(sys.argv[1], progress=lambda *_: None)",
        "while True: asyncio.run(embedder.aencode(texts, on_error='collect'))",
    ],
)
def test_process_ends_while_daemon_threads_run_callbacks(run_python, tiny, work):
    """Python ends such a thread where it asks for the GIL, which must not be inside the library."""
    program = f"""
import asyncio, sys, threading, time
from ggembed import Embedder
threading.excepthook = lambda _: None  # ClosedError
embedder = Embedder(sys.argv[1], n_threads=1)
texts = ["the question " * 50] * 20000
def work():
    {work}
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
"""
    done = run_python(program, tiny("bert-mean"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tokens_of_one_call_may_outlive_the_embedder(tiny):
    embedder = Embedder(tiny("bert-mean"))
    ids = embedder.tokenize("the question")
    rows = embedder.encode(["a", "b"], output_value="token_embeddings")
    embedder.close()
    del embedder
    gc.collect()
    assert ids.sum() > 0
    assert all(np.isfinite(row).all() for row in rows)
    assert sys.getrefcount(ids) < 10


def test_threads_sleep_between_calls(tiny):
    """Upstream's spin for a tenth of a second after each call."""
    with Embedder(tiny("bert-mean"), n_threads=2) as embedder:
        spent = []
        for _ in range(3):
            embedder.encode("a few words")
            start = time.process_time()
            time.sleep(0.3)
            spent.append(time.process_time() - start)
    assert min(spent) < 0.04


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other mallocs keep less")
def test_memory_of_closed_models_goes_back_to_the_system(run_python):
    done = run_python(
        """
import threading
from pathlib import Path
from ggembed import Embedder

def use():
    with Embedder(n_threads=1) as embedder:
        embedder.encode(["a text of some words"] * 50)

def megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

use()
before = megabytes()
for _ in range(3):
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(megabytes() - before)
"""
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10  # 16 where each thread's arena keeps what it had
