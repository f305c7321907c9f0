"""The examples in docstrings and in the README run as they stand."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from enum import Enum
from pathlib import Path
from types import FunctionType

import ggembed
import media_files
import pytest

ROOT = Path(__file__).parents[2]


FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# What the examples of hub.py need is in test_hub.py.
MODULES = sorted(
    module.name
    for module in pkgutil.iter_modules(ggembed.__path__, "ggembed.")
    if module.name not in ("ggembed.__main__", "ggembed.hub", "ggembed.libggembed")
)


@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    results = doctest.testmod(importlib.import_module(module), optionflags=FLAGS)
    assert results.failed == 0


@pytest.mark.parametrize("medium", ["Images", "Sound", "Video", "PDF"])
def test_each_medium_is_shown_in_five_lines(medium):
    page = (ROOT / "docs" / "media.md").read_text("utf-8")
    (example,) = re.findall(rf"## {medium}\n\n```python\n(.*?)```", page, re.DOTALL)
    lines = [line for line in example.splitlines() if line]
    assert len(lines) <= 5


def public_functions():
    for name in ggembed.__all__:
        value = getattr(ggembed, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) and not issubclass(value, (Exception, Enum)):
            for member, function in vars(value).items():
                if not member.startswith("_") and isinstance(function, (FunctionType, classmethod)):
                    yield f"{name}.{member}", function


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_every_public_function_has_an_example(name, function):
    assert ">>> " in inspect.getdoc(function), name


@pytest.fixture
def media_files_here(tmp_path, monkeypatch):
    """The files that docs/media.md names, in the current folder."""
    files = {
        "cat.png": media_files.make_image("png"),
        "talk.wav": media_files.make_audio("wav"),
        "clip.mp4": media_files.make_video("mp4"),
        "paper.pdf": media_files.make_pdf([(60, 80)] * 3),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("minilm", "media_files_here")
@pytest.mark.parametrize(
    ("page", "n_least", "each_alone"),
    [
        ("README.md", 3, True),
        ("docs/text.md", 6, True),
        ("docs/speed.md", 5, True),
        ("docs/devices.md", 3, True),
        ("docs/service.md", 4, True),
        ("docs/media.md", 7, False),
    ],
)
def test_examples_of_pages_run_and_print_what_the_page_says(page, n_least, each_alone, capsys):
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    n_run = n_compared = 0
    printed = ""
    names = {}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, page, "exec"), {} if each_alone else names)
            printed = capsys.readouterr().out
            assert printed, f"the example prints nothing:\n{text}"
            n_run += 1
        elif language == "text":
            assert printed == text
            n_compared += 1
    assert n_run >= n_least
    assert n_compared >= n_least - 1
