"""Split models: several files, named by the first."""

from __future__ import annotations

import gguf_files
import numpy as np
import pytest
from ggembed import Embedder, EmbedError, ModelFileError

TEXTS = ["one text", "and another"]


@pytest.fixture
def split(tiny, tmp_path):
    """The files of a model that is cut into pieces of ten tensors, first file first."""
    gguf_files.copy(tiny("bert-mean"), tmp_path / "split.gguf", split_tensors=10)
    files = sorted(tmp_path.glob("split-*.gguf"))
    assert len(files) >= 3
    return files


def test_split_model_gives_the_rows_of_the_whole(split, tiny):
    with (
        Embedder(tiny("bert-mean"), n_threads=1) as whole,
        Embedder(split[0], n_threads=1) as parts,
    ):
        np.testing.assert_array_equal(whole.encode(TEXTS), parts.encode(TEXTS))
        assert parts.info().n_params == whole.info().n_params
        assert parts.info().file_bytes == sum(file.stat().st_size for file in split)


def test_missing_part_is_named(split):
    split[1].unlink()
    with pytest.raises(ModelFileError, match=split[1].name):
        Embedder(split[0])


def test_a_later_part_alone_is_refused(split):
    with pytest.raises(EmbedError, match=r"split-00002-of-0000\d\.gguf"):
        Embedder(split[1])
