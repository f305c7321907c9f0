"""Projector files: which ones are found beside a model, and which are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ggembed import (
    Embedder,
    InvalidInputError,
    ModelFileError,
    ModelFormatError,
    demo_omni,
    doctor,
    estimate,
    mmproj,
)

MODEL = "jina-embeddings-v5-omni-small-retrieval-Q4_K_M.gguf"
VISION = "jina-embeddings-v5-omni-small-retrieval-vision-mmproj-F16.gguf"
AUDIO = "jina-embeddings-v5-omni-small-retrieval-audio-mmproj-F16.gguf"
OTHER = "jina-embeddings-v5-omni-small-clustering-vision-mmproj-F16.gguf"
NANO = "jina-embeddings-v5-omni-nano-retrieval-vision-mmproj-F16.gguf"


@pytest.fixture(scope="module")
def omni(tmp_path_factory) -> demo_omni.OmniFiles:
    """A tiny random model with both projectors, named as published ones are."""
    folder = tmp_path_factory.mktemp("omni")
    return demo_omni.write_models(folder, name=MODEL.removesuffix("-Q4_K_M.gguf"))


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).touch()
    return tmp_path / names[0]


def beside(tmp_path, modality, *names):
    return [Path(file).name for file in mmproj.beside(folder_of(tmp_path, *names), modality)]


def loaded(path, **options):
    with Embedder(path, n_threads=1, device="cpu", **options) as embedder:
        return embedder.info()


@pytest.mark.parametrize(
    ("modality", "found"),
    [("text", []), ("vision", [VISION]), ("audio", [AUDIO]), ("omni", [VISION, AUDIO])],
)
def test_a_modality_picks_the_files_of_the_models_name(tmp_path, modality, found):
    assert beside(tmp_path, modality, MODEL, OTHER, NANO, AUDIO, VISION) == found


@pytest.mark.parametrize(
    "name",
    [
        "mmproj-m-F16.gguf",
        "mmproj-F16.gguf",
        "m-mmproj.gguf",
        "m.mmproj-f16.gguf",
        "m_vision_mmproj_BF16.gguf",
        "mmproj-model-f16.gguf",
    ],
)
def test_other_ways_to_name_a_projector_are_known(tmp_path, name):
    assert beside(tmp_path, "vision", "m-Q4_K_M.gguf", "notes.txt", name) == [name]


def test_one_unnamed_file_serves_both_modalities(tmp_path):
    assert beside(tmp_path, "omni", "m-Q4_K_M.gguf", "mmproj-F16.gguf") == ["mmproj-F16.gguf"]


def test_f16_comes_before_other_levels(tmp_path):
    names = ["m-Q4_K_M.gguf", "m-vision-mmproj-Q8_0.gguf", "m-vision-mmproj-F16.gguf"]
    assert beside(tmp_path, "vision", *names) == ["m-vision-mmproj-F16.gguf"]


def test_what_was_looked_for_and_what_is_there_is_told(tmp_path):
    with pytest.raises(
        ModelFileError,
        match=r"has no vision projector for m-Q4_K_M\.gguf, such as m-vision-mmproj-F16\.gguf; "
        r"projectors present: m-audio-mmproj-F16\.gguf",
    ):
        beside(tmp_path, "omni", "m-Q4_K_M.gguf", "m-audio-mmproj-F16.gguf")
    (tmp_path / "m-audio-mmproj-F16.gguf").unlink()
    with pytest.raises(ModelFileError, match="projectors present: none"):
        beside(tmp_path, "vision", "m-Q4_K_M.gguf")


def test_two_files_that_fit_alike_are_listed(tmp_path):
    names = ["m-Q4_K_M.gguf", "m-vision-mmproj-F16.gguf", "mmproj-m-vision-F16.gguf"]
    with pytest.raises(ModelFileError, match=r"2 vision projectors .*: m-vision.*, mmproj-m"):
        beside(tmp_path, "vision", *names)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(ModelFileError, match="cannot list the folder of"):
        mmproj.beside(tmp_path / "missing" / "m.gguf", "vision")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_not_waited_for(omni, tmp_path):
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    for model, projectors in ((omni.model, [pipe]), (pipe, None)):
        with pytest.raises(ModelFileError, match=r"cannot read .*pipe\.gguf"):
            Embedder(model, mmproj=projectors)


def test_an_unknown_modality_is_refused(omni):
    for modality in ("smell", ["vision"]):
        with pytest.raises(InvalidInputError, match="modality must be one of 'text', 'vision'"):
            Embedder(omni.model, modality=modality)


@pytest.mark.parametrize(
    ("model", "projector", "message"),
    [
        ("m-retrieval-Q8_0.gguf", "m-clustering-vision-mmproj-F16.gguf", "clustering.*retrieval"),
        ("m.clustering.gguf", "m.text.matching.mmproj.gguf", "text-matching.*clustering"),
        ("m_text_matching_F16.gguf", "m_classification_mmproj.gguf", "classification.*text-match"),
        ("v4-text-matching.gguf", "v4-text-code-mmproj.gguf", "code.*text-matching"),
        ("v5-omni-small-F16.gguf", "v5-omni-nano-vision-mmproj.gguf", "nano.*small"),
        ("V5.OMNI.NANO.gguf", "v5_omni_small_mmproj.gguf", "small.*nano"),
        (
            "jina-embeddings-v5-omni-small.gguf",
            "jina-embeddings-v4-mmproj.gguf",
            "jina-embeddings-v4.*jina-embeddings-v5",
        ),
    ],
)
def test_a_projector_of_another_task_size_or_family_is_refused(model, projector, message):
    with pytest.raises(InvalidInputError, match=f"the projector .* is for {message}"):
        mmproj.check_names([model], [projector])


@pytest.mark.parametrize(
    ("model", "projector"),
    [
        ("m-retrieval.gguf", "mmproj-F16.gguf"),
        ("model.gguf", "m-clustering-mmproj.gguf"),
        ("m-text_matching-Q8_0.gguf", "m.text-matching.mmproj.gguf"),
        ("m-matching.gguf", "m-text-matching-mmproj.gguf"),
        ("m-retrieval-and-clustering.gguf", "m-clustering-mmproj.gguf"),
        ("encoder-small.gguf", "smallish-nanotube-mmproj.gguf"),
    ],
)
def test_names_that_tell_nothing_different_pass(model, projector):
    mmproj.check_names([model], [projector])


def test_the_first_name_of_a_model_that_tells_decides():
    mmproj.check_names(["", "M Retrieval", "m-clustering.gguf"], ["m-retrieval-mmproj.gguf"])


def test_a_projector_of_another_task_is_refused_before_it_is_loaded(tmp_path, omni):
    wrong = tmp_path / OTHER
    wrong.write_bytes(b"never read")
    with pytest.raises(InvalidInputError, match=r"is for clustering, the model .* for retrieval"):
        Embedder(omni.model, mmproj=wrong)


def test_the_names_inside_of_files_tell_too(tmp_path, omni):
    demo_omni.write_models(tmp_path, name="m-clustering")
    renamed = tmp_path / "plain-mmproj.gguf"
    (tmp_path / "m-clustering-vision-mmproj-F16.gguf").rename(renamed)
    with pytest.raises(InvalidInputError, match="m-clustering is for clustering"):
        Embedder(omni.model, mmproj=renamed)


def test_nothing_is_looked_for_unless_asked(omni):
    info = loaded(omni.model)
    assert (info.towers, info.mmproj) == ((), ())


@pytest.mark.parametrize(
    ("modality", "kinds"),
    [("text", []), ("vision", ["vision"]), ("audio", ["audio"]), ("omni", ["vision", "audio"])],
)
def test_a_modality_loads_its_projectors(omni, modality, kinds):
    info = loaded(omni.model, modality=modality)
    assert [tower.modality for tower in info.towers] == kinds
    assert len(info.mmproj) == len(kinds)


@pytest.mark.parametrize("wrap", [str, Path, lambda path: [path], lambda path: (str(path),)])
def test_one_file_may_be_given_in_several_ways(omni, wrap):
    assert loaded(omni.model, mmproj=wrap(omni.vision)).mmproj == (str(omni.vision),)


def test_files_that_are_no_paths_are_refused(omni):
    with pytest.raises(TypeError, match="mmproj must be paths, got int"):
        Embedder(omni.model, mmproj=[5])
    with pytest.raises(TypeError, match="mmproj must be a path or several, got int"):
        Embedder(omni.model, mmproj=5)


def test_two_of_a_kind_are_refused(omni):
    with pytest.raises(ModelFormatError, match="holds a second vision tower"):
        Embedder(omni.model, mmproj=[omni.vision, omni.vision])


def test_a_third_file_is_refused(omni):
    with pytest.raises(InvalidInputError, match="mmproj holds 3 files"):
        Embedder(omni.model, mmproj=[omni.vision, omni.audio, omni.vision])


def test_a_projector_is_no_model(omni):
    with pytest.raises(ModelFormatError, match=r"is a projector for media.*with its model"):
        Embedder(omni.vision)


def test_a_projector_of_another_width_is_refused(tmp_path, omni):
    wide = demo_omni.write_models(tmp_path, name="m", n_embd=128)
    with pytest.raises(ModelFormatError, match=r"128.*64|64.*128"):
        Embedder(omni.model, mmproj=wide.vision)


def test_a_model_is_no_projector(omni):
    with pytest.raises(ModelFormatError, match=r"F16\.gguf"):
        Embedder(omni.model, mmproj=omni.model)


def test_a_missing_projector_is_named(tmp_path, omni):
    with pytest.raises(ModelFileError, match=r"none-mmproj\.gguf"):
        Embedder(omni.model, mmproj=tmp_path / "none-mmproj.gguf")


def test_a_file_of_the_wrong_kind_is_refused(tmp_path, omni):
    with pytest.raises(InvalidInputError, match=r"is an audio projector by its name.*'vision'"):
        Embedder(omni.model, mmproj=omni.audio, modality="vision")
    plain = shutil.copy(omni.audio, tmp_path / "mmproj.gguf")
    with pytest.raises(InvalidInputError, match=r"needs a vision projector; .*mmproj\.gguf holds"):
        Embedder(omni.model, mmproj=plain, modality="vision")
    with pytest.raises(InvalidInputError, match="'text' takes at most 0 projectors, got 1"):
        Embedder(omni.model, mmproj=plain, modality="text")
    with pytest.raises(InvalidInputError, match="needs a vision projector; got none"):
        Embedder(omni.model, mmproj=[], modality="vision")


def test_info_tells_the_towers(omni):
    vision, audio = loaded(omni.model, modality="omni").towers
    assert (vision.projector, audio.projector) == ("qwen3vl_merger", "qwen2.5o")
    assert vision.patch_size * vision.merge_size == 32
    assert (vision.min_pixels, vision.max_pixels) == (262144, 1310720)
    assert (vision.video_min_pixels, vision.video_max_pixels) == (262144, 12845056)
    assert (audio.n_mel_bins, audio.min_pixels) == (128, 0)
    for tower, file in ((vision, omni.vision), (audio, omni.audio)):
        assert tower.n_params > 0
        assert 0 < tower.tensor_bytes < tower.file_bytes == file.stat().st_size


def test_repr_names_the_towers(omni):
    with Embedder(omni.model, modality="omni") as embedder:
        assert repr(embedder).endswith(", dim=64, pooling=last, vision, audio>")


def test_projectors_need_memory(omni):
    without = estimate(omni.model, device="cpu")
    both = estimate(omni.model, device="cpu", mmproj=[omni.vision, omni.audio])
    one = estimate(omni.model, device="cpu", mmproj=str(omni.vision))
    assert without.weights_host < one.weights_host < both.weights_host


def test_doctor_tells_the_towers(omni):
    report = doctor(omni.model, mmproj=[omni.vision, omni.audio], device="cpu")
    told = [finding.what for finding in report.findings if " tower " in finding.what]
    assert told[0].startswith("vision tower qwen3vl_merger: 2 layers")
    assert told[0].endswith("images of 262144 to 1310720 pixels")
    assert told[1].startswith("audio tower qwen2.5o: ")
