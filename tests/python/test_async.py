"""``aencode`` and its kin: what ``encode`` gives, without a thread for each caller."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from faults import faulty_embedder
from ggembed import (
    AbortedError,
    BusyError,
    ClosedError,
    Embedder,
    EmptyTextError,
    Image,
    InvalidInputError,
    NotFiniteError,
    TextTooLongError,
    TruncationWarning,
    _native,
    _requests,
    demo_omni,
)

TEXTS = [f"the question {i} " + "and the answer " * (i % 7) for i in range(200)]


def n_pending():
    return len(_native.library()._requests)


def n_native_threads():
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0


async def settled():
    """Waits until no request is left."""
    while n_pending():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "query: "},
        {"truncate_dim": 8, "normalize_embeddings": False},
        {"precision": "int8"},
        {"precision": "binary"},
        {"overflow": "truncate_start", "max_tokens": 400},
    ],
)
def test_rows_are_those_of_encode(bert, options):
    for given in (TEXTS, TEXTS[3], tuple(TEXTS[:2]), iter(TEXTS), np.array(TEXTS, object), []):
        if options.get("precision") == "int8" and (isinstance(given, str) or not len(TEXTS[:2])):
            continue
        items = list(given) if not isinstance(given, str) else given
        given = iter(items) if hasattr(given, "__next__") else given
        found = asyncio.run(bert.aencode(given, **options))
        np.testing.assert_array_equal(found, bert.encode(items, **options))


def test_long_lists_are_computed_in_chunks(tiny):
    texts = ["the question and the answer " * (1 + i % 9) for i in range(2500)]
    with Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=64) as embedder:
        told = []
        before = embedder.stats().n_calls
        found = asyncio.run(embedder.aencode(texts, progress=lambda *at: told.append(at)))
        assert embedder.stats().n_calls > before + 2
        np.testing.assert_array_equal(found, embedder.encode(texts))
        assert told[-1][0] == told[-1][1] == embedder.count_tokens(texts).sum()
        with pytest.raises(TextTooLongError, match=r"text 2499 has \d+ tokens"):
            asyncio.run(embedder.aencode([*texts[:-1], "word " * 600]))


def test_token_rows_reports_and_errors_are_those_of_encode(bert):
    token_rows = asyncio.run(bert.aencode(TEXTS[:9], output_value="token_embeddings"))
    expected = bert.encode(TEXTS[:9], output_value="token_embeddings")
    np.testing.assert_array_equal(token_rows.rows, expected.rows)
    np.testing.assert_array_equal(token_rows.offsets, expected.offsets)
    texts = ["fine", "word " * 999, "fine too", "\ud800"]
    found = asyncio.run(bert.aencode(texts, on_error="collect"))
    wanted = bert.encode(texts, on_error="collect")
    np.testing.assert_array_equal(found.rows, wanted.rows)
    assert {i: (type(e), str(e)) for i, e in found.errors.items()} == {
        i: (type(e), str(e)) for i, e in wanted.errors.items()
    }
    assert sorted(found.errors) == [1, 3]
    out = np.zeros((3, 32), np.float32)
    assert asyncio.run(bert.aencode(TEXTS[:3], out=out)) is out
    np.testing.assert_array_equal(out, bert.encode(TEXTS[:3]))


@pytest.mark.parametrize(
    ("given", "options", "error"),
    [
        (3, {}, TypeError),
        (["a", 3], {}, TypeError),
        ("a", {"precision": "int4"}, ValueError),
        ("a", {"nonsense": 1}, TypeError),
        (["a", "word " * 999], {}, TextTooLongError),
        (["a", "\ud800"], {}, InvalidInputError),
    ],
)
def test_errors_have_the_types_of_encode(bert, given, options, error):
    with pytest.raises(error):
        asyncio.run(bert.aencode(given, **options))


def test_empty_texts_are_refused(qwen):
    with pytest.raises(EmptyTextError, match="text 1"):
        asyncio.run(qwen.aencode(["a", ""]))


def test_errors_of_the_model_reach_their_caller_alone(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("nan", -1))

        async def main():
            texts = ["a cat", "zebra", "a dog"]
            return await asyncio.gather(*map(embedder.aencode, texts), return_exceptions=True)

        cat, zebra, dog = asyncio.run(main())
        assert isinstance(zebra, NotFiniteError)
        np.testing.assert_array_equal([cat, dog], embedder.encode(["a cat", "a dog"]))


def test_roles_have_their_prompts(tiny):
    prompts = {"query": "query: ", "document": "passage: "}
    with Embedder(tiny("bert-mean"), n_threads=1, prompts=prompts) as embedder:
        for role in ("query", "document"):
            found = asyncio.run(getattr(embedder, f"aencode_{role}")("text"))
            np.testing.assert_array_equal(found, getattr(embedder, f"encode_{role}")("text"))


def test_a_cut_text_warns_at_the_line_that_awaits(bert):
    async def main():
        await bert.aencode("word " * 999, overflow="truncate")

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        asyncio.run(main())
    assert [w.category for w in found] == [TruncationWarning]
    assert found[0].filename == __file__


def test_a_thousand_callers_need_no_threads(bert):
    texts = [f"caller {i}" for i in range(1000)]
    expected = bert.encode(texts)

    async def main():
        tasks = [asyncio.ensure_future(bert.aencode(text)) for text in texts]
        before, most = threading.active_count(), 0
        native = n_native_threads()
        while not all(task.done() for task in tasks):
            most = max(most, threading.active_count())
            assert n_native_threads() == native
            await asyncio.sleep(0)
        assert most <= before
        return await asyncio.gather(*tasks)

    np.testing.assert_array_equal(asyncio.run(main()), expected)
    assert n_pending() == 0


def test_callers_share_micro_batches_and_wake_ups(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))
        texts = [f"caller {i}" for i in range(512)]

        async def main():
            loop, wakes = asyncio.get_running_loop(), []
            wake = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *args: (wakes.append(1), wake(*args))[1]
            slow = asyncio.ensure_future(embedder.aencode("zebra"))
            while embedder.stats().n_calls_running == 0:
                await asyncio.sleep(0.001)
            tasks = [asyncio.ensure_future(embedder.aencode(text)) for text in texts]
            while embedder.stats().n_texts_queued < len(texts):
                await asyncio.sleep(0)
            slow.cancel()
            before = embedder.stats().n_microbatches
            await asyncio.gather(*tasks)
            return len(wakes), embedder.stats().n_microbatches - before

        n_wakes, n_microbatches = asyncio.run(main())
        assert n_wakes < len(texts) / 2
        assert n_microbatches < 20


def test_a_turn_of_the_loop_begins_and_finishes_few_calls(bert, monkeypatch):
    turn, begun, finished = [0], [], []
    submit, settle = _native.Library.submit, _requests._Pending.settle

    def counted_submit(*args):
        begun.append(turn[0])
        return submit(*args)

    def counted_settle(pending):
        finished.append(turn[0])
        settle(pending)

    monkeypatch.setattr(_native.Library, "submit", counted_submit)
    monkeypatch.setattr(_requests._Pending, "settle", counted_settle)

    async def main():
        calls = asyncio.gather(*(bert.aencode(f"caller {i}") for i in range(1000)))
        while not calls.done():
            turn[0] += 1
            await asyncio.sleep(0)
        return await calls

    found = asyncio.run(main())
    np.testing.assert_array_equal(found, bert.encode([f"caller {i}" for i in range(1000)]))
    for turns in (begun, finished):
        assert len(turns) == 1000
        assert np.bincount(turns).max() <= _requests._AT_ONCE


def test_calls_that_wait_for_a_turn_begin_in_order_and_may_leave(bert, monkeypatch):
    begun, submit = [], _native.TextCall.submit

    def counted(call, text, *args):
        begun.append(len(text.split()))
        return submit(call, text, *args)

    monkeypatch.setattr(_native.TextCall, "submit", counted)

    async def main():
        tasks = [asyncio.ensure_future(bert.aencode("word " * n)) for n in range(1, 101)]
        await asyncio.sleep(0)
        assert begun == [*range(1, 1 + _requests._AT_ONCE)]
        for task in tasks[40:60]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks[40:60])
        assert begun == [*range(1, 41), *range(61, 101)]
        await asyncio.sleep(0)
        alone = asyncio.ensure_future(bert.aencode("alone " * 7))
        await asyncio.sleep(0)
        assert begun[-1] == 7  # at once
        await alone

    asyncio.run(main())


def test_a_cancelled_task_frees_its_place(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))

        async def main():
            slow = asyncio.ensure_future(embedder.aencode("zebra"))
            while embedder.stats().n_calls_running == 0:
                await asyncio.sleep(0.001)
            waiting = [asyncio.ensure_future(embedder.aencode(f"text {i}")) for i in range(20)]
            await asyncio.sleep(0.01)
            for task in waiting[::2]:
                task.cancel()
            await asyncio.sleep(0)
            assert embedder.stats().n_texts_queued == 10
            slow.cancel()
            rest = await asyncio.gather(*waiting[1::2])
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert all(task.cancelled() for task in waiting[::2])
            await settled()
            return rest

        rest = asyncio.run(main())
        np.testing.assert_array_equal(rest, embedder.encode([f"text {i}" for i in range(1, 20, 2)]))
        assert embedder.stats().n_calls_aborted == 11


def test_a_cancelled_bulk_job_ends(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=64) as embedder:
        texts = ["the question and the answer " * 9] * 3000

        async def main():
            task = asyncio.ensure_future(embedder.aencode(texts))
            while embedder.stats().n_microbatches == 0:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settled()
            assert embedder.stats().n_texts < len(texts)
            return await embedder.aencode("still usable")

        assert asyncio.run(main()).shape == (32,)


def test_abort_and_close_end_what_waits(internals, tiny):
    for end, error in (("abort", AbortedError), ("close", ClosedError)):
        with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
            inject(zebra=("slow", -1))

            async def main(embedder=embedder, end=end):
                tasks = [asyncio.ensure_future(embedder.aencode("zebra")) for _ in range(5)]
                while embedder.stats().n_calls_running == 0:
                    await asyncio.sleep(0.001)
                await asyncio.get_running_loop().run_in_executor(None, getattr(embedder, end))
                return await asyncio.gather(*tasks, return_exceptions=True)

            assert {type(found) for found in asyncio.run(main())} == {error}
            if end == "close":
                with pytest.raises(ClosedError, match="is closed"):
                    asyncio.run(embedder.aencode("a"))


def test_a_full_queue_is_waited_for_in_order(bert, monkeypatch):
    full, order = [True], []
    plain = _native.TextCall.submit

    def submit(native, text, row, flag, on_done):
        if full[0]:
            raise _requests.BusyError("the queue is full")
        order.append(len(text.split()))
        full[0] = len(order) % 3 == 0  # room for three at a time

        def done(request):
            full[0] = False
            on_done(request)

        return plain(native, text, row, flag, done)

    monkeypatch.setattr(_native.TextCall, "submit", submit)
    texts = ["word " * n for n in range(1, 31)]

    async def main():
        tasks = [asyncio.ensure_future(bert.aencode(text)) for text in texts]
        await asyncio.sleep(0)
        tasks[4].cancel()
        full[0] = False
        _requests._rooms[bert._live()[1]].tell_first()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    assert order == [n for n in range(1, 31) if n != 5]
    assert isinstance(found.pop(4), asyncio.CancelledError)
    monkeypatch.undo()
    np.testing.assert_array_equal(found, bert.encode(texts[:4] + texts[5:]))


def test_a_small_queue_serves_all_loops_whoever_leaves(tiny, monkeypatch):
    waited, plain = [], _requests._Waiter
    monkeypatch.setattr(_requests, "_Waiter", lambda loop: waited.append(1) or plain(loop))
    texts = [f"caller {i} has a few words" for i in range(300)]
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        expected = embedder.encode(texts)
        model, engine = embedder._live()
        small = _native.Engine(model, attention="default", n_threads=1, max_queued_tokens=128)
        embedder._handles = model, small
        embedder._settled.clear()
        wrong = []

        async def main(seed):
            rng = np.random.default_rng(seed)
            tasks = [asyncio.ensure_future(embedder.aencode(text)) for text in texts]
            leaving = set(rng.choice(len(texts), 60, replace=False).tolist())
            for i in leaving:
                await asyncio.sleep(0)
                tasks[i].cancel()
            found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            for i, row in enumerate(found):
                if isinstance(row, asyncio.CancelledError):
                    wrong.extend([] if i in leaving else [i])
                elif not np.array_equal(row, expected[i]):
                    wrong.append((i, row))

        threads = [threading.Thread(target=asyncio.run, args=(main(s),)) for s in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert wrong == []
        assert not any(thread.is_alive() for thread in threads)
        assert len(waited) > 100
        assert not _requests._rooms[small].waiting
        engine.close()


def test_callers_beyond_a_small_queue_are_served_in_order(tiny):
    """None is refused; those that wait are served as they came."""
    order = []
    with Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=64, max_queued_tokens=64) as embedder:

        async def call(i):
            row = await embedder.aencode("the question " * 20)
            order.append(i)
            return row

        async def main():
            return await asyncio.gather(*map(call, range(100)))

        rows = asyncio.run(main())
        expected = embedder.encode("the question " * 20)
    assert order == sorted(order)
    np.testing.assert_array_equal(rows, [expected] * 100)


@pytest.mark.parametrize("value", [0, -1, 2**48 + 1])
def test_an_impossible_size_of_the_queue_is_refused(tiny, value):
    with pytest.raises(ValueError, match=f"max_queued_tokens must be in .*, got {value}"):
        Embedder(tiny("bert-mean"), max_queued_tokens=value)


def test_close_can_wait_for_the_calls_that_have_begun(tiny):
    """Also for those that wait for room, and for the rest of long ones; new ones are refused."""
    texts = ["the question and the answer " * 9] * 600
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        expected = embedder.encode(texts[0])
    embedder = Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=64, max_queued_tokens=128)
    found = []
    thread = threading.Thread(target=lambda: found.append(embedder.encode(texts)))

    async def main():
        tasks = [asyncio.ensure_future(embedder.aencode(text)) for text in texts[:50]]
        tasks.append(asyncio.ensure_future(embedder.aencode(texts)))
        for _ in range(len(tasks) // _requests._AT_ONCE + 2):  # until all have begun
            await asyncio.sleep(0)
        thread.start()
        while embedder.stats().n_microbatches == 0:
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(asyncio.to_thread(embedder.close, wait=True))
        while embedder._handles is not None:
            await asyncio.sleep(0.001)
        with pytest.raises(ClosedError, match="is closed"):
            await embedder.aencode("too late")
        assert not closing.done()
        await closing
        thread.join(60)
        return await asyncio.gather(*tasks)

    *single, many = asyncio.run(main())
    for rows in (single, many, found[0]):
        np.testing.assert_array_equal(rows, np.broadcast_to(expected, (len(rows), 32)))
    embedder.close()
    embedder.close(wait=True)


def test_a_wait_for_calls_that_cannot_end_is_refused(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:

        async def main():
            task = asyncio.ensure_future(embedder.aencode("a"))
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match=r"begun 1 calls .* await asyncio\.to_thread"):
                embedder.close(wait=True)
            return await task

        assert asyncio.run(main()).shape == (32,)
        with pytest.raises(BusyError, match="begun 1 calls"):
            embedder.encode("a", progress=lambda *_: embedder.close(wait=True))
        embedder.close(wait=True)
        with pytest.raises(ClosedError):
            embedder.encode("a")


def test_another_close_cuts_the_wait_short(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))

        async def main():
            task = asyncio.ensure_future(embedder.aencode("zebra"))
            while embedder.stats().n_calls_running == 0:
                await asyncio.sleep(0.001)
            closing = asyncio.ensure_future(asyncio.to_thread(embedder.close, wait=True))
            await asyncio.sleep(0.01)
            assert not closing.done()
            embedder.close()
            with pytest.raises(ClosedError):
                await task
            await closing

        asyncio.run(main())


def test_closing_at_any_moment_ends_all_callers(tiny):
    rng = np.random.default_rng(0)
    for delay in rng.uniform(0, 0.02, 8):
        embedder = Embedder(tiny("bert-mean"), n_threads=1)

        async def main(embedder=embedder, delay=delay):
            calls = [embedder.aencode("the answer " * (1 + i % 99)) for i in range(200)]
            tasks = asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(delay)
            embedder.close()
            return await asyncio.wait_for(tasks, 60)

        found = asyncio.run(main())
        assert {type(one) for one in found} <= {np.ndarray, ClosedError}
    assert n_pending() == 0


def test_progress_moves_while_a_list_is_computed(tiny, monkeypatch):
    monkeypatch.setattr(_requests, "_TELL_S", 0.001)
    texts = ["the question and the answer " * (1 + i % 9) for i in range(400)]
    with Embedder(tiny("qwen3-wide-last"), n_threads=1, n_ubatch=512) as embedder:
        told, threads = [], set()

        def progress(done, total):
            told.append((done, total))
            threads.add(threading.get_ident())

        found = asyncio.run(embedder.aencode(texts, progress=progress))
        total = int(embedder.count_tokens(texts).sum())
        done = [at[0] for at in told]
        assert threads == {threading.get_ident()}
        assert (done[0], done[-1]) == (0, total)
        assert {at[1] for at in told} == {total}
        assert len(done) > 4
        assert done == sorted(set(done))
        np.testing.assert_array_equal(found, embedder.encode(texts))


def test_an_exception_in_progress_ends_the_call(tiny, monkeypatch):
    monkeypatch.setattr(_requests, "_TELL_S", 0.001)
    texts = ["the question and the answer " * 9] * 2000
    with Embedder(tiny("qwen3-wide-last"), n_threads=1, n_ubatch=64) as embedder:

        def progress(done, _total):
            if done > 0:
                raise KeyError("stop")

        async def main():
            with pytest.raises(KeyError, match="stop"):
                await embedder.aencode(texts, progress=progress)
            await settled()
            return await embedder.aencode("still usable")

        assert asyncio.run(main()).shape == (256,)
        assert embedder.stats().n_texts < len(texts)


def test_the_bar_of_a_list_moves(tiny, monkeypatch):
    drawn = []
    monkeypatch.setattr(_requests, "_TELL_S", 0.001)
    monkeypatch.setattr("ggembed.progress.ProgressBar.__call__", lambda _, *at: drawn.append(at))
    with Embedder(tiny("qwen3-wide-last"), n_threads=1, n_ubatch=64) as embedder:
        asyncio.run(embedder.aencode(["the question " * 20] * 200, show_progress_bar=True))
    assert len(drawn) > 4
    assert drawn[-1][0] == drawn[-1][1]


def test_a_bulk_job_does_not_block_the_loop(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:

        async def main():
            gaps = []

            async def tick():
                last = time.perf_counter()
                while True:
                    await asyncio.sleep(0.001)
                    now = time.perf_counter()
                    gaps.append(now - last)
                    last = now

            ticker = asyncio.ensure_future(tick())
            await embedder.aencode(["the question and the answer " * 20] * 3000)
            ticker.cancel()
            return gaps

        gaps = asyncio.run(main())
        assert len(gaps) > 20
        assert np.quantile(gaps, 0.9) < 0.05


def test_loops_of_several_threads_share_an_engine(bert):
    expected, wrong = bert.encode(TEXTS), []

    async def main(seed):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        rows = await asyncio.gather(*(bert.aencode(TEXTS[i]) for i in order))
        wrong.extend(np.flatnonzero((np.stack(rows) != expected[order]).any(1)))

    threads = [threading.Thread(target=asyncio.run, args=(main(s),)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_loop_may_end_before_its_requests(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))
        loop = asyncio.new_event_loop()
        task = loop.create_task(embedder.aencode("zebra"))
        while embedder.stats().n_calls_running == 0:
            loop.run_until_complete(asyncio.sleep(0.001))
        task._log_destroy_pending = False
        loop.close()
        embedder.abort()
        while n_pending():
            time.sleep(0.001)
        inject()
        assert asyncio.run(embedder.aencode("a cat")).shape == (32,)
        assert not _requests._left
        del task
        gc.collect()


def test_streams_come_in_order(bert):
    async def source(n, pause=0):
        for i in range(n):
            if i == pause:
                await asyncio.sleep(0.001)
            yield TEXTS[i]

    async def collect(inputs, **options):
        return [row async for row in bert.aencode_iter(inputs, **options)]

    expected = bert.encode(TEXTS)
    for read_ahead in (0, 1, 3):
        for inputs in (source(200, 100), iter(TEXTS), TEXTS):
            found = asyncio.run(collect(inputs, chunk_size=64, read_ahead=read_ahead))
            np.testing.assert_array_equal(found, expected)
    assert asyncio.run(collect([])) == []


def test_streams_tell_the_place_of_errors(bert):
    async def collect(inputs, **options):
        n = 0
        try:
            async for _ in bert.aencode_iter(inputs, chunk_size=8, **options):
                n += 1
        except (TypeError, TextTooLongError, RuntimeError) as err:
            return n, str(err)

    async def bad_source():
        for text in TEXTS[:20]:
            yield text
        yield 3

    async def broken_source():
        for text in TEXTS[:20]:
            yield text
        raise RuntimeError("the source broke")

    assert asyncio.run(collect([*TEXTS[:20], 3])) == (20, "texts must be str, got int at index 20")
    assert asyncio.run(collect(bad_source())) == (20, "texts must be str, got int at index 20")
    assert asyncio.run(collect(broken_source())) == (20, "the source broke")
    n, message = asyncio.run(collect([*TEXTS[:20], "word " * 999]))
    assert (n, message[:8]) == (16, "text 20 ")
    with pytest.raises(ValueError, match="aencode_iter has no out"):
        asyncio.run(collect(TEXTS, out=np.zeros((1, 32), np.float32)))


def test_a_stream_that_is_left_reads_no_further(bert):
    read = []

    async def source():
        for i in range(10000):
            read.append(i)
            yield f"text {i}"

    async def main():
        stream = bert.aencode_iter(source(), chunk_size=8)
        async for _ in stream:
            break
        await stream.aclose()
        n = len(read)
        await asyncio.sleep(0.01)
        assert len(read) == n <= 24
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_timeout_frees_the_place(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))

        async def main():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(embedder.aencode("zebra"), 0.05)
            await settled()
            return await asyncio.wait_for(embedder.aencode("a cat"), 60)

        assert asyncio.run(main()).shape == (32,)
        assert embedder.stats().n_calls_aborted == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no TaskGroup before Python 3.11")
def test_a_task_group_ends_all_calls_with_the_first_that_fails(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))

        async def main():
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(embedder.aencode("zebra"))
                while embedder.stats().n_calls_running == 0:
                    await asyncio.sleep(0.001)
                group.create_task(embedder.aencode("word " * 999))

        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            asyncio.run(main())
        assert [type(err) for err in caught.value.exceptions] == [TextTooLongError]
        while n_pending():
            time.sleep(0.001)
        assert embedder.stats().n_texts_queued == 0
        assert asyncio.run(embedder.aencode("a cat")).shape == (32,)
        assert not _requests._left


def test_a_stream_that_is_cancelled_frees_its_place(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=("slow", -1))

        async def source():
            for text in ["a cat"] * 8 + ["zebra"] * 8:
                yield text

        async def read():
            return [row async for row in embedder.aencode_iter(source(), chunk_size=8)]

        async def main():
            task = asyncio.ensure_future(read())
            while embedder.stats().n_texts < 8 or embedder.stats().n_calls_running == 0:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settled()
            assert len(asyncio.all_tasks()) == 1
            return await embedder.aencode("a dog")

        assert asyncio.run(main()).shape == (32,)


def test_media_are_computed_as_encode_does(tmp_path):
    files = demo_omni.write_models(tmp_path, min_pixels=64 * 64, max_pixels=192 * 192)
    image = np.full((64, 64, 3), 77, np.uint8)
    inputs = ["a", Image(image), ["b", Image(image[:32])]]
    with Embedder(files.model, mmproj=files.vision, n_threads=1) as embedder:
        told = []
        found = asyncio.run(embedder.aencode(inputs, progress=lambda *at: told.append(at)))
        np.testing.assert_array_equal(found, embedder.encode(inputs))
        assert told[-1] == (3, 3)
        with pytest.raises(InvalidInputError):
            asyncio.run(embedder.aencode(Image(b"nothing")))


def test_uvloop_serves_too(bert):
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def main():
        return await asyncio.gather(*map(bert.aencode, TEXTS))

    loop = uvloop.new_event_loop()
    try:
        found = loop.run_until_complete(main())
    finally:
        loop.close()
    np.testing.assert_array_equal(found, bert.encode(TEXTS))


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "os._exit(0)", "raise KeyboardInterrupt"])
def test_a_process_ends_with_requests_that_wait(run_python, tiny, ending):
    program = f"""
import asyncio, os, sys
from ggembed import Embedder
embedder = Embedder(sys.argv[1], n_threads=1)
async def main():
    tasks = [asyncio.ensure_future(embedder.aencode("the question " * 200)) for _ in range(300)]
    await asyncio.sleep(0.05)
    print("ready", flush=True)
    {ending or "pass"}
asyncio.run(main())
"""
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout == "ready\n"
    assert done.returncode in ((0,) if "raise" not in ending else (1, 130, -2)), done.stderr
    assert "Fatal" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_refused(run_python, tiny):
    program = """
import asyncio, os, sys
from ggembed import ClosedError, Embedder
embedder = Embedder(sys.argv[1], n_threads=1)
asyncio.run(embedder.aencode("a"))
if (pid := os.fork()) == 0:
    try:
        asyncio.run(embedder.aencode("a"))
    except ClosedError as err:
        print("refused" if "forked" in str(err) else err, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(asyncio.run(embedder.aencode("a")).shape)
"""
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout == "refused\n(32,)\n", done.stderr
