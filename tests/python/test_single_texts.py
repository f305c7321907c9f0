"""A text alone takes a shorter way through Python and the library; what it gives is the same."""

from __future__ import annotations

import asyncio
import warnings

import numpy as np
import pytest
from ggembed import ClosedError, Embedder, EmbedError, TruncationWarning, _plans

RANGES = np.stack([np.full(32, -1.0, np.float32), np.full(32, 1.0, np.float32)])
OPTIONS = [
    {},
    {"normalize_embeddings": False},
    {"prompt": "a prompt: "},
    {"truncate_dim": 16},
    {"precision": "float16"},
    {"precision": "ubinary"},
    {"precision": "int8", "ranges": RANGES},
    {"max_tokens": 5, "overflow": "truncate"},
    {"max_tokens": 5, "overflow": "truncate_start"},
]


@pytest.fixture(scope="module")
def bert(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        yield embedder


@pytest.fixture
def routes(monkeypatch):
    """Which calls took the short way."""
    taken, plain = [], _plans.is_short_text

    def spy(inputs):
        taken.append(plain(inputs))
        return taken[-1]

    monkeypatch.setattr(_plans, "is_short_text", spy)
    return taken


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_text_alone_has_the_row_of_a_list_of_it(bert, routes, options):
    text = "one text of a good many words that goes on for a while"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = bert.encode([text], **options)[0]
        assert routes == [False]
        found = bert.encode(text, **options)
        awaited = asyncio.run(bert.aencode(text, **options))
        out = np.zeros_like(expected)
        assert bert.encode(text, out=out, **options) is out
    assert routes == [False, True, True, True]
    for row in (found, awaited, out):
        assert row.dtype == expected.dtype
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"on_error": "collect"},
        {"return_info": True},
        {"output_value": "token_embeddings"},
        {"auto": True},
        {"show_progress_bar": True},
        {"progress": lambda _done, _total: None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_calls_that_want_more_than_a_row_take_the_long_way(bert, routes, options):
    bert.encode("a text", **options)
    assert True not in routes


def test_what_is_wrong_is_told_in_the_same_words(bert, routes):
    for text, options in [
        ("a lone \ud800", {}),
        ("word " * 20, {"max_tokens": 3, "overflow": "error"}),
        ("word " * 600, {}),
        ("a text", {"prompt": "a long prompt of words", "max_tokens": 3, "overflow": "truncate"}),
    ]:
        told = []
        for inputs in ([text], text):
            with pytest.raises((EmbedError, ValueError)) as caught:
                bert.encode(inputs, **options)
            told.append((type(caught.value), str(caught.value), caught.value.input_index))
        with pytest.raises(told[0][0]) as caught:
            asyncio.run(bert.aencode(text, **options))
        told.append((type(caught.value), str(caught.value), caught.value.input_index))
        assert told[0] == told[1] == told[2]
    assert True in routes


def test_a_text_that_is_cut_is_warned_of_at_the_call(bert):
    with pytest.warns(TruncationWarning, match="1 of 1 text was cut to 4 tokens") as caught:
        bert.encode("a text of some words", max_tokens=4, overflow="truncate")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bert.encode("a", max_tokens=4, overflow="truncate")


def test_options_are_checked_again_where_that_matters(bert):
    assert bert.encode("a text", normalize_embeddings=True).shape == (32,)
    for _ in range(2):
        with pytest.raises(TypeError, match="max_tokens must be an int, got bool"):
            bert.encode("a text", max_tokens=True)
        bert.encode("a text", max_tokens=1 + 4, overflow="truncate")
        with pytest.raises(ValueError, match="no prompt is named 'x'"):
            bert.encode("a text", prompt_name="x")


def test_a_new_limit_holds_for_options_that_were_used_before(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1, overflow="truncate") as embedder:
        text = "one text of a good many words"
        whole = embedder.encode(text)
        embedder.max_seq_length = 4
        with pytest.warns(TruncationWarning):
            cut = embedder.encode(text)
        assert not np.array_equal(cut, whole)


def test_sets_of_options_that_are_kept_are_limited(bert):
    rows = {bert.encode("a text", prompt=f"{i} ").tobytes() for i in range(600)}
    assert len(bert._settled) <= 256
    assert len(rows) > 500


def test_a_closed_embedder_keeps_nothing_and_says_so(tiny):
    embedder = Embedder(tiny("bert-mean"), n_threads=1)
    embedder.encode("a text")
    embedder.close()
    assert not embedder._settled
    with pytest.raises(ClosedError, match="this Embedder is closed"):
        embedder.encode("a text")
    with pytest.raises(ClosedError, match="this Embedder is closed"):
        asyncio.run(embedder.aencode("a text"))
