"""Split models: several files, named by the first."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from ggembed import Embedder, EmbedError, ModelFileError

TEXTS = ["one text", "and another"]


@pytest.fixture
def split(tiny, tmp_path):
    """The files of a model that is cut into pieces of ten tensors, first file first."""
    reader = gguf.GGUFReader(tiny("bert-mean"))
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "bert", split_max_tensors=10)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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
