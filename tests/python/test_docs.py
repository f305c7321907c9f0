"""The examples in docstrings run as they stand."""

from __future__ import annotations

import doctest

import pytest
from ggembed import embedder


@pytest.mark.usefixtures("minilm")
def test_examples_run():
    results = doctest.testmod(embedder, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted >= 5
    assert results.failed == 0
