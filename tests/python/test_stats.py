"""``Embedder.stats``: what was done, and what waits."""

from __future__ import annotations

import math
import threading
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from faults import faulty_embedder
from ggembed import AbortedError, ClosedError, Embedder, EmptyTextError, EngineStats


def test_counters_add_up(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=64) as embedder:
        before = embedder.stats()
        assert isinstance(before, EngineStats)
        assert (before.n_texts, before.n_calls, before.n_tokens) == (0, 0, 0)
        assert math.isnan(before.fill_rate)
        texts = ["one text", "another text of more words", "a third"] * 20
        embedder.encode(texts)
        embedder.encode(texts[0])
        after = embedder.stats()
        n_tokens = int(np.sum(embedder.count_tokens(texts))) + embedder.count_tokens(texts[0])
        assert (after.n_texts, after.n_calls, after.n_tokens) == (61, 2, n_tokens)
        assert after.n_tokens_offered == 64 * after.n_microbatches
        assert after.fill_rate == n_tokens / after.n_tokens_offered
        assert after.seconds_computing > 0
        assert 0 < before.seconds_waiting < after.seconds_waiting
        assert after.n_texts_queued == after.n_tokens_queued == after.n_calls_running == 0


def test_failed_texts_are_counted(tiny):
    with Embedder(tiny("qwen3-last"), n_threads=1) as embedder:
        embedder.encode(["a", "", "b"], on_error="collect")
        stats = embedder.stats()
        assert (stats.n_texts, stats.n_texts_failed, stats.n_calls) == (2, 1, 1)
        with pytest.raises(EmptyTextError):
            embedder.encode(["a", ""])  # never reached the queue
        assert embedder.stats().n_calls == 1


def test_what_runs_and_waits_is_seen_and_aborts_are_counted(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))

        def encode(text: str) -> None:
            with pytest.raises(AbortedError):
                embedder.encode(text)

        threads = [threading.Thread(target=encode, args=(text,)) for text in ("zebra", "a b")]
        threads[0].start()
        while embedder.stats().n_calls_running == 0:
            pass
        threads[1].start()
        while embedder.stats().n_calls_queued == 0:
            pass
        stats = embedder.stats()
        assert (stats.n_calls_running, stats.n_texts_queued) == (1, 1)
        assert stats.n_tokens_queued == embedder.count_tokens("a b")
        embedder.abort()
        for thread in threads:
            thread.join()
        assert embedder.stats().n_calls_aborted == 2


def test_stats_are_frozen_and_end_with_the_embedder(tiny):
    embedder = Embedder(tiny("bert-mean"), n_threads=1)
    stats = embedder.stats()
    with pytest.raises(FrozenInstanceError):
        stats.n_texts = 3
    assert replace(stats, n_tokens=3, n_tokens_offered=4).fill_rate == 0.75
    embedder.close()
    with pytest.raises(ClosedError):
        embedder.stats()
