"""The examples in docstrings and in the README run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from ggembed import embedder

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("minilm")
def test_docstring_examples_run():
    results = doctest.testmod(embedder, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted >= 5
    assert results.failed == 0


@pytest.mark.usefixtures("minilm")
def test_readme_examples_run_and_print_what_the_readme_says(capsys):
    blocks = re.findall(r"```(\w+)\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    n_run = n_compared = 0
    printed = ""
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(README), "exec"), {})
            printed = capsys.readouterr().out
            assert printed, f"the example prints nothing:\n{text}"
            n_run += 1
        elif language == "text":
            assert printed == text
            n_compared += 1
    assert n_run >= 2
    assert n_compared >= 1
