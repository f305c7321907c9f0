"""Odd inputs, each with its defined result."""

from __future__ import annotations

import numpy as np
import pytest
from ggembed import Embedder, EmptyTextError, InvalidInputError, TextTooLongError


def test_empty_list_is_zero_rows(bert):
    assert bert.encode([]).shape == (0, 32)
    assert bert.encode(iter([])).shape == (0, 32)
    assert bert.encode_query(()).shape == (0, 32)


def test_empty_string_of_a_model_with_special_tokens_is_a_row(bert):
    assert bert.count_tokens("") == 2
    assert np.isfinite(bert.encode("")).all()


def test_empty_string_of_a_model_without_special_tokens_is_an_error(qwen):
    assert qwen.count_tokens("") == 0
    with pytest.raises(EmptyTextError) as caught:
        qwen.encode(["a", "b", ""])
    assert caught.value.input_index == 2
    assert qwen.encode("", prompt="Query: ").shape == qwen.encode("a").shape


def test_one_token_is_a_row(qwen):
    assert qwen.count_tokens("a") == 1
    np.testing.assert_allclose(np.linalg.norm(qwen.encode("a")), 1, atol=1e-6)


def test_nul_bytes_do_not_end_a_text(bert, qwen):
    for embedder in (bert, qwen):
        with_nul = embedder.tokenize("the\0 question").tolist()
        assert len(with_nul) > len(embedder.tokenize("the"))
        assert np.isfinite(embedder.encode("the\0 question")).all()
        assert np.isfinite(embedder.encode("a", prompt="\0b")).all()
    assert np.abs(qwen.encode("a\0b") - qwen.encode("a")).max() > 1e-3


def test_lone_surrogates_are_refused(bert):
    for text in ("\ud800", "a\udfff", "\udc00\ud800"):
        with pytest.raises(InvalidInputError, match="lone surrogate"):
            bert.encode(text)
        with pytest.raises(InvalidInputError, match="lone surrogate"):
            bert.count_tokens([text])


def test_surrogate_pair_is_one_character(qwen):
    pair = "\ud83c\udf89".encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    np.testing.assert_array_equal(qwen.tokenize(pair), qwen.tokenize("🎉"))


@pytest.mark.parametrize("text", [" ", "\n\t \r\n", "\u00a0\u2003\u3000", " " * 100])
def test_whitespace_only(bert, qwen, text):
    assert bert.count_tokens(text) == 2  # WordPiece drops blanks
    assert np.isfinite(bert.encode(text)).all()
    assert qwen.count_tokens(text) >= 1
    assert np.isfinite(qwen.encode(text)).all()


@pytest.mark.parametrize("text", ["\ufeff", "\u200b", "\u0301", "\x07", "\ufffd", "\U0010ffff"])
def test_odd_characters(bert, qwen, text):
    assert np.isfinite(bert.encode(text)).all()
    assert np.isfinite(qwen.encode(text)).all()


def test_ten_megabytes_are_too_long_not_too_much(bert):
    text = "the question and the answer " * (10 * 2**20 // 28)
    with pytest.raises(TextTooLongError, match="512") as caught:
        bert.encode(["a", text])
    assert caught.value.input_index == 1
    assert bert.count_tokens(text) > 10**6


def test_ten_megabytes_without_a_blank(bert):
    with pytest.raises(TextTooLongError):
        bert.encode("问" * (10 * 2**20 // 3))
    assert np.isfinite(bert.encode("ꙮ" * 2**20)).all()  # one word that WordPiece does not know


def test_longest_text_that_fits_and_one_more(tiny):
    with Embedder(tiny("qwen3-last"), n_ctx=64, n_ubatch=16, n_threads=1) as embedder:
        text = " a" * 64
        assert embedder.count_tokens(text) == 64
        assert np.isfinite(embedder.encode(text)).all()
        with pytest.raises(TextTooLongError, match=r"65 tokens.*64"):
            embedder.encode(text + " a")


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last", "llama-last"])
def test_a_text_longer_than_a_micro_batch_leaves_the_budget_and_its_neighbours_alone(name, tiny):
    with (
        Embedder(tiny(name), device="cpu", n_ubatch=64, n_threads=1) as small,
        Embedder(tiny(name), device="cpu", n_ubatch=512, n_threads=1) as large,
    ):
        texts = ["a b c", "word " * 200, "a", "the question", "word " * 100]
        assert small.count_tokens(texts[1]) > 64
        for mixed in (texts, texts[:1], texts[::-1], texts[2:4]):
            cosine = (small.encode(mixed) * large.encode(mixed)).sum(axis=1)
            assert cosine.min() > 0.9999  # over a cache llama.cpp's attention sums in 16 bits
            assert small.info().n_ubatch == 64


def test_many_short_texts(bert):
    rows = bert.encode([f"text {i % 10}" for i in range(3000)])
    assert rows.shape == (3000, 32)
    np.testing.assert_allclose(rows[:10], rows[-10:], atol=1e-4)
