"""The library never prints."""

from __future__ import annotations

import warnings

from ggembed import Embedder


def test_nothing_is_printed(run_python, tiny):
    program = """
import sys
import ggembed
from ggembed import Embedder
try:
    Embedder("missing.gguf")
except ggembed.ModelFileError:
    pass
for name in sys.argv[1:]:
    with Embedder(name, n_threads=1) as embedder:
        embedder.encode(["a", "b " * 30])
        embedder.encode("a", output_value="token_embeddings")
        embedder.info()
        try:
            embedder.encode("a " * 1000)
        except ggembed.TextTooLongError:
            pass
ggembed.devices()
ggembed.build_info()
"""
    names = ("bert-mean", "bert-no-pooling-key", "qwen3-last", "eurobert-last-no-eos-key")
    done = run_python(program, *map(tiny, names))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_no_warning_in_normal_use(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Embedder(tiny("qwen3-last")) as embedder:
            embedder.encode(["a", "b"], truncate_dim=3)


def test_no_log_warning_in_normal_use(tiny, caplog):
    for name in ("qwen3-last", "eurobert-last"):
        with caplog.at_level("WARNING"), Embedder(tiny(name)) as embedder:
            embedder.encode(["a", "b"])
            embedder.encode("a", output_value="token_embeddings")
    assert [record.getMessage() for record in caplog.records] == []
