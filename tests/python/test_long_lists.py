"""Long lists of texts, which are tokenised in chunks ahead of the engine: what shorter ones get."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings

import numpy as np
import pytest
from faults import faulty_embedder
from ggembed import (
    AbortedError,
    ClosedError,
    Embedder,
    EmbedError,
    EmptyTextError,
    InternalError,
    InvalidInputError,
    NotFiniteError,
    TextTooLongError,
    TruncationWarning,
    _calls,
    _text_calls,
)

WORDS = ["the", "question", "and", "answer", "of", "mean", "x", "7", "embedding"]
TEXTS = [" ".join(WORDS[(i + k) % 9] for k in range(1 + i * 7 % 30)) for i in range(900)]
N_UBATCH = 32  # so that lists are long soon
TOO_LONG = "word " * 3000


@pytest.fixture(scope="module", params=["bert-mean", "qwen3-last"])
def embedder(tiny, request):
    with Embedder(tiny(request.param), n_threads=1, n_ubatch=N_UBATCH) as embedder:
        yield embedder


@contextlib.contextmanager
def in_one_piece():
    """Calls are not cut into chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text_calls, "_LARGEST_CHUNK", 1 << 40)
        yield


@pytest.fixture
def chunks(monkeypatch):
    """Number of texts of each pass through the engine."""
    found, plain = [], _calls.Encoding.run

    def run(step, engine):
        found.append(step.tokens.n_texts)
        return plain(step, engine)

    monkeypatch.setattr(_calls.Encoding, "run", run)
    return found


@pytest.fixture(autouse=True)
def no_threads_are_left():
    yield
    end = time.monotonic() + 5
    while any(thread.name == "ggembed-reader" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_same(found, expected):
    """Two results of the same call, whose micro-batches differ."""
    np.testing.assert_allclose(found.rows, expected.rows, atol=1e-5)
    for name in ("n_tokens", "n_tokens_original", "truncated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    described = [
        [(i, type(err), str(err), err.input_index) for i, err in encoded.errors.items()]
        for encoded in (found, expected)
    ]
    assert described[0] == described[1]


def test_rows_are_those_of_one_piece(embedder, chunks):
    found = embedder.encode(TEXTS)
    assert len(chunks) > 4
    assert sum(chunks) == len(TEXTS)
    with in_one_piece():
        chunks.clear()
        expected = embedder.encode(TEXTS)
    assert chunks == [len(TEXTS)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_call_repeated_gives_the_same_bits(embedder, chunks, monkeypatch):
    expected = embedder.encode(TEXTS)
    cut = chunks[:]
    plain = _text_calls.tokenize

    def slow(*args):
        time.sleep(0.02)
        return plain(*args)

    monkeypatch.setattr(_text_calls, "tokenize", slow)
    np.testing.assert_array_equal(embedder.encode(TEXTS), expected)
    assert chunks == cut * 2


def test_chunks_grow_from_a_small_one(embedder, chunks):
    embedder.encode(["the question and"] * 6000)
    assert chunks[0] * 2 == pytest.approx(chunks[1], abs=2)
    assert chunks[1] * 2 == pytest.approx(chunks[2], abs=2)
    assert chunks[2] == pytest.approx(chunks[3], abs=1)
    assert chunks[-1] >= chunks[0]
    assert sum(chunks) == 6000


def test_a_prompt_counts_as_text(embedder, chunks):
    short = ["the"] * 600
    embedder.encode(short)
    assert chunks == [600]
    chunks.clear()
    embedder.encode(short, prompt="the question and the answer of ")
    assert len(chunks) > 1


def test_tokens_are_made_on_another_thread_while_the_engine_computes(embedder, monkeypatch):
    plain_tokenize, plain_encode = _text_calls.tokenize, _calls.Encoding.run
    last_is_there, threads = threading.Event(), set()

    def tokenize(call, model, data, offsets, *rest):
        threads.add(threading.get_ident())
        tokens = plain_tokenize(call, model, data, offsets, *rest)
        if offsets[-1] == len(data):
            last_is_there.set()
        return tokens

    def encode(*args):
        assert last_is_there.wait(30)
        assert threading.get_ident() not in threads
        return plain_encode(*args)

    monkeypatch.setattr(_text_calls, "tokenize", tokenize)
    monkeypatch.setattr(_calls.Encoding, "run", encode)
    assert np.isfinite(embedder.encode(TEXTS)).all()
    assert len(threads) == 1


def test_short_lists_start_no_thread(bert, monkeypatch):
    monkeypatch.setattr(_calls, "ahead", lambda *_: pytest.fail("a thread"))
    bert.encode("one text")
    bert.encode(TEXTS)
    bert.encode([])


def test_without_threads_it_goes_one_after_the_other(embedder, monkeypatch):
    expected = embedder.encode(TEXTS)

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    np.testing.assert_array_equal(embedder.encode(TEXTS), expected)
    assert list(embedder.encode_iter(["a", "b"]))


def test_texts_of_very_different_lengths(embedder, chunks):
    texts = ["the question"] * 500
    texts[3] = texts[250] = "the question and the answer " * 90
    texts[-1] = texts[3]
    found = embedder.encode(texts)
    assert len(chunks) > 2
    with in_one_piece():
        np.testing.assert_allclose(found, embedder.encode(texts), atol=1e-5)


# Errors


@pytest.mark.parametrize("options", [{}, {"max_tokens": 90}, {"prompt": "the ", "max_tokens": 90}])
@pytest.mark.parametrize("at", [0, 899])
def test_a_text_that_is_too_long_is_named_before_all_is_computed(embedder, options, at, chunks):
    texts = TEXTS[:]
    texts[at] = TOO_LONG
    with pytest.raises(TextTooLongError) as caught:
        embedder.encode(texts, **options)
    assert caught.value.input_index == at
    assert sum(chunks) < len(TEXTS)
    with in_one_piece(), pytest.raises(TextTooLongError) as expected:
        embedder.encode(texts, **options)
    assert str(caught.value) == str(expected.value)


def test_an_empty_text_is_named(tiny):
    texts = TEXTS[:]
    texts[700] = texts[800] = ""
    with (
        Embedder(tiny("qwen3-last"), n_threads=1, n_ubatch=N_UBATCH) as embedder,
        pytest.raises(EmptyTextError, match="text 700 has no tokens") as caught,
    ):
        embedder.encode(texts)
    assert caught.value.input_index == 700


def test_the_first_of_several_bad_texts_is_named(embedder):
    texts = TEXTS[:]
    texts[890] = texts[460] = texts[455] = TOO_LONG
    with pytest.raises(TextTooLongError, match=r"^text 455 has "):
        embedder.encode(texts)


def test_a_text_that_cannot_be_tokenised_goes_before_one_that_the_engine_refuses(tiny, chunks):
    texts = TEXTS[:]
    texts[5], texts[880] = "", TOO_LONG
    with Embedder(tiny("qwen3-last"), n_threads=1, n_ubatch=N_UBATCH) as embedder:
        with pytest.raises(TextTooLongError, match="text 880 has") as caught:
            embedder.encode(texts, max_tokens=90)
        assert caught.value.input_index == 880
        with in_one_piece(), pytest.raises(TextTooLongError) as expected:
            embedder.encode(texts, max_tokens=90)
        assert str(caught.value) == str(expected.value)
        chunks.clear()
        with pytest.raises(EmptyTextError, match="text 5 has no tokens"):
            embedder.encode(texts[:880], max_tokens=90)
    assert len(chunks) == 1  # which was refused


def test_what_is_no_texts_fault_fails_a_collecting_call_too(embedder):
    with pytest.raises(InvalidInputError, match="leaves no room") as caught:
        embedder.encode([*TEXTS, TOO_LONG], prompt="the " * 50, max_tokens=40, on_error="collect")
    assert caught.value.input_index is None


def test_reports_are_those_of_one_piece(embedder):
    texts = TEXTS[:]
    texts[5] = texts[333] = TOO_LONG
    texts[444] = "a lone \ud800 surrogate"
    texts[555] = ""
    for options in ({}, {"max_tokens": 9}, {"max_tokens": 9, "overflow": "truncate_start"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            found = embedder.encode(texts, on_error="collect", **options)
            with in_one_piece():
                expected = embedder.encode(texts, on_error="collect", **options)
        assert {444} < found.errors.keys() or "overflow" in options
        assert_same(found, expected)
    found = embedder.encode(TEXTS, return_info=True)
    with in_one_piece():
        assert_same(found, embedder.encode(TEXTS, return_info=True))


def test_cut_texts_are_told_of_once(embedder):
    with pytest.warns(TruncationWarning) as caught:
        embedder.encode(TEXTS, max_tokens=9, overflow="truncate")
    with in_one_piece(), pytest.warns(TruncationWarning) as expected:
        embedder.encode(TEXTS, max_tokens=9, overflow="truncate")
    assert len(caught) == len(expected) == 1
    assert str(caught[0].message) == str(expected[0].message)
    assert caught[0].filename == __file__


@pytest.fixture
def faulty(internals, tiny):
    with faulty_embedder(internals, tiny("bert-mean"), n_ubatch=N_UBATCH) as pair:
        yield pair


def test_a_row_that_is_not_finite_is_named(faulty):
    embedder, inject = faulty
    inject(zebra=("nan", -1))
    texts = TEXTS[:]
    texts[600] = "zebra"
    with pytest.raises(NotFiniteError, match="the row of text 600 is not finite") as caught:
        embedder.encode(texts)
    assert caught.value.input_index == 600
    encoded = embedder.encode(texts, on_error="collect")
    assert list(encoded.errors) == [600]
    assert str(encoded.errors[600]) == "the row of text 600 is not finite"
    assert np.flatnonzero(np.isnan(encoded.rows).any(axis=1)).tolist() == [600]


def test_a_text_that_cannot_be_tokenised_goes_before_one_that_cannot_be_computed(faulty):
    embedder, inject = faulty
    inject(zebra=("nan", -1))
    for _ in range(5):
        with pytest.raises(TextTooLongError, match="text 901 has"):
            embedder.encode(["zebra", *TEXTS, TOO_LONG])


def test_a_failure_of_the_engine_ends_all_chunks(faulty):
    embedder, inject = faulty
    inject(zebra=("internal", -1))
    texts = ["zebra"] * 30 + TEXTS
    encoded = embedder.encode(texts, on_error="collect")
    assert {type(error) for error in encoded.errors.values()} == {InternalError}
    assert encoded.errors.keys() > set(range(500, len(texts)))
    assert [error.input_index for error in encoded.errors.values()] == list(encoded.errors)
    assert np.isnan(encoded.rows[sorted(encoded.errors)]).all()


# Rows of other types, and the caller's array


def test_out_may_be_wider_than_the_rows(embedder):
    wide = np.full((len(TEXTS), embedder.dim + 3), 7, np.float32)
    out = wide[:, : embedder.dim]
    assert embedder.encode(TEXTS, out=out) is out
    np.testing.assert_array_equal(out, embedder.encode(TEXTS))
    assert (wide[:, embedder.dim :] == 7).all()
    with pytest.raises(ValueError, match="out must have shape"):
        embedder.encode(TEXTS, out=out[1:])


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary"])
def test_types_of_rows(embedder, precision):
    found = embedder.encode(TEXTS, precision=precision)
    with in_one_piece():
        expected = embedder.encode(TEXTS, precision=precision)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if precision == "float16":
        np.testing.assert_allclose(found, expected, atol=1e-3)
    else:
        assert (found == expected).mean() > 0.99  # a value at an edge may fall to the other side


def test_token_rows_are_those_of_one_piece(embedder):
    found = embedder.encode(TEXTS, output_value="token_embeddings")
    assert len(found) == len(TEXTS)
    assert len(found.rows) == embedder.count_tokens(TEXTS).sum()
    np.testing.assert_allclose(
        found[700], embedder.encode(TEXTS[700], output_value="token_embeddings"), atol=1e-5
    )


def test_arrow_columns_are_read_where_they_lie(embedder):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    column = pa.array(["skipped", *TEXTS], pa.large_string())[1:]
    np.testing.assert_array_equal(embedder.encode(column), embedder.encode(TEXTS))


# Progress, and calls that end early


def test_progress_comes_to_the_exact_end_on_the_calling_thread(embedder):
    calls, threads = [], set()

    def progress(done, total):
        calls.append((done, total))
        threads.add(threading.get_ident())

    embedder.encode(TEXTS, progress=progress)
    total = int(embedder.count_tokens(TEXTS).sum())
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert all(0 <= a <= b for a, b in calls)
    assert calls[-1] == (total, total)
    assert all(total / 2 < b < total * 2 for _, b in calls)
    assert threads == {threading.get_ident()}


def test_progress_ends_with_all_done_also_if_the_last_texts_fail(embedder, chunks):
    texts = [*TEXTS, *["a lone \ud800 surrogate"] * 3000]
    calls = []
    embedder.encode(texts, on_error="collect", progress=lambda *call: calls.append(call))
    total = int(embedder.count_tokens(TEXTS).sum())
    assert calls[-1] == (total, total)
    assert all(a <= b for a, b in calls)
    assert len(chunks) > 6


def test_an_exception_in_progress_comes_out(embedder, chunks):
    def progress(done, _total):
        if done > 2000:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        embedder.encode(TEXTS, progress=progress)
    assert sum(chunks) < len(TEXTS)


@pytest.mark.parametrize(("end", "error"), [("abort", AbortedError), ("close", ClosedError)])
def test_a_call_that_is_ended(tiny, end, error):
    def ending(embedder):
        def progress(done, _total):
            if done > 2000:
                threading.Thread(target=getattr(embedder, end)).start()

        return progress

    with Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=N_UBATCH) as embedder:
        encoded = embedder.encode(TEXTS, on_error="collect", progress=ending(embedder))
    assert {type(found) for found in encoded.errors.values()} == {error}
    done = [i for i in range(len(TEXTS)) if i not in encoded.errors]
    assert 20 < len(done) < len(TEXTS)
    assert np.isfinite(encoded.rows[done]).all()
    assert np.isnan(encoded.rows[sorted(encoded.errors)]).all()
    assert all(err.input_index == i for i, err in encoded.errors.items())
    with (
        Embedder(tiny("bert-mean"), n_threads=1, n_ubatch=N_UBATCH) as embedder,
        pytest.raises(error),
    ):
        embedder.encode(TEXTS, progress=ending(embedder))


@pytest.mark.parametrize("collects", [False, True])
def test_an_abort_between_two_chunks_is_heard(embedder, monkeypatch, collects):
    plain, n_passes = _calls.Encoding.run, []

    def encode(*args):
        try:
            return plain(*args)
        finally:
            n_passes.append(1)
            if len(n_passes) == 2:
                embedder.abort()  # nothing is running

    monkeypatch.setattr(_calls.Encoding, "run", encode)
    if collects:
        encoded = embedder.encode(TEXTS, on_error="collect")
        assert {type(found) for found in encoded.errors.values()} == {AbortedError}
        assert len(TEXTS) - 1 in encoded.errors
        assert 0 not in encoded.errors
    else:
        with pytest.raises(AbortedError):
            embedder.encode(TEXTS)
    assert len(n_passes) == 2


def test_an_error_leaves_no_reference_cycle(embedder):
    import gc

    gc.collect()
    gc.disable()
    try:
        for texts in ([*TEXTS, TOO_LONG], [TOO_LONG, *TEXTS]):
            with contextlib.suppress(EmbedError):
                embedder.encode(texts)
            end = time.monotonic() + 5
            while any(isinstance(thing, _text_calls._Tokenizing) for thing in gc.get_objects()):
                assert time.monotonic() < end
                time.sleep(0.01)
    finally:
        gc.enable()


def test_a_stream_of_long_chunks(embedder):
    found = list(embedder.encode_iter(TEXTS, chunk_size=700))
    np.testing.assert_allclose(np.stack(found), embedder.encode(TEXTS), atol=1e-5)
    with pytest.raises(TextTooLongError, match="text 890 has") as caught:
        list(embedder.encode_iter([*TEXTS[:890], TOO_LONG], chunk_size=700))
    assert caught.value.input_index == 890


def test_many_threads_may_encode_long_lists_at_once(embedder):
    expected, found = embedder.encode(TEXTS), {}

    def work(i):
        found[i] = embedder.encode(TEXTS)

    threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for rows in found.values():
        np.testing.assert_array_equal(rows, expected)
