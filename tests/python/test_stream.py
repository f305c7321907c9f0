"""encode_iter: order, bounded memory, errors at the right place, and nothing left behind."""

from __future__ import annotations

import doctest
import itertools
import signal
import threading
import weakref

import numpy as np
import pytest
from ggembed import EmbedError, InvalidInputError, TextTooLongError, stream
from ggembed.stream import encode_iter

TIMEOUT_S = 30


def lengths(chunk):
    return [len(text) for text in chunk]


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "ggembed-reader"]


def wait_for_readers():
    for thread in readers():
        thread.join(TIMEOUT_S)
    return readers()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert wait_for_readers() == []


class Source:
    """An endless iterable that counts what was taken of it."""

    def __init__(self):
        self.n_taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n_taken += 1
        return f"text {self.n_taken - 1}"


@pytest.mark.parametrize("read_ahead", [0, 1, 3])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 30])
def test_results_come_in_order(n, read_ahead):
    texts = ["x" * i for i in range(n)]
    chunks = []

    def encode(chunk):
        chunks.append(chunk)
        return lengths(chunk)

    found = encode_iter(encode, iter(texts), batch_size=4, read_ahead=read_ahead)
    assert list(found) == list(range(n))
    assert list(itertools.chain.from_iterable(chunks)) == texts
    assert all(len(chunk) == 4 for chunk in chunks[:-1])


@pytest.mark.parametrize("read_ahead", [0, 1, 3])
def test_endless_stream_is_read_within_the_bound(read_ahead):
    source = Source()
    n_held = 0

    def encode(chunk):
        nonlocal n_held
        n_held = max(n_held, source.n_taken - n_yielded)
        return chunk

    n_yielded = 0
    found = encode_iter(encode, source, batch_size=5, read_ahead=read_ahead)
    while n_yielded < 203:
        assert next(found) == f"text {n_yielded}"
        n_held = max(n_held, source.n_taken - n_yielded)
        n_yielded += 1
    found.close()
    assert 5 <= n_held <= 5 * (1 + read_ahead)


def test_next_chunk_is_read_while_one_is_encoded():
    second_chunk_read = threading.Event()

    class Watched(Source):
        def __next__(self):
            if self.n_taken == 7:
                second_chunk_read.set()
            return super().__next__()

    def encode(chunk):
        assert second_chunk_read.wait(TIMEOUT_S), "nothing is read while a chunk is encoded"
        return chunk

    found = encode_iter(encode, source := Watched(), batch_size=4)
    assert next(found) == "text 0"
    found.close()
    assert source.n_taken <= 8


def test_full_chunk_is_encoded_without_waiting_for_more():
    more = threading.Event()

    def texts():
        yield from "abcd"
        assert more.wait(TIMEOUT_S)
        yield "e"

    found = encode_iter(lengths, texts(), batch_size=4)
    assert [next(found) for _ in range(4)] == [1] * 4
    more.set()
    assert list(found) == [1]


def test_huge_texts_do_not_pile_up():
    sizes = [10, 10, 10, 95, 10, 200, 60, 40, 1]
    chunks = []

    def encode(chunk):
        chunks.append(lengths(chunk))
        return chunk

    texts = ["x" * size for size in sizes]
    assert list(encode_iter(encode, texts, batch_size=3, batch_chars=100)) == texts
    assert chunks == [[10, 10, 10], [95], [10], [200], [60, 40], [1]]


@pytest.mark.parametrize("read_ahead", [0, 1])
def test_exception_of_the_iterable_comes_after_the_rows_before_it(read_ahead):
    raised = KeyError("the feed broke")

    def texts():
        yield from ("a", "bb", "ccc")
        raise raised

    found = encode_iter(lengths, texts(), batch_size=2, read_ahead=read_ahead)
    assert [next(found) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(KeyError, match="the feed broke") as caught:
        next(found)
    assert caught.value is raised
    assert list(found) == []


def test_exception_is_freed_with_its_rows():
    class BrokenError(Exception):
        pass

    def texts():
        yield "a"
        raise BrokenError

    found = encode_iter(lengths, texts())
    next(found)
    try:
        next(found)
    except BrokenError as err:
        gone = weakref.ref(err)
    wait_for_readers()
    assert gone() is None


def test_exception_of_a_chunk_comes_after_the_rows_before_it():
    def encode(chunk):
        if "c" in chunk:
            raise RuntimeError("no c")
        return chunk

    found = encode_iter(encode, ["a", "b", "c", "d", "e"], batch_size=2)
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(RuntimeError, match="no c"):
        next(found)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "text 1 has 900 tokens, the context holds 1",
            "text 5 has 900 tokens, the context holds 1",
        ),
        ("input 1 is empty", "input 5 is empty"),
        ("text 10 and text 1 differ", "text 10 and text 5 differ"),
        ("no tokens", "text 5: no tokens"),
    ],
)
def test_error_names_the_place_in_the_stream(message, expected):
    def encode(chunk):
        if "bad" in chunk:
            raise TextTooLongError(message, input_index=chunk.index("bad"))
        return chunk

    found = encode_iter(encode, ["a", "b", "c", "d", "e", "bad", "f"], batch_size=4)
    with pytest.raises(TextTooLongError) as caught:
        list(found)
    assert caught.value.input_index == 5
    assert str(caught.value) == expected


def test_error_without_a_place_stays_as_it_is():
    def encode(chunk):
        if "c" in chunk:
            raise EmbedError("the device is gone")
        return chunk

    with pytest.raises(EmbedError, match=r"^the device is gone$") as caught:
        list(encode_iter(encode, list("abc"), batch_size=2))
    assert caught.value.input_index is None


@pytest.mark.parametrize("read_ahead", [0, 1])
def test_element_that_is_no_str_is_named_by_its_place(read_ahead):
    found = encode_iter(lengths, ["a", "b", "c", None, "d"], batch_size=2, read_ahead=read_ahead)
    assert [next(found) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(TypeError, match="texts must be str, got NoneType at index 3"):
        next(found)


@pytest.mark.parametrize("texts", ["abc", b"abc", {"a": 1}, 5, None])
def test_what_is_no_stream_of_texts_is_refused_at_once(texts):
    with pytest.raises(TypeError, match=f"iterable of str, got {type(texts).__name__}"):
        encode_iter(lengths, texts)


@pytest.mark.parametrize(
    "option", [{"batch_size": 0}, {"batch_chars": 0}, {"read_ahead": -1}], ids=str
)
def test_option_out_of_range_is_refused_at_once(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, got {value}"):
        encode_iter(lengths, [], **option)


def test_generator_that_never_starts_takes_nothing():
    source = Source()
    encode_iter(lengths, source).close()
    assert (source.n_taken, readers()) == (0, [])


def test_early_close_ends_the_thread_and_frees_the_iterable():
    taken = []

    def texts():
        for i in itertools.count():
            taken.append(i)
            yield "a"

    endless = texts()
    found = encode_iter(lengths, endless, batch_size=8)
    next(found)
    found.close()
    assert readers() == []
    n_taken = len(taken)
    next(endless)  # nobody else is using it
    assert len(taken) == n_taken + 1


def test_early_close_does_not_wait_for_a_blocked_iterable():
    blocked, released = threading.Event(), threading.Event()
    taken = []

    def texts():
        yield from "ab"
        blocked.set()
        assert released.wait(TIMEOUT_S)
        for text in "cdef":
            taken.append(text)
            yield text

    found = encode_iter(lengths, texts(), batch_size=2)
    next(found)
    assert blocked.wait(TIMEOUT_S)
    found.close()
    assert len(readers()) == 1  # still inside the iterable: close() came back before it
    released.set()
    assert wait_for_readers() == []
    assert taken == ["c"]  # in the middle of a chunk, and yet it took nothing more


def test_dropped_generator_ends_its_thread():
    found = encode_iter(lengths, Source(), batch_size=8)
    next(found)
    del found
    assert readers() == []


def test_ctrl_c_while_waiting_for_a_text_comes_out():
    waiting, released = threading.Event(), threading.Event()
    main = threading.main_thread().ident

    def texts():
        yield "a"
        waiting.set()
        assert released.wait(TIMEOUT_S)

    def interrupt():
        assert waiting.wait(TIMEOUT_S)
        signal.pthread_kill(main, signal.SIGINT)

    found = encode_iter(lengths, texts(), batch_size=1)
    assert next(found) == 1
    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        thread.start()
        next(found)
    thread.join()
    released.set()


def test_ctrl_c_while_the_thread_starts_leaves_none(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(encode_iter(lengths, itertools.repeat("a")))
    assert wait_for_readers() == []


def test_iterable_stays_on_the_calling_thread_without_reading_ahead():
    threads = set()

    def texts():
        for _ in range(5):
            threads.add(threading.get_ident())
            yield "a"

    list(encode_iter(lengths, texts(), batch_size=2, read_ahead=0))
    assert threads == {threading.get_ident()}


def test_rows_of_a_stream_are_those_of_a_list(bert):
    texts = ["the", "question", "", "answer " * 40] * 5
    rows = np.stack(list(encode_iter(bert.encode, iter(texts), batch_size=7)))
    np.testing.assert_allclose(rows, bert.encode(texts), atol=1e-3)  # other company, see ggembed.h
    with pytest.raises(TextTooLongError, match=r"^text 20 has") as caught:
        list(encode_iter(bert.encode, [*texts, "the " * 1000], batch_size=7))
    assert caught.value.input_index == 20


def test_embedder_streams_rows(bert):
    texts = (f"text {i}" for i in range(20))
    rows = np.stack(list(bert.encode_iter(texts, chunk_size=7, truncate_dim=8)))
    expected = bert.encode([f"text {i}" for i in range(20)], truncate_dim=8)
    np.testing.assert_allclose(rows, expected, atol=1e-3)


def test_embedder_streams_reports(bert):
    texts = ["the", "", "the " * 1000, "\ud800", "question"]
    found = list(bert.encode_iter(texts, chunk_size=2, on_error="collect"))
    whole = bert.encode(texts, on_error="collect")
    np.testing.assert_allclose(np.stack([one.rows for one in found]), whole.rows, atol=1e-3)
    assert [int(one.n_tokens[0]) for one in found] == whole.n_tokens.tolist()
    errors = {i: error for i, one in enumerate(found) for error in one.errors.values()}
    assert {i: type(error) for i, error in errors.items()} == {
        2: TextTooLongError,
        3: InvalidInputError,
    }
    assert {i: str(error) for i, error in errors.items()} == {
        i: str(error) for i, error in whole.errors.items()
    }
    assert [error.input_index for error in errors.values()] == [2, 3]


def test_embedder_streams_token_rows(bert):
    texts = ["the", "question and answer", "", "a"]
    expected = bert.encode(texts, output_value="token_embeddings")
    plain = bert.encode_iter(texts, chunk_size=3, output_value="token_embeddings")
    reports = bert.encode_iter(
        texts, chunk_size=3, output_value="token_embeddings", return_info=True
    )
    for found in (list(plain), [report.token_rows[0] for report in reports]):
        for rows, rows_of_list in zip(found, expected, strict=True):
            np.testing.assert_allclose(rows, rows_of_list, atol=1e-3)


def test_embedder_refuses_options_that_need_all_rows_at_once(bert):
    for option in ({"out": np.empty((1, 32), np.float32)}, {"precision": "int8"}):
        with pytest.raises(ValueError, match="encode_iter"):
            bert.encode_iter(["a"], **option)


def test_lone_surrogate_is_named_by_its_place(bert):
    with pytest.raises(InvalidInputError, match=r"^text 3 has the lone surrogate") as caught:
        list(encode_iter(bert.encode, ["a", "b", "c", "\ud800"], batch_size=2))
    assert caught.value.input_index == 3


@pytest.mark.parametrize("chunks", [1, 2])
def test_arrow_columns_stream(chunks):
    pa = pytest.importorskip("pyarrow")
    texts = [str(i) for i in range(1100)]
    column = pa.array(texts) if chunks == 1 else pa.chunked_array([texts[:700], texts[700:]])
    assert list(encode_iter(lambda chunk: chunk, column)) == texts


def test_example_runs():
    assert doctest.testmod(stream).failed == 0
    assert doctest.testmod(stream).attempted >= 2
