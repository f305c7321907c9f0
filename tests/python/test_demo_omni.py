"""The tiny random models that take media, and the demo that runs one."""

from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest
from ggembed import Attention, Embedder, Pooling, demo_omni
from ggembed._tower_files import AudioShape, VisionShape, write_tower

LAYOUTS = ("small", "nano", "v4")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The files of each layout."""
    folder = tmp_path_factory.mktemp("omni")
    return {layout: demo_omni.write_models(folder, layout=layout) for layout in LAYOUTS}


def fields(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def shapes(path):
    """Tensors by name, the fastest dimension first."""
    return {t.name: tuple(int(n) for n in t.shape) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("layout", "pooling", "attention"),
    [
        ("small", Pooling.LAST, Attention.CAUSAL),
        ("nano", Pooling.LAST, Attention.BIDIRECTIONAL),
        ("v4", Pooling.MEAN, Attention.CAUSAL),
    ],
)
def test_text_model_is_of_its_family_and_has_no_profile(models, layout, pooling, attention):
    with Embedder(models[layout].model, n_threads=1) as embedder:
        info = embedder.info()
        assert (info.pooling, info.attention) == (pooling, attention)
        assert (info.name, info.profile, info.dim) == (f"demo-omni-{layout}", None, 64)
        assert np.isfinite(embedder.encode(["one two", "\u6771\u4eac \U0001f600"])).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_goes_through_the_vocabulary_without_loss(models, layout):
    vocabulary = fields(models[layout].model)
    tokens = vocabulary["tokenizer.ggml.tokens"]
    byte_of = {token: byte for byte, token in enumerate(tokens[:256])}
    text = "Query: the <image> <|image_pad|> na\u00efve\n\t\u6771\u4eac \U0001f600"
    with Embedder(models[layout].model, n_threads=1) as embedder:
        ids = embedder.tokenize([text])[0].tolist()
    if layout == "nano":
        assert tokens[ids.pop()] == "<|end_of_text|>"
    assert bytes(byte_of[c] for i in ids for c in tokens[i]).decode() == text


def test_markers_of_media_are_control_tokens(models):
    media = {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    sound = {"<|AUDIO|>", "<|audio_start|>", "<|audio_end|>"}
    wanted = {"small": media | sound, "nano": sound | {"<image>"}, "v4": media}
    for layout in LAYOUTS:
        vocabulary = fields(models[layout].model)
        tokens, types = (vocabulary[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
        control = {t for t, kind in zip(tokens, types, strict=True) if kind == 3}
        assert wanted[layout] == control & (media | sound | {"<image>"})


def test_projector_files_have_what_published_ones_have(models):
    small, v4 = models["small"], models["v4"]
    vision, audio, windowed = fields(small.vision), fields(small.audio), fields(v4.vision)
    assert vision["clip.projector_type"] == "qwen3vl_merger"
    assert vision["clip.has_vision_encoder"]
    assert "clip.vision.image_min_pixels" not in vision
    assert audio["clip.projector_type"] == "qwen2.5o"
    assert (audio["clip.audio.n_window"], audio["clip.audio.num_mel_bins"]) == (100, 128)
    assert windowed["clip.projector_type"] == "qwen2.5vl_merger"
    assert windowed["clip.vision.n_wa_pattern"] == 2
    assert v4.audio is None

    sizes = shapes(small.vision)
    assert sizes["v.patch_embd.weight.1"] == (16, 16, 3, 32)
    assert sizes["v.position_embd.weight"] == (32, 48 * 48)
    assert sizes["mm.2.weight"] == (128, 64)
    sizes = shapes(small.audio)
    assert sizes["a.conv1d.2.weight"] == (3, 32, 32)
    assert sizes["a.conv1d.2.bias"] == (1, 32)
    assert "a.blk.1.attn_k.weight" in sizes
    assert "a.blk.1.attn_k.bias" not in sizes


def test_weights_follow_the_seed(tmp_path):
    def vision(folder, seed):
        return demo_omni.write_models(tmp_path / folder, seed=seed).vision.read_bytes()

    assert vision("a", 1) == vision("b", 1) != vision("c", 2)


def test_limits_of_images_and_names_are_options(tmp_path):
    name = "jina-embeddings-v5-omni-small-retrieval"
    files = demo_omni.write_models(tmp_path, name=name, min_pixels=4096, max_pixels=16384)
    assert files.vision.name == f"{name}-vision-mmproj-F16.gguf"
    vision = fields(files.vision)
    assert vision["clip.vision.image_min_pixels"] == 4096
    assert vision["clip.vision.image_max_pixels"] == 16384
    with Embedder(files.model, n_threads=1) as embedder:
        assert embedder.info().profile == "jina-embeddings-v5-omni-small"


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(ValueError, match="layout must be one of small, nano, v4, got 'big'"):
        demo_omni.write_models(tmp_path, layout="big")
    with pytest.raises(ValueError, match="n_embd must be a multiple of 64, got 48"):
        demo_omni.write_models(tmp_path, n_embd=48)


def test_tower_of_other_tensors_is_not_written(tmp_path):
    shape = VisionShape(64)
    tensors = {name: np.zeros(size, np.float32) for name, size in shape.shapes().items()}
    tensors["mm.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"mm\.0\.bias is missing, not of the tower, or of"):
        write_tower(tmp_path / "v.gguf", shape, tensors, name="it")
    with pytest.raises(ValueError, match="is missing, not of the tower"):
        write_tower(tmp_path / "a.gguf", AudioShape(64), {}, name="it")
    assert not list(tmp_path.iterdir())


def test_demo_embeds_every_kind_and_says_that_it_is_random(run):
    status, out, err = run("demo", "--omni", "--threads", 1)
    assert (status, err) == (0, "")
    text = out.decode()
    assert "RANDOM" in text
    assert "mean nothing" in text
    table = {line[:24].rstrip(): line[24:].split() for line in text.splitlines()}
    for label in ("a text", "an image, 320 x 240", "a PDF, 2 pages", "a text and an image"):
        n_tokens, milliseconds, similarity = table[label]
        assert int(n_tokens.replace(",", "")) > 0
        assert float(milliseconds.replace(",", "")) > 0
        assert -1.001 <= float(similarity) <= 1.001
    assert table["a sound, 2 s of stereo"][0] == "52"  # 25 per second, and a marker on each side
    *_, last = text.splitlines()
    assert last.startswith("all 6 in one call: ")
    assert float(last.partition("cosine ")[2].rstrip(")")) >= 0.9999


def test_demo_names_all_extras_that_are_missing(run, monkeypatch):
    for name in ("gguf", "av", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    status, out, err = run("demo", "--omni")
    assert (status, out) == (1, b"")
    assert "(gguf, av, soxr): pip install 'ggembed[demo,media]'" in err


def test_demo_of_media_has_a_model_of_its_own(run):
    for args in (("-m", "a.gguf"), ("a question",)):
        status, _, err = run("demo", "--omni", *args)
        assert status == 2
        assert "--omni has a model and inputs of its own" in err
