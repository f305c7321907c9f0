"""Our kernels for matrices beside llama.cpp's, in whole models and alone."""

from __future__ import annotations

import re
from pathlib import Path

import fixtures
import gguf
import golden
import make_tiny_models
import numpy as np
import pytest
import texts
from ggembed import Embedder, estimate, quantize

minilm_of = fixtures.minilm  # by the type of its matrices

TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("F16", "BF16"),
)
LEVELS = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q4_K_M", "Q4_0", "Q4_1", "IQ4_XS")
# What rows may lose beyond what they lose with llama.cpp's kernels: an absolute part, and where the
# level itself loses percents, the noise of a mean over some texts.
LOSS, NOISE = 1e-4, 0.02


@pytest.fixture(scope="module")
def by_length() -> dict[str, list[str]]:
    words = " ".join(texts.TEXTS_ENGLISH).split()
    lengths = {"very short": 1, "short": 5, "medium": 70, "long": 170}
    return {
        name: [" ".join(words[i * n : (i + 1) * n]) for i in range(min(60, len(words) // n))]
        for name, n in lengths.items()
    }


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("n_out", "n_tokens"), [(96, 2), (70, 33)])
def test_products_are_near_those_of_llama_cpp(kind, n_out, n_tokens, internals):
    if not internals.matmul_kernels(kind):
        pytest.skip(f"no kernel of ours for {kind} on this CPU")
    sizes = {"n_out": n_out, "n_in": 512, "n_tokens": n_tokens, "n_threads": 2, "n_rounds": 1}
    for kernel in internals.matmul_kernels(kind):
        found = internals.compare_products(type=kind, kernel=kernel, **sizes)
        ours = np.array(found.pop("ggembed")[1])
        ((_, theirs),) = found.values()
        off = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert 0 < off < 0.02  # both round activations to 8 bits, in blocks of 32 to 256


def test_the_kernel_that_is_asked_for_multiplies(internals):
    kernels = internals.matmul_kernels("F16")
    if "avx512-bf16" not in kernels:
        pytest.skip(f"this CPU has no two kernels for F16 whose results differ: {kernels}")
    sizes = {"n_out": 48, "n_in": 64, "n_tokens": 3, "n_threads": 1, "n_rounds": 1}
    found = [
        internals.compare_products(type="F16", kernel=kernel, **sizes)["ggembed"][1]
        for kernel in ["", *kernels]
    ]
    default, rounded, *whole = map(np.array, found)
    np.testing.assert_array_equal(default, rounded)
    for values in whole:
        np.testing.assert_array_equal(values, whole[0])
        assert not np.array_equal(values, rounded)
    with pytest.raises(ValueError, match="this CPU has no kernel avx512-vnni for F16"):
        internals.compare_products(type="F16", kernel="avx512-vnni", **sizes)
    with pytest.raises(ValueError, match="rows of Q4_K have a multiple of 256 values, not 64"):
        internals.compare_products(type="Q4_K", **sizes)


@pytest.mark.parametrize("level", LEVELS)
def test_rows_are_as_near_to_those_of_f32_as_with_llama_cpps_kernels(
    level, minilm_of, by_length, tmp_path, capsys
):
    path = quantize(minilm_of("F32"), tmp_path / "small.gguf", level, n_threads=2)
    rows = {}
    for kernels in ("auto", "upstream"):
        with Embedder(path, device="cpu", n_threads=2, cpu_kernels=kernels) as embedder:
            rows[kernels] = {name: embedder.encode(of) for name, of in by_length.items()}
            own = embedder.info().cpu_kernels
            if kernels == "auto" and not own:
                pytest.skip(f"no kernel of ours for {level} on this CPU")
            assert kernels == "auto" or not own
    with Embedder(minilm_of("F32"), device="cpu", n_threads=2) as embedder:
        wanted = {name: embedder.encode(of) for name, of in by_length.items()}
    off = {
        kernels: {name: 1 - (found[name] * wanted[name]).sum(axis=1).mean() for name in wanted}
        for kernels, found in rows.items()
    }
    with capsys.disabled():
        for name in wanted:
            ours, theirs = off["auto"][name], off["upstream"][name]
            print(f"\n{level} {name}: mean cosine 1 - {ours:.1e}, llama.cpp 1 - {theirs:.1e}")
    for name in wanted:
        assert off["auto"][name] <= off["upstream"][name] * (1 + NOISE) + LOSS


@pytest.mark.parametrize("name", ["bert-mean", "qwen2vl-mean", "eurobert-last"])
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_tiny_models_stay_near_f32(name, kind, tmp_path):
    model = make_tiny_models.build(name)
    path = tmp_path / "model.gguf"
    make_tiny_models.write(model, path, quant=gguf.GGMLQuantizationType[kind])
    wanted = golden.load("tiny.npz")[f"{name}/text"]
    off = {}
    for kernels in ("auto", "upstream"):
        with Embedder(path, device="cpu", n_threads=1, cpu_kernels=kernels) as embedder:
            found = embedder.encode(texts.TINY_TEXTS)
        off[kernels] = 1 - golden.cosine(found, wanted).mean()
    assert off["auto"] <= off["upstream"] + LOSS


def test_upstream_takes_none_of_our_kernels(minilm):
    with Embedder(minilm, device="cpu", cpu_kernels="upstream") as embedder:
        assert embedder.info().cpu_kernels == ""
    with pytest.raises(ValueError, match="cpu_kernels must be one of 'auto', 'upstream', got 'x'"):
        Embedder(minilm, cpu_kernels="x")


def test_the_estimate_knows_what_packed_weights_take(minilm, tmp_path, internals):
    if not internals.matmul_kernels("Q6_K"):
        pytest.skip("no kernel of ours for Q6_K on this CPU")
    path = quantize(minilm, tmp_path / "six.gguf", "Q5_K_M")
    packed, mapped = (
        estimate(path, device="cpu", cpu_kernels=kernels).weights_host
        for kernels in ("auto", "upstream")
    )
    assert mapped < packed < 1.6 * mapped  # 5 and 6 bits lie in 8


@pytest.mark.parametrize("kernels", ["auto", "upstream"])
def test_info_and_the_estimate_state_what_the_weights_of_each_type_take(
    kernels, minilm, tmp_path, internals
):
    path = quantize(minilm, tmp_path / "four.gguf", "Q4_K_M")
    with Embedder(path, device="cpu", cpu_kernels=kernels) as embedder:
        info = embedder.info()
    needs = estimate(path, device="cpu", cpu_kernels=kernels)
    assert info.weights == needs.weights

    in_file: dict[str, int] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type.name.lower()
        in_file[kind] = in_file.get(kind, 0) + int(tensor.n_bytes)
    stated: dict[str, int] = {}
    for weights in info.weights:
        kind = weights.type.lower()
        stated[kind] = stated.get(kind, 0) + weights.file_bytes
        assert weights.kernel or weights.memory_bytes == weights.file_bytes
    assert stated == in_file
    assert sum(w.memory_bytes for w in info.weights) == pytest.approx(needs.weights_host, rel=0.01)
    in_use = sorted({w.kernel for w in info.weights} - {""})
    assert ", ".join(in_use) == info.cpu_kernels
    assert bool(in_use) == (kernels == "auto" and bool(internals.matmul_kernels("Q4_K")))
    for w in info.weights:
        if w.kernel and w.type == "q4_K":
            assert w.memory_bytes > w.file_bytes  # 4.5 bits lie in 4.9


def test_the_page_about_speed_states_what_packed_weights_of_each_type_take(internals):
    page = (Path(__file__).parents[2] / "docs" / "speed.md").read_text("utf-8")
    stated = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {name for name, *_ in stated} == {*TYPES, "F32"}
    n_out, n_in = 3072, 1024
    for name, in_file, packed in stated:
        n_values, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert float(in_file) == pytest.approx(8 * n_bytes / n_values, abs=0.06)
        weights = bytes(n_out * n_in // n_values * n_bytes)
        for kernel in internals.matmul_kernels(name):
            found = internals.Matmul(name, weights, n_out, n_in, kernel).n_bytes
            assert float(packed) == pytest.approx(8 * found / n_out / n_in, abs=0.06)
