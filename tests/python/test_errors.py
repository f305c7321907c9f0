"""The error tree: classes, attributes, and what the native library says."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import ggembed
import numpy as np
import pytest
from faults import faulty_embedder
from ggembed import (
    DeviceError,
    Embedder,
    EmbedError,
    InternalError,
    InvalidInputError,
    ModelFileError,
    ModelFormatError,
    OutOfMemoryError,
    TextTooLongError,
    UnsupportedError,
    _native,
    errors,
)

BUILTIN = {
    "InvalidInputError": ValueError,
    "UnsupportedError": NotImplementedError,
    "ModelFileError": OSError,
    "ModelFormatError": ValueError,
    "OutOfMemoryError": MemoryError,
    "DeviceError": RuntimeError,
    "TextTooLongError": ValueError,
    "EmptyTextError": ValueError,
    "NotFiniteError": ArithmeticError,
    "AbortedError": RuntimeError,
    "ClosedError": RuntimeError,
    "InternalError": RuntimeError,
    "BusyError": RuntimeError,
    "LibraryLoadError": ImportError,
    "MissingExtraError": ImportError,
}


def test_every_class_is_public_and_inherits_a_builtin():
    assert {error.__name__ for error in EmbedError.__subclasses__()} == BUILTIN.keys()
    for name, builtin in BUILTIN.items():
        assert issubclass(getattr(ggembed, name), builtin)
        assert name in ggembed.__all__


def test_every_status_has_a_class():
    lib = _native.library().lib
    names = {name for name in dir(lib) if name.startswith("GGE_E_")}
    assert names == errors.BY_STATUS.keys()
    assert len(names) == 13


@pytest.mark.parametrize("name", BUILTIN)
def test_errors_survive_pickling(name):
    error = getattr(ggembed, name)("what went wrong", input_index=4)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.input_index, copy.status) == ("what went wrong", 4, error.status)


def test_check_turns_every_status_into_its_class():
    lib = _native.library()
    for name, error in errors.BY_STATUS.items():
        err = lib.error()
        err.message, err.input_index = b"the message", 3
        with pytest.raises(error, match=r"^the message$") as caught:
            _native.check(getattr(lib.lib, name), err)
        assert (caught.value.status, caught.value.input_index) == (name, 3)


def test_unknown_status_is_an_internal_error():
    with pytest.raises(errors.InternalError, match="unknown"):
        _native.check(99, _native.library().error())


def test_missing_file_is_named(tmp_path):
    path = tmp_path / "no-such-model.gguf"
    with pytest.raises(ModelFileError, match=r"no-such-model\.gguf") as caught:
        Embedder(path)
    assert caught.value.status == "GGE_E_IO"
    assert caught.value.input_index is None


def test_folder_is_no_model(tmp_path):
    with pytest.raises(EmbedError) as caught:
        Embedder(tmp_path)
    assert isinstance(caught.value, (ModelFileError, ModelFormatError))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 100])
def test_other_file_is_no_model(tmp_path, content):
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError):
        Embedder(path)


def test_truncated_file_is_no_model(tmp_path, tiny):
    path = tmp_path / "short.gguf"
    path.write_bytes(tiny("bert-mean").read_bytes()[:-1000])
    with pytest.raises((ModelFormatError, ModelFileError)):
        Embedder(path)


def test_nul_in_names_is_refused(tiny):
    with pytest.raises(InvalidInputError, match="model must not hold a NUL byte"):
        Embedder("a\0b")
    with pytest.raises(InvalidInputError, match="device must not hold a NUL byte"):
        Embedder(tiny("bert-mean"), device="cpu\0")


def test_unknown_device_is_named(tiny):
    with pytest.raises((DeviceError, InvalidInputError), match="warp:7"):
        Embedder(tiny("bert-mean"), device="warp:7")


def test_reranker_is_unsupported(tiny):
    with (
        pytest.raises(UnsupportedError),
        Embedder(tiny("bert-rank")) as embedder,
    ):
        embedder.encode("a")


def test_too_long_text_is_named_with_the_limit(bert):
    with pytest.raises(TextTooLongError, match="512") as caught:
        bert.encode(["a", "b", "the " * 600])
    assert caught.value.input_index == 2
    assert bert.encode("a").shape == (32,)  # the next call is none the worse


def test_engine_limit_counts(tiny):
    with Embedder(tiny("qwen3-last"), n_ctx=8) as embedder:
        with pytest.raises(TextTooLongError, match="8"):
            embedder.encode("word " * 50)
        with pytest.raises(InvalidInputError):
            Embedder(tiny("qwen3-last"), n_ctx=10**6)


def test_types_that_hold_activations_are_no_weights(tiny, tmp_path):
    gguf = pytest.importorskip("gguf")
    dtype = gguf.GGMLQuantizationType.Q8_K
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[dtype]
    reader = gguf.GGUFReader(tiny("qwen3-wide-last"))
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "qwen3")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), kind)
    for tensor in reader.tensors:
        data, raw = tensor.data, tensor.tensor_type
        if tensor.name == "blk.0.ffn_down.weight":
            width, n_rows = map(int, tensor.shape)
            data, raw = np.zeros((n_rows, width // n_values * n_bytes), np.uint8), dtype
        writer.add_tensor(tensor.name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = tmp_path / "odd.gguf"
    with pytest.raises(ModelFormatError, match=r"blk.0.ffn_down.weight has type q8_.*not one of w"):
        Embedder(path)
    with pytest.raises(ModelFormatError, match="not one of weights"):
        ggembed.quantize(path, tmp_path / "out.gguf", "Q4_0", requantize=True)


def test_name_that_looks_split_but_is_not(tiny, tmp_path):
    path = tmp_path / "the-best-of-00010.gguf"
    path.write_bytes(tiny("bert-mean").read_bytes())
    with Embedder(path, n_threads=1) as embedder:
        assert embedder.encode("x").shape == (embedder.dim,)


def with_a_missing_tensor(source, target):
    """Writes a copy of a model in which a tensor has another name; returns what it was."""
    data, name = source.read_bytes(), b"blk.0.attn_q.weight"
    assert data.count(name) == 1
    target.write_bytes(data.replace(name, b"blk.9.attn_q.weight"))
    return name.decode()


def test_a_damaged_file_has_the_last_lines_of_its_loading(tiny, tmp_path, caplog):
    missing = with_a_missing_tensor(tiny("bert-mean"), tmp_path / "damaged.gguf")
    with pytest.raises(ModelFormatError, match=missing) as caught:
        Embedder(tmp_path / "damaged.gguf")
    lines = caught.value.native_log
    assert 2 < len(lines) <= 16
    assert any(missing in line for line in lines[-2:])
    assert any("print_info" in line for line in lines)  # which the logger drops
    assert not any("print_info" in record.getMessage() for record in caplog.records)
    shown = "".join(traceback.format_exception(caught.value))
    assert ("\n".join(lines) in shown) == (sys.version_info >= (3, 11))
    assert pickle.loads(pickle.dumps(caught.value)).native_log == lines
    with pytest.raises(ModelFileError) as caught:
        Embedder(tmp_path / "missing.gguf")
    assert caught.value.native_log == ()


def test_errors_of_loading_have_no_lines_of_other_threads(tiny, tmp_path):
    good = threading.Event()
    stop = threading.Event()

    def load():
        while not stop.is_set():
            Embedder(tiny("bert-mean"), n_threads=1).close()
            good.set()

    thread = threading.Thread(target=load)
    missing = with_a_missing_tensor(tiny("bert-mean"), tmp_path / "damaged.gguf")
    thread.start()
    try:
        good.wait(60)
        for _ in range(20):
            with pytest.raises(ModelFormatError) as caught:
                Embedder(tmp_path / "damaged.gguf")
            assert not any("llama_context" in line for line in caught.value.native_log)
            assert missing in "".join(caught.value.native_log[-2:])
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("device", DeviceError), ("internal", InternalError), ("no_memory", OutOfMemoryError)],
)
def test_a_failing_run_has_the_last_lines_of_the_engine(internals, tiny, kind, error):
    line = "fault: the device is about to fail"
    with faulty_embedder(internals, tiny("bert-mean")) as (embedder, inject):
        inject(zebra=(kind, -1))
        with pytest.raises(error) as caught:
            embedder.encode(["a cat", "zebra"])
        assert 0 < len(caught.value.native_log) <= 16
        assert set(caught.value.native_log) == {line}
        with pytest.raises(error) as caught:
            asyncio.run(embedder.aencode(["a cat", "zebra"]))
        assert set(caught.value.native_log) == {line}
        with pytest.raises(error) as caught:
            asyncio.run(embedder.aencode("zebra"))
        assert set(caught.value.native_log) == {line}
        with pytest.raises(error) as caught:
            embedder.encode("zebra")
        assert set(caught.value.native_log) == {line}
        with ThreadPoolExecutor() as pool, pytest.raises(error) as caught:
            pool.submit(embedder.encode, "zebra").result()
        assert set(caught.value.native_log) == {line}
        found = embedder.encode(["a cat", "zebra"], on_error="collect")
        assert set(found.errors[1].native_log) == {line}
        with pytest.raises(TextTooLongError) as caught:
            embedder.encode("word " * 999)
        assert caught.value.native_log == ()
