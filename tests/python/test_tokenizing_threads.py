"""Tokenising on several threads: what one thread makes of the same texts."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import texts
import tiny_tokenizers
from ggembed import EmbedError, InvalidInputError, TextTooLongError, _native

# Beyond 64 KiB per thread, so that several threads take part.
MANY = [f"{text} {i}" for i in range(60) for text in texts.STRINGS + texts.TEXTS_ENGLISH]


def flat(encoded: list[bytes]) -> tuple[bytes, np.ndarray]:
    return b"".join(encoded), np.cumsum([0, *map(len, encoded)])


def tokens_of(model: _native.Model, encoded: list[bytes], **options: object) -> _native.Tokens:
    return _native.Tokens(model, *flat(encoded), **options)


def load(path: Path) -> _native.Model:
    return _native.Model(str(path), device="cpu", n_gpu_layers=0, mmap=True, progress=None)


@pytest.fixture(scope="module")
def bert_model(tiny) -> _native.Model:
    return load(tiny("bert-mean"))


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_ids_do_not_depend_on_the_number_of_threads(kind, tmp_path):
    make = tiny_tokenizers.KINDS[kind]
    model = load(tiny_tokenizers.write(make(), tmp_path / "model.gguf"))
    encoded = [text.encode() for text in MANY]
    assert sum(map(len, encoded)) > 4 * 65536
    for options in ({}, {"max_tokens": 12, "overflow": "truncate_start", "prompt": b"query: "}):
        serial = tokens_of(model, encoded, n_threads=1, **options)
        for n_threads in (2, 5):
            found = tokens_of(model, encoded, n_threads=n_threads, **options)
            assert np.array_equal(found.ids(), serial.ids())
            assert np.array_equal(found.offsets(), serial.offsets())
            if serial.truncated is not None:
                assert np.array_equal(found.truncated, serial.truncated)


def test_errors_do_not_depend_on_the_number_of_threads(bert_model):
    encoded = [text.encode() for text in MANY]
    for i in (3000, 1234, 1235):
        encoded[i] = b"x\xff"
    found = []
    for n_threads in (1, 2, 5):
        with pytest.raises(InvalidInputError, match="text 1234 is not valid UTF-8") as caught:
            tokens_of(bert_model, encoded, n_threads=n_threads)
        assert caught.value.input_index == 1234
        errors: dict[int, EmbedError] = {}
        tokens_of(bert_model, encoded, n_threads=n_threads, max_tokens=30, errors=errors)
        found.append([(i, type(err), str(err)) for i, err in errors.items()])
    assert found[0] == found[1] == found[2]
    assert {1234, 1235, 3000} < {i for i, _, _ in found[0]}
    assert TextTooLongError in {kind for _, kind, _ in found[0]}


def test_errors_are_told_on_the_calling_thread(bert_model):
    threads = set()

    class Noted(dict[int, EmbedError]):
        def __setitem__(self, i: int, error: EmbedError) -> None:
            threads.add(threading.get_ident())
            super().__setitem__(i, error)

    errors = Noted()
    encoded = [*(text.encode() for text in MANY), b"\xff"]
    tokens_of(bert_model, encoded, n_threads=4, errors=errors)
    assert list(errors) == [len(MANY)]
    assert threads == {threading.get_ident()}
