"""What counts as texts, how they become bytes, and which arrays are accepted for `out`."""

from __future__ import annotations

import array
from itertools import pairwise

import numpy as np
import pytest
from ggembed import InvalidInputError, _buffers

TEXTS = ["a", "", "\0", "你好", "🎉 b"]


def test_flatten_joins_utf8_and_counts_bytes():
    data, offsets = _buffers.flatten(TEXTS)
    encoded = [text.encode() for text in TEXTS]
    assert data == b"".join(encoded)
    assert offsets.dtype == np.int64
    assert [data[a:b] for a, b in pairwise(offsets)] == encoded
    assert _buffers.flatten([])[1].tolist() == [0]


class Subclass(str):
    """A str all the same."""

    __slots__ = ()


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        iter(TEXTS),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
        np.array(TEXTS, object),
        [Subclass(text) for text in TEXTS],
    ],
    ids=["tuple", "iterator", "generator", "keys", "object array", "str subclass"],
)
def test_iterables_of_str_are_texts(texts):
    listed, single = _buffers.as_list(texts)
    assert not single
    assert _buffers.flatten(listed)[0] == "".join(TEXTS).encode()


def test_numpy_string_array_is_texts(bert):
    texts = np.array(["the", "question"])
    np.testing.assert_array_equal(bert.count_tokens(texts), bert.count_tokens(texts.tolist()))


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("pandas", lambda m: m.Series(TEXTS)),
        ("polars", lambda m: m.Series(TEXTS)),
        ("pyarrow", lambda m: m.array(TEXTS)),
        ("pyarrow", lambda m: m.chunked_array([TEXTS[:2], TEXTS[2:]])),
    ],
    ids=["pandas", "polars", "arrow", "arrow chunks"],
)
def test_columns_are_texts(module, make):
    column = make(pytest.importorskip(module))
    assert _buffers.as_list(column) == (TEXTS, False)


def test_table_is_not_a_column():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"one-dimensional, got shape \(5, 1\)"):
        _buffers.as_list(pandas.DataFrame({"text": TEXTS}))


@pytest.mark.parametrize("texts", [np.array([["a"]]), np.array("a")])
def test_array_of_other_dimension_is_refused(bert, texts):
    with pytest.raises(ValueError, match="one-dimensional"):
        bert.encode(texts)


@pytest.mark.parametrize("texts", [b"a", bytearray(b"a"), memoryview(b"a"), 5, None])
def test_other_things_are_not_texts(bert, texts):
    kind = type(texts).__name__
    with pytest.raises(TypeError, match=f"texts must be a str or an iterable of str, got {kind}"):
        bert.encode(texts)


@pytest.mark.parametrize("wrong", [b"a", None, 1, float("nan"), ["a"], np.int32(3)])
def test_element_that_is_no_str_is_named(bert, wrong):
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=f"texts must be str, got {kind} at index 2"):
        bert.encode(["a", "b", wrong, "c"])


def test_bytes_array_is_refused(bert):
    with pytest.raises(TypeError, match="texts must be str, got bytes at index 0"):
        bert.encode(np.array([b"a"]))


def test_lone_surrogate_is_named(bert):
    with pytest.raises(InvalidInputError, match=r"text 1 .* U\+D83C at position 3") as caught:
        bert.encode(["a", "abc\ud83c", "\udfff"])
    assert caught.value.input_index == 1
    with pytest.raises(InvalidInputError, match=r"prompt .* U\+DC00"):
        bert.encode("a", prompt="\udc00")


def out_of(shape=(2, 32), dtype=np.float32):
    return np.zeros(shape, dtype)


def read_only():
    out = out_of()
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (out_of(dtype=np.float64), "dtype float32, got float64"),
        (out_of(dtype=np.dtype(np.float32).newbyteorder()), "dtype float32"),
        (out_of((3, 32)), r"shape \(2, 32\), got \(3, 32\)"),
        (out_of((2, 31)), r"shape \(2, 32\), got \(2, 31\)"),
        (out_of((64,)), r"shape \(2, 32\), got \(64,\)"),
        (read_only(), "writeable"),
        (out_of((32, 2)).T, "contiguous"),
        (out_of((2, 64))[:, ::2], "contiguous"),
        (out_of()[::-1], "contiguous"),
        (np.lib.stride_tricks.as_strided(out_of(), (2, 32), (4, 4)), "overlap"),
        (np.frombuffer(bytearray(257), np.uint8)[1:].view(np.float32).reshape(2, 32), "contiguous"),
    ],
    ids=str,
)
def test_wrong_out_is_refused_by_name(bert, out, message):
    with pytest.raises(ValueError, match=f"out.* {message}"):
        bert.encode(["a", "b"], out=out)


def test_out_must_be_an_array(bert):
    with pytest.raises(TypeError, match="out must be a numpy array, got array"):
        bert.encode("a", out=array.array("f", [0] * 32))


def test_out_of_a_single_row_has_one_axis(bert):
    with pytest.raises(ValueError, match=r"shape \(32,\), got \(1, 32\)"):
        bert.encode("a", out=out_of((1, 32)))


def test_out_of_token_rows_has_all_tokens(bert):
    texts = ["the", "question and answer"]
    out = out_of((int(bert.count_tokens(texts).sum()), 32))
    rows = bert.encode(texts, output_value="token_embeddings", out=out)
    assert all(row.base is out for row in rows)
    assert (np.linalg.norm(out, axis=1) > 0.9).all()
