"""Memory estimates against the buffers of loaded models and against the process."""

from __future__ import annotations

import dataclasses
import sys

import fixtures
import gguf
import gguf_files
import golden
import make_tiny_adapters
import make_tiny_models
import numpy as np
import pytest
from ggembed import (
    DeviceError,
    Embedder,
    EmbedError,
    InvalidInputError,
    MemoryEstimate,
    ModelFileError,
    estimate,
    quantize,
)

minilm_of = fixtures.minilm  # by the type of its matrices

# n_ctx, n_ubatch, n_seq_max: the engine's own; inputs longer than a micro-batch; odd numbers.
SETTINGS = [(512, 512, 256), (512, 64, 8), (300, 128, 16)]


def held(internals, path, n_ctx, n_ubatch, n_seq_max, *, mmap=True):
    """The buffers of a loaded model after a full micro-batch, as llama.cpp reports them."""
    return internals.held_memory(str(path), mmap, n_ctx, n_ubatch, n_seq_max)


def estimated(path, n_ctx, n_ubatch, n_seq_max):
    sizes = {"n_ctx": n_ctx, "n_ubatch": n_ubatch, "n_seq_max": n_seq_max}
    needs = dataclasses.asdict(estimate(path, device="cpu", n_threads=1, **sizes))
    del needs["weights"]
    return needs


@pytest.mark.parametrize("name", [*golden.TINY_PARITY, "qwen3-wide-last", "bert-rank"])
def test_the_estimate_is_what_a_loaded_model_holds(name, internals, tiny):
    for numbers in SETTINGS:
        assert estimated(tiny(name), *numbers) == held(internals, tiny(name), *numbers, mmap=False)


@pytest.mark.parametrize("level", ["F32", "F16", "Q8_0"])
def test_the_estimate_of_minilm_is_what_it_holds(level, internals, minilm_of):
    path = minilm_of(level)
    for numbers in SETTINGS:
        found = held(internals, path, *numbers, mmap=False)
        assert estimated(path, *numbers) == found
        assert found["weights_host"] == pytest.approx(path.stat().st_size, rel=0.1)


def test_weights_that_are_packed_for_the_cpu_count_once(internals, minilm, tmp_path):
    path = quantize(minilm, tmp_path / "four.gguf", "Q4_0")
    needs, read = (
        estimated(path, *SETTINGS[0]),
        held(internals, path, *SETTINGS[0], mmap=False),
    )
    assert needs == read
    assert needs["weights_host"] == pytest.approx(path.stat().st_size, rel=0.1)
    mapped = held(internals, path, *SETTINGS[0], mmap=True)
    # tables at both ends of what stays in the file, and what lies between them
    assert needs.pop("weights_host") == pytest.approx(mapped.pop("weights_host"), rel=0.01)
    assert needs == mapped


@pytest.mark.skipif(sys.platform != "linux", reason="reads the numbers of Linux")
def test_the_process_grows_by_the_estimate(run_python, minilm):
    done = run_python(
        """
import re, sys
from pathlib import Path
from ggembed import Embedder, estimate

def used():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

path = sys.argv[1]
needs = estimate(path, device="cpu", n_threads=1).total
before = used()
embedder = Embedder(path, device="cpu", n_threads=1, mmap=False)
embedder.encode(["word " * 510, *["a few words"] * 300])
print(needs, used() - before)
""",
        minilm,
    )
    needs, grown = map(int, done.stdout.split())
    # the vocabulary, the tokenizer and the library's own memory come on top
    assert needs < grown < needs + 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_model_larger_than_memory_is_estimated(run_python, tiny, tmp_path):
    """A sparse file of a model of some 200 GB, in a process that may take 2 GB."""
    path = tmp_path / "large.gguf"
    size = write_sparse(tiny("llama-last"), path, n_layer=80, n_embd=16384, n_ff=32768)
    done = run_python(
        """
import resource, sys
from ggembed import estimate
import numpy
estimate(sys.argv[2], device="cpu")
limit = 2 << 30
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(estimate(sys.argv[1], device="cpu", n_ctx=2048, n_threads=1).weights_host)
""",
        path,
        tiny("llama-last"),
    )
    assert done.returncode == 0, done.stderr
    assert size > 150e9
    assert int(done.stdout) == pytest.approx(size, rel=0.01)


def write_sparse(source, path, *, n_layer, n_embd, n_ff):
    """Metadata and tensor headers of a llama model, and zeros that take no room on the disk."""
    reader = gguf.GGUFReader(source)
    numbers = {
        "llama.block_count": n_layer,
        "llama.embedding_length": n_embd,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_embd // 128,
        "llama.attention.head_count_kv": n_embd // 128,
        "llama.rope.dimension_count": 128,
    }
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            value = numbers.get(field.name, field.contents())
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, value, field.types[0], sub_type)
    n_vocab = len(reader.get_field("tokenizer.ggml.tokens").data)
    matrix, down = (n_embd, n_embd), (n_embd, n_ff)
    shapes = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    for i in range(n_layer):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{i}.{name}.weight"] = matrix
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"blk.{i}.{name}.weight"] = (n_ff, n_embd)
        shapes[f"blk.{i}.ffn_down.weight"] = down
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{i}.{name}.weight"] = (n_embd,)
    n_bytes = 0
    for name, shape in shapes.items():
        kind = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        size = int(np.prod(shape)) * kind.itemsize
        writer.add_tensor_info(name, shape, kind, size)
        n_bytes += size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + n_bytes + 64 * len(shapes))
    return n_bytes


def test_totals_are_sums():
    needs = MemoryEstimate(1, 20, 300, 4000, 50000, 600000, 7000000)
    assert needs.total_device == 50301
    assert needs.total_host == 7604020
    assert needs.total == needs.total_device + needs.total_host


def test_the_cache_of_a_model_that_needs_one_grows_with_the_context(tiny):
    small, medium, large = (
        estimate(tiny("lfm2-mean"), device="cpu", n_ctx=n) for n in (512, 1024, 2048)
    )
    assert large.cache_host - medium.cache_host == 2 * (medium.cache_host - small.cache_host) > 0
    assert large.output_host == small.output_host  # long texts run in several micro-batches
    assert large.weights_host == small.weights_host


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last"])
def test_the_buffers_of_a_model_without_cache_are_linear_in_the_longest_text(name, tiny):
    small, large = (estimate(tiny(name), device="cpu", n_ubatch=64, n_ctx=n) for n in (64, 512))
    assert small.compute_host < large.compute_host < 8.5 * small.compute_host
    assert large.output_host == 8 * small.output_host
    assert large.cache_host == small.cache_host == 0


def test_a_model_on_the_cpu_needs_no_memory_of_a_device(tiny):
    assert estimate(tiny("qwen3-last"), device="cpu").total_device == 0


def test_a_quantised_model_needs_less_for_its_weights(tiny, tmp_path):
    wide = tiny("qwen3-wide-last")
    small = quantize(wide, tmp_path / "small.gguf", "Q4_K_M")
    ratio = estimate(small, device="cpu").weights_host / estimate(wide, device="cpu").weights_host
    assert ratio < 0.25


def test_a_split_model_needs_what_the_whole_one_does(tiny, tmp_path):
    gguf_files.copy(tiny("qwen3-last"), tmp_path / "split.gguf", split_tensors=9)
    first = min(tmp_path.glob("split-*-of-*.gguf"))
    found, wanted = estimate(first, device="cpu"), estimate(tiny("qwen3-last"), device="cpu")
    assert found.total == pytest.approx(wanted.total, rel=0.01)


def test_adapters_add_their_matrices(tiny, tmp_path):
    base = tiny("qwen3-last")
    adapter = tmp_path / "adapter.gguf"
    make_tiny_adapters.write(
        make_tiny_adapters.build(make_tiny_models.build("qwen3-last"), "first"), adapter
    )
    size = sum(t.n_bytes for t in gguf.GGUFReader(adapter).tensors)
    plain = estimate(base, device="cpu")
    one, two = (estimate(base, device="cpu", adapters=[adapter] * n) for n in (1, 2))
    assert one.weights_host - plain.weights_host == size > 0
    assert two.weights_host - plain.weights_host == 2 * size
    assert one.total - plain.total == size


def test_an_adapter_of_another_model_is_refused(tiny, tmp_path):
    adapter = tmp_path / "adapter.gguf"
    make_tiny_adapters.write(
        make_tiny_adapters.build(make_tiny_models.build("qwen3-last"), "first"), adapter
    )
    with pytest.raises(EmbedError, match=r"adapter\.gguf"):
        estimate(tiny("bert-mean"), adapters=[adapter])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_ctx": 513}, InvalidInputError, "n_ctx is 513, the model's context holds 512"),
        ({"n_ctx": 0}, ValueError, "n_ctx must be in 1"),
        ({"n_ubatch": 2**20 + 1}, InvalidInputError, "n_ubatch is 1048577"),
        ({"n_seq_max": 257}, InvalidInputError, "n_seq_max is 257"),
        ({"n_threads": True}, TypeError, "n_threads must be an int"),
        ({"n_gpu_layers": -1}, ValueError, "n_gpu_layers must be in 0"),
        ({"device": "warp:7"}, DeviceError, "warp:7"),
        ({"adapters": ["missing.gguf"]}, ModelFileError, r"missing\.gguf"),
    ],
)
def test_wrong_options_are_those_of_an_embedder(options, error, message, tiny):
    with pytest.raises(error, match=message):
        estimate(tiny("bert-mean"), **options)


def test_files_that_cannot_be_loaded_cannot_be_estimated(tiny, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny("bert-mean").read_bytes()[:-1000])
    for path in (cut, tmp_path / "missing.gguf", tmp_path, __file__):
        with pytest.raises(EmbedError) as of_estimate:
            estimate(path)
        with pytest.raises(EmbedError) as of_embedder:
            Embedder(path)
        assert type(of_estimate.value) is type(of_embedder.value)
        assert str(of_estimate.value) == str(of_embedder.value)


def test_an_absurd_context_is_refused(tiny, tmp_path):
    path = tmp_path / "absurd.gguf"
    data = tiny("qwen3-last").read_bytes()
    key = b"qwen3.context_length"
    at = data.index(key) + len(key) + 4
    path.write_bytes(data[:at] + (2**31 - 1).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(InvalidInputError, match="n_ctx is 2147483648, estimates go up to 4194304"):
        estimate(path, device="cpu")
    assert estimate(path, device="cpu", n_ctx=512).total > 0
