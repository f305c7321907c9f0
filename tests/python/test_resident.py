"""What of a model's file is in memory, beside the weights that are packed for the CPU."""

from __future__ import annotations

import sys

import gguf
import pytest
from ggembed import Embedder, quantize
from proc_maps import mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of pages")

FOLIO = 2 << 20  # what a read of a mapped file brings in at most: a folio of the page cache


@pytest.fixture(scope="module")
def model(minilm, tmp_path_factory):
    """A file whose table of tokens has 47 MB: (path, bytes of the table)."""
    folder = tmp_path_factory.mktemp("resident")
    path = folder / "f32.gguf"
    # in one piece: large folios, where the page cache has them
    path.write_bytes(quantize(minilm, folder / "made.gguf", "F32").read_bytes())
    tensors = {t.name: t.n_bytes for t in gguf.GGUFReader(path).tensors}
    return path, int(tensors["token_embd.weight"])


def test_neither_packed_weights_nor_the_token_table_are_resident_after_loading(model):
    path, table_bytes = model
    with Embedder(path, device="cpu", n_threads=1) as embedder:
        if not embedder.info().cpu_kernels:
            pytest.skip("no kernel of ours for F32 on this CPU: its weights stay in the file")
        pages = mapped("self", path)
    assert pages["Size"] > table_bytes
    assert pages["Rss"] < 2 * FOLIO  # rows of the first pass, and positions


@pytest.mark.parametrize("kernels", ["auto", "upstream"])
def test_a_short_text_brings_in_no_more_than_its_rows_of_the_token_table(kernels, model):
    path, table_bytes = model
    with Embedder(path, device="cpu", n_threads=1, cpu_kernels=kernels) as embedder:
        before = mapped("self", path)["Rss"]
        n_tokens = embedder.count_tokens("zinc")
        embedder.encode("zinc")
        grown = mapped("self", path)["Rss"] - before
    assert 0 < grown <= n_tokens * FOLIO < table_bytes / 4
