"""Projector files as such: what loads, and what is said of those that do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_tiny_models
import numpy as np
import pytest
import tiny_towers
from ggembed import EmbedError, ModelFileError, ModelFormatError, UnsupportedError, _native
from tiny_towers import TinyTower

WIDTH = 48

Edit = Callable[[TinyTower], TinyTower]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model with rows of WIDTH values."""
    return make_tiny_models.make("qwen3-last", tmp_path_factory.mktemp("text") / "text.gguf")


def load(model: Path, *mmproj: Path | str, mmap: bool = True) -> _native.Model:
    return _native.Model(
        os.fspath(model),
        device="cpu",
        n_gpu_layers=0,
        mmproj=[os.fspath(path) for path in mmproj],
        mmap=mmap,
        progress=None,
    )


def estimated(model: Path, *mmproj: Path) -> dict[str, int]:
    files = [os.fspath(path) for path in mmproj]
    return _native.estimate(os.fspath(model), device="cpu", mmproj=files, numbers={"n_threads": 1})


@contextmanager
def fails(error: type[EmbedError], path: Path, *words: str) -> Iterator[None]:
    """The message has the path and the words."""
    with pytest.raises(error) as caught:
        yield
    for word in (str(path), *words):
        assert word in str(caught.value)


def keys(**changes: Any) -> Edit:
    return lambda tower: tiny_towers.changed(tower, **changes)


def tensor(part: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Edit:
    """Changes the tensors of that name, or drops them."""

    def edit(tower: TinyTower) -> TinyTower:
        changed = {n: change(d) if n == part else d for n, d in tower.tensors.items()}
        assert changed.keys() == tower.tensors.keys()
        assert part in changed
        return replace(tower, tensors={n: d for n, d in changed.items() if d is not None})

    return edit


def added(name: str, data: np.ndarray) -> Edit:
    return lambda tower: replace(tower, tensors={**tower.tensors, name: data})


NAN = float("nan")
KERNEL = np.zeros((64, 3, 57, 57), np.float32)

BAD = {
    "unknown projector": (
        "qwen3vl",
        keys(projector_type="gemma3"),
        UnsupportedError,
        ('"gemma3"', '"qwen3vl_merger"', '"qwen2.5vl_merger"'),
    ),
    "a projector of the other modality": (
        "qwen25o",
        keys(projector_type="qwen3vl_merger"),
        UnsupportedError,
        ('audio projector "qwen3vl_merger"', '"qwen2.5o"'),
    ),
    "no projector": (
        "qwen3vl",
        keys(projector_type=None),
        ModelFormatError,
        ("clip.projector_type", "clip.vision.projector_type"),
    ),
    "projector as a number": (
        "qwen3vl",
        keys(projector_type=7),
        ModelFormatError,
        ("clip.projector_type is not a string",),
    ),
    "no tower": (
        "qwen3vl",
        keys(has_vision_encoder=False),
        ModelFormatError,
        ("no tower",),
    ),
    "no patch size": (
        "qwen3vl",
        keys(vision__patch_size=None),
        ModelFormatError,
        ("lacks the key clip.vision.patch_size",),
    ),
    "no mean": (
        "qwen3vl",
        keys(vision__image_mean=None),
        ModelFormatError,
        ("lacks the key clip.vision.image_mean",),
    ),
    "a mean of two": (
        "qwen3vl",
        keys(vision__image_mean=[0.5, 0.5]),
        ModelFormatError,
        ("clip.vision.image_mean", "three"),
    ),
    "a deviation of zero": (
        "qwen3vl",
        keys(vision__image_std=[0.5, 0.0, 0.5]),
        ModelFormatError,
        ("clip.vision.image_std has 0",),
    ),
    "no heads": (
        "qwen3vl",
        keys(vision__attention__head_count=0),
        ModelFormatError,
        ("clip.vision.attention.head_count is 0",),
    ),
    "heads that do not share": (
        "qwen3vl",
        keys(vision__attention__head_count=5),
        ModelFormatError,
        ("64", "5 heads"),
    ),
    "heads too small for two dimensions": (
        "qwen3vl",
        keys(vision__attention__head_count=32),
        ModelFormatError,
        ("a head has 2 values", "multiple of 4"),
    ),
    "an absurd width": (
        "qwen3vl",
        keys(vision__embedding_length=2**31),
        ModelFormatError,
        ("clip.vision.embedding_length is 2147483648", "65536"),
    ),
    "an absurd depth": (
        "qwen3vl",
        keys(vision__block_count=2**20),
        ModelFormatError,
        ("clip.vision.block_count is 1048576",),
    ),
    "a layer too many": (
        "qwen3vl",
        keys(vision__block_count=4),
        ModelFormatError,
        ("lacks tensor v.blk.3.ln1.weight",),
    ),
    "eps not a number": (
        "qwen3vl",
        keys(vision__attention__layer_norm_epsilon=NAN),
        ModelFormatError,
        ("clip.vision.attention.layer_norm_epsilon is nan",),
    ),
    "a count as text": (
        "qwen3vl",
        keys(vision__block_count="three"),
        ModelFormatError,
        ("clip.vision.block_count is not an integer",),
    ),
    "limits the wrong way round": (
        "qwen3vl",
        keys(vision__image_min_pixels=5000),
        ModelFormatError,
        ("clip.vision.image_min_pixels is 5000", "4096"),
    ),
    "deepstack layers": (
        "qwen3vl",
        keys(vision__is_deepstack_layers=[False, True, False]),
        UnsupportedError,
        ("clip.vision.is_deepstack_layers", "deepstack"),
    ),
    "deepstack tensors": (
        "qwen3vl",
        added("v.deepstack.5.norm.weight", np.ones(8, np.float32)),
        UnsupportedError,
        ("v.deepstack.5.norm.weight",),
    ),
    "another activation": (
        "qwen3vl",
        keys(use_silu=True),
        UnsupportedError,
        ("clip.use_silu",),
    ),
    "a missing tensor": (
        "qwen3vl",
        tensor("v.post_ln.bias", lambda _: None),
        ModelFormatError,
        ("lacks tensor v.post_ln.bias",),
    ),
    "a missing second half": (
        "qwen3vl",
        tensor("v.patch_embd.weight.1", lambda _: None),
        ModelFormatError,
        ("lacks tensor v.patch_embd.weight.1",),
    ),
    "a transposed matrix": (
        "qwen3vl",
        tensor("v.blk.1.ffn_up.weight", lambda d: np.ascontiguousarray(d.T)),
        ModelFormatError,
        ("v.blk.1.ffn_up.weight is [96, 64], it must be [64, 96]",),
    ),
    "a short bias": (
        "qwen3vl",
        tensor("v.blk.0.attn_out.bias", lambda d: d[:-1]),
        ModelFormatError,
        ("v.blk.0.attn_out.bias is [63], it must be [64]",),
    ),
    "positions that are no square": (
        "qwen3vl",
        tensor("v.position_embd.weight", lambda d: d[:-1]),
        ModelFormatError,
        ("v.position_embd.weight has 63 positions",),
    ),
    "a matrix of integers": (
        "qwen3vl",
        tensor("mm.0.weight", lambda d: (d * 9).astype(np.int32)),
        ModelFormatError,
        ("mm.0.weight has type i32",),
    ),
    "no window pattern": (
        "qwen25vl",
        keys(vision__n_wa_pattern=None),
        ModelFormatError,
        ("lacks the key clip.vision.n_wa_pattern",),
    ),
    "another merge size": (
        "qwen25vl",
        keys(vision__spatial_merge_size=16),
        ModelFormatError,
        ("mm.0.weight",),
    ),
    "patches larger than windows": (
        "qwen25vl",
        lambda tower: keys(vision__patch_size=57)(
            added("v.patch_embd.weight", KERNEL)(added("v.patch_embd.weight.1", KERNEL)(tower))
        ),
        ModelFormatError,
        ("patches of 57 pixels", "112"),
    ),
    "no gate": (
        "qwen25vl",
        tensor("v.blk.2.ffn_gate.weight", lambda _: None),
        ModelFormatError,
        ("lacks tensor v.blk.2.ffn_gate.weight",),
    ),
    "other mel bins": (
        "qwen25o",
        keys(audio__num_mel_bins=128),
        ModelFormatError,
        ("a.conv1d.1.weight is [3, 16, 64], it must be [3, 128, 64]",),
    ),
    "pieces longer than the table": (
        "qwen25o",
        keys(audio__n_window=129),
        ModelFormatError,
        ("clip.audio.n_window is 129", "128"),
    ),
    "too few positions": (
        "qwen25o",
        lambda tower: keys(audio__n_window=None)(
            tensor("a.position_embd.weight", lambda d: d[:99])(tower)
        ),
        ModelFormatError,
        ("a.position_embd.weight has 99 positions", "100"),
    ),
    "no projection": (
        "qwen25o",
        tensor("mm.a.fc.weight", lambda _: None),
        ModelFormatError,
        ("lacks tensor mm.a.fc.weight",),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_an_error_of_loading_and_of_estimating(case, model, tmp_path):
    name, edit, error, words = BAD[case]
    path = tmp_path / "mmproj.gguf"
    tiny_towers.write(edit(tiny_towers.build(name, width=WIDTH)), path)
    with fails(error, path, *words):
        load(model, path)
    with fails(error, path, *words):
        estimated(model, path)


def test_what_is_no_projector_file_is_named(model, tmp_path):
    missing, text = tmp_path / "missing.gguf", tmp_path / "text.gguf"
    text.write_text("This is no model.\n")
    with fails(ModelFileError, missing, "No such file"):
        load(model, missing)
    with fails(ModelFileError, tmp_path):
        load(model, tmp_path)
    with fails(ModelFormatError, text, "not a GGUF file"):
        load(model, text)
    with fails(ModelFormatError, model, 'architecture is "qwen3"', '"clip"'):
        load(model, model)
    other = tiny_towers.write(tiny_towers.build("qwen3vl"), tmp_path / "other.gguf", arch="llama")
    with fails(ModelFormatError, other, 'architecture is "llama"'):
        load(model, other)


def test_a_tower_for_another_width_says_both(model, tmp_path):
    for name in ("qwen3vl", "qwen25vl", "qwen25o"):
        path = tiny_towers.make(name, tmp_path / f"{name}.gguf", width=40)
        with fails(ModelFormatError, path, "rows of 40 values, the model has 48"):
            load(model, path)


def test_a_second_tower_of_a_modality_is_refused(model, tmp_path):
    paths = [tiny_towers.make(n, tmp_path / f"{n}.gguf") for n in ("qwen3vl", "qwen25vl", "omni")]
    with fails(ModelFormatError, paths[1], "second vision tower", str(paths[0])):
        load(model, *paths[:2])
    with fails(ModelFormatError, paths[0], "second vision tower", str(paths[2])):
        load(model, paths[2], paths[0])


def test_a_file_that_ends_early_is_an_error(model, tmp_path):
    path = tiny_towers.make("qwen3vl", tmp_path / "mmproj.gguf")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 5000])
    with fails(ModelFormatError, path, "ends within tensor"):
        load(model, path)


def test_facts_of_towers_are_those_of_their_files(model, tmp_path):
    vision = tiny_towers.make("qwen3vl", tmp_path / "vision.gguf")
    audio = tiny_towers.make("qwen25o", tmp_path / "audio.gguf")
    found = load(model, audio, vision).towers()
    assert [t["projector"] for t in found] == ["qwen3vl_merger", "qwen2.5o"]
    assert [t["file_bytes"] for t in found] == [vision.stat().st_size, audio.stat().st_size]
    eye, ear = found
    assert (eye["patch_size"], eye["merge_size"], eye["n_layer"]) == (4, 2, 3)
    assert (eye["min_pixels"], eye["max_pixels"]) == (64, 4096)
    assert (eye["video_min_pixels"], eye["video_max_pixels"]) == (128, 32768)
    assert (ear["n_mel_bins"], ear["n_window"], ear["n_layer"]) == (16, 100, 2)
    assert eye["name"] == "tiny qwen3vl"
    tensors = tiny_towers.build("qwen3vl").tensors.values()
    assert eye["n_params"] == sum(t.size for t in tensors)
    assert eye["tensor_bytes"] == sum(t.nbytes for t in tensors)


def test_one_file_may_hold_both_towers(model, tmp_path):
    path = tiny_towers.make("omni", tmp_path / "omni.gguf")
    assert [t["projector"] for t in load(model, path).towers()] == ["qwen3vl_merger", "qwen2.5o"]


def test_keys_that_older_files_lack_have_defaults(model, tmp_path):
    limits = {
        f"vision__{k}_pixels": None for k in ("image_min", "image_max", "video_min", "video_max")
    }
    optional = {"vision__spatial_merge_size": None, "vision__is_deepstack_layers": None}
    plain = tiny_towers.changed(tiny_towers.build("qwen3vl"), **limits, **optional, use_gelu=None)
    vision = tiny_towers.write(plain, tmp_path / "vision.gguf")
    plain = tiny_towers.changed(tiny_towers.build("qwen25o"), audio__n_window=None)
    audio = tiny_towers.write(plain, tmp_path / "audio.gguf")
    eye, ear = load(model, vision, audio).towers()
    assert (eye["min_pixels"], eye["max_pixels"]) == (262144, 1310720)
    assert (eye["video_min_pixels"], eye["video_max_pixels"]) == (262144, 12845056)
    assert (eye["merge_size"], ear["n_window"]) == (2, 100)
    own = load(model, tiny_towers.make("qwen25vl", tmp_path / "v4.gguf"))
    (eye,) = own.towers()
    assert (eye["min_pixels"], eye["max_pixels"]) == (56 * 56, 28 * 28 * 1280)
    assert (eye["video_min_pixels"], eye["video_max_pixels"]) == (0, 0)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("mmap", [True, False])
def test_matrices_may_have_any_type_of_weights(kind, mmap, model, tmp_path):
    path = tiny_towers.make("omni", tmp_path / "omni.gguf", kind=kind)
    assert len(load(model, path, mmap=mmap).towers()) == 2


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", ["qwen3vl", "qwen25vl", "qwen25o"])
def test_norms_biases_and_tables_may_have_any_type_too(name, kind, internals, tmp_path):
    def rows(kind: str) -> np.ndarray:
        path = tmp_path / f"{kind}.gguf"
        tiny_towers.write(tiny_towers.build(name), path, kind=kind, whole=True)
        if name == "qwen25o":
            ear = internals.Tower(str(path), WIDTH, "audio")
            return np.concatenate(ear.audio([tiny_towers.mel("types", 16, 411)]))
        eye = internals.Tower(str(path), WIDTH, "vision")
        patches = tiny_towers.patches("types", 10, 18, eye.facts["patch_size"])
        return np.concatenate(eye.vision([(10, 18, patches)]))

    exact, rounded = rows("F32").ravel(), rows(kind).ravel()
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert 0.999 < cosine < 1.0


@pytest.mark.parametrize("name", ["qwen3vl", "qwen25vl"])
def test_matrices_of_halves_lose_no_bits(name, internals, tmp_path):
    """The kernel for F32 multiplies the same numbers in the same order."""
    tower = tiny_towers.build(name)
    halves = {
        key: value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value
        for key, value in tower.tensors.items()
    }
    tower = replace(tower, tensors=halves)
    rows = []
    for kind in ("F32", "F16"):
        path = tiny_towers.write(tower, tmp_path / f"{kind}.gguf", kind=kind)
        eye = internals.Tower(str(path), WIDTH, "vision")
        patches = tiny_towers.patches("halves", 10, 18, eye.facts["patch_size"])
        rows.append(np.concatenate(eye.vision([(10, 18, patches)])))
    np.testing.assert_array_equal(*rows)


def test_the_estimate_is_what_the_towers_hold(model, internals, tmp_path):
    path = tiny_towers.make("omni", tmp_path / "omni.gguf", kind="F16")
    without, both = estimated(model), estimated(model, path)
    held = {"weights_host": 0, "compute_host": 0, "output_host": 0}
    n_rows = 46 * 46  # the square next to an engine's batch of 2048 rows
    eye = internals.Tower(str(path), WIDTH, "vision")
    eye.vision([(92, 92, np.zeros((92 * 92, 96), np.float32))])
    ear = internals.Tower(str(path), WIDTH, "audio")
    ear.audio([np.zeros((16, 4 * 2048), np.float32)])
    for tower in (eye, ear):
        for key, value in tower.memory().items():
            held[key] += value
    grown = {key: both[key] - without[key] for key in held}
    assert grown["weights_host"] == held["weights_host"]
    assert grown["compute_host"] == pytest.approx(held["compute_host"], rel=1e-3)
    assert grown["output_host"] == (n_rows + 2048) * WIDTH * 4 == held["output_host"]
    assert both["weights_host"] > without["weights_host"] + 500_000


def test_towers_that_are_loaded_twice_share_the_file(model, tmp_path):
    path = tiny_towers.make("qwen3vl", tmp_path / "mmproj.gguf")
    one, other = load(model, path), load(model, path)
    path.unlink()  # what is mapped stays
    assert one.towers() == other.towers()
