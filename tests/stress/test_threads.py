"""Many threads on one Embedder: the rows of a serial run, and a clean end when it is closed."""

from __future__ import annotations

import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import golden
import numpy as np
import pytest
import texts
from ggembed import ClosedError, Embedder

N_THREADS = 8
LIMIT = 0.99999
DEADLINE_S = 60

MODELS = ("bert-mean", "eurobert-last", "qwen3-last", "gemma3-last")


@pytest.fixture(autouse=True)
def tiny_switch_interval():
    """Lets Python change threads after almost every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work) -> list:
    """Runs work(i) in N_THREADS threads that start together; returns results, or raises."""
    barrier = threading.Barrier(N_THREADS)

    def start(i: int):
        barrier.wait(DEADLINE_S)
        return work(i)

    with ThreadPoolExecutor(N_THREADS) as pool:
        futures = [pool.submit(start, i) for i in range(N_THREADS)]
        late = wait(futures, timeout=DEADLINE_S).not_done
        assert not late, f"{len(late)} of {N_THREADS} threads did not come back"
        return [future.result() for future in futures]


@pytest.mark.parametrize("name", MODELS)
def test_rows_equal_the_serial_ones(name, tiny):
    inputs = texts.TINY_TEXTS + [f"{t} {i}" for i, t in enumerate(texts.TEXTS_ENGLISH[:20])]
    with Embedder(tiny(name), device="cpu", n_threads=1) as embedder:
        serial = np.stack([embedder.encode(text) for text in inputs])

        def work(i: int) -> float:
            draw = random.Random(i)
            worst = 1.0
            for size in (1, 1, 5, 1, 30, 2, 1, 12):
                picks = [draw.randrange(len(inputs)) for _ in range(size)]
                found = embedder.encode([inputs[p] for p in picks])
                worst = min(worst, float(golden.cosine(found, serial[picks]).min()))
            return worst

        assert min(in_threads(work)) >= LIMIT


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last"])
def test_tokens_equal_the_serial_ones(name, tiny):
    with Embedder(tiny(name), device="cpu", n_threads=1) as embedder:
        serial = [list(map(int, ids)) for ids in embedder.tokenize(texts.STRINGS)]

        def work(i: int) -> bool:
            picks = random.Random(i).sample(range(len(serial)), len(serial))
            found = embedder.tokenize([texts.STRINGS[p] for p in picks])
            return all(list(map(int, f)) == serial[p] for f, p in zip(found, picks, strict=True))

        assert all(in_threads(work))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.1])
def test_close_while_others_encode_gives_closed_error(name, after_s, tiny):
    embedder = Embedder(tiny(name), device="cpu", n_threads=1)
    dim = embedder.dim
    inputs = [f"{text} {i}" for i, text in enumerate(texts.TINY_TEXTS * 3)]

    def work(i: int) -> int:
        if i == 0:
            time.sleep(after_s)
            embedder.close()
            return 0
        n_calls = 0
        try:
            while True:
                assert embedder.encode(inputs[: 1 + i * 4]).shape[1] == dim
                n_calls += 1
        except ClosedError:
            return n_calls

    in_threads(work)
    embedder.close()
    with pytest.raises(ClosedError):
        embedder.encode("after the end")


def test_close_from_many_threads_at_once(tiny):
    for _ in range(20):
        embedder = Embedder(tiny("bert-mean"), device="cpu", n_threads=1)
        embedder.encode("a text")
        in_threads(lambda _, e=embedder: e.close())


def test_embedders_of_one_file_in_each_thread(tiny):
    path = tiny("qwen3-last")
    with Embedder(path, device="cpu", n_threads=1) as embedder:
        wanted = embedder.encode(texts.TINY_TEXTS)

    def work(_: int) -> float:
        worst = 1.0
        for _ in range(4):
            with Embedder(path, device="cpu", n_threads=1) as own:
                cosine = golden.cosine(own.encode(texts.TINY_TEXTS), wanted)
                worst = min(worst, float(cosine.min()))
        return worst

    assert min(in_threads(work)) >= LIMIT


def test_an_exception_in_one_thread_leaves_the_others_alone(tiny):
    inputs = texts.TINY_TEXTS * 6
    with Embedder(tiny("qwen3-last"), device="cpu", n_threads=1, n_ubatch=64) as embedder:
        wanted = embedder.encode(inputs)

        def fail(_done: int, _total: int) -> None:
            raise ZeroDivisionError

        def work(i: int) -> float:
            if i % 2:
                with pytest.raises(ZeroDivisionError):
                    embedder.encode(inputs, progress=fail)
                return 1.0
            return float(golden.cosine(embedder.encode(inputs), wanted).min())

        assert min(in_threads(work)) >= LIMIT
