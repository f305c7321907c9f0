"""Which of a repository's files are the model that was asked for."""

from __future__ import annotations

import pytest
from ggembed import InvalidInputError, ModelFileError
from ggembed._hub_names import choose, quant_of
from hypothesis import given
from hypothesis import strategies as st

STYLES = {
    "e5-base-Q4_K_M.gguf": "Q4_K_M",
    "e5-base.Q4_K_M.gguf": "Q4_K_M",
    "e5-base.q4_k_m.gguf": "Q4_K_M",
    "e5_base_q8_0.gguf": "Q8_0",
    "ggml-model-q4_0.gguf": "Q4_0",
    "e5-base.i1-IQ3_XXS.gguf": "IQ3_XXS",
    "e5-base-F16.gguf": "F16",
    "e5-base.f16.gguf": "F16",
    "e5-base-fp16.gguf": "F16",
    "e5-base-f32.gguf": "F32",
    "e5-base-BF16.gguf": "BF16",
    "e5-base-UD-Q4_K_XL.gguf": "UD-Q4_K_XL",
    "e5-base-TQ1_0.gguf": "TQ1_0",
    "e5-base-MXFP4_MOE.gguf": "MXFP4_MOE",
    "e5-base-Q4_K_M-imat.gguf": "Q4_K_M",
    "Q4_K_M/e5-base-00001-of-00003.gguf": "Q4_K_M",
    "BF16/e5-base-BF16-00001-of-00003.gguf": "BF16",
    "q8_0/model.gguf": "Q8_0",
    "e5-base.gguf": None,
    "qwen2-1.5b.gguf": None,
}


def one(names, file=None, quant=None):
    """The model that is chosen for text."""
    choice = choose(names, "a/b", file, quant, "text")
    assert choice.mmproj == ()
    return choice.model[0]


def mmproj(names, modality, quant="Q4_K_M"):
    return choose(names, "a/b", None, quant, modality).mmproj


@pytest.mark.parametrize(("name", "quant"), STYLES.items())
def test_the_level_is_read_from_names_as_they_are_published(name, quant):
    assert quant_of(name) == quant


@pytest.mark.parametrize("name", [name for name, quant in STYLES.items() if quant])
def test_a_level_finds_its_file_in_any_case(name):
    quant = STYLES[name]
    names = {"other-Q2_K.gguf", "README.md", f"notes-{quant}.txt", name.replace("00003", "00001")}
    assert one(names, quant=quant.lower()) == name.replace("00003", "00001")


def test_without_file_and_level_it_is_q4_k_m():
    assert one(["m-Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-F16.gguf"]) == "m-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("quant", "others"),
    [
        ("F16", ["m-BF16.gguf"]),
        ("Q4_K", ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf"]),
        ("Q4_0", ["m-Q4_0_4_4.gguf"]),
        ("UD-Q4_K_M", ["m-Q4_K_M.gguf"]),
        ("MXFP4", ["m-MXFP4_MOE.gguf"]),
    ],
)
def test_a_level_is_not_taken_for_one_that_is_named_like_it(quant, others):
    assert one([f"m-{quant}.gguf", *others], quant=quant) == f"m-{quant}.gguf"
    with pytest.raises(ModelFileError, match=f"a/b has no {quant} model"):
        one(others, quant=quant)


def test_a_dynamic_level_serves_where_the_plain_one_is_missing():
    assert one(["m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf"], quant="q4_k_xl") == "m-UD-Q4_K_XL.gguf"
    assert one(["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"]) == "m-Q4_K_M.gguf"


@pytest.mark.parametrize(
    "other",
    [
        "mmproj-Q4_K_M.gguf",
        "m-vision-mmproj-Q4_K_M.gguf",
        "m.mmproj-Q4_K_M.gguf",
        "mmproj/m-Q4_K_M.gguf",
        "m-projector-Q4_K_M.gguf",
        "imatrix-m-Q4_K_M.gguf",
        "m-Q4_K_M.imatrix.gguf",
        "imatrix_unsloth-Q4_K_M.gguf",
        "m-lora-Q4_K_M.gguf",
        "loras/retrieval-Q4_K_M.gguf",
        "m-Q4_K_M-adapter.gguf",
    ],
)
def test_projectors_importance_matrices_and_adapters_are_never_the_model(other):
    assert one([other, "m-Q4_K_M.gguf"]) == "m-Q4_K_M.gguf"
    with pytest.raises(ModelFileError, match="a/b has no GGUF file that is a model") as caught:
        one([other])
    assert other in str(caught.value)
    with pytest.raises(ModelFileError, match="by its name, not a model"):
        one([other, "m-Q4_K_M.gguf"], file=other)


def test_a_name_that_says_how_the_model_was_quantised_is_a_model():
    assert one(["m-imatrix-Q4_K_M.gguf"]) == "m-imatrix-Q4_K_M.gguf"


def test_a_missing_level_lists_the_levels_that_are_there():
    names = ["m-Q8_0.gguf", "m-F16.gguf", "m.gguf", "mmproj-BF16.gguf"]
    with pytest.raises(ModelFileError, match=r"a/b has no Q2_K model; present: F16, Q8_0, m\.gguf"):
        one(names, quant="Q2_K")


def test_a_repository_without_gguf_files_says_so():
    with pytest.raises(ModelFileError, match=r"a/b has no GGUF file$"):
        one(["model.safetensors", "README.md"])


def test_several_models_of_one_level_are_listed():
    names = [f"m-{task}-{quant}.gguf" for task in ("code", "text") for quant in ("Q8_0", "F16")]
    with pytest.raises(ModelFileError, match="Q8_0 means 2 models of a/b") as caught:
        one(names, quant="Q8_0")
    assert "m-code-Q8_0.gguf, m-text-Q8_0.gguf; name one of them" in str(caught.value)


def test_a_long_list_is_cut_in_messages():
    with pytest.raises(ModelFileError, match=r"m-19-F16\.gguf, and 10 more"):
        one([f"m-{i:02}-F16.gguf" for i in range(30)], quant="F16")


def test_a_pattern_names_one_model_by_its_path_or_its_name():
    names = ["a/m-Q8_0.gguf", "b/m-Q4_0.gguf", "b/m-F16.gguf"]
    assert one(names, file="*Q4_0.gguf") == "b/m-Q4_0.gguf"
    assert one(names, file="m-F16.gguf") == "b/m-F16.gguf"
    assert one(names, file="a/*") == "a/m-Q8_0.gguf"
    with pytest.raises(ModelFileError, match=r"'b/\*' means 2 models of a/b: b/m-F16"):
        one(names, file="b/*")
    with pytest.raises(ModelFileError, match=r"no GGUF file of a/b matches 'c\*'; models present"):
        one(names, file="c*")


def test_a_level_decides_among_the_models_that_fit_a_pattern_and_no_more():
    names = ["m-code-Q8_0.gguf", "m-code-F16.gguf", "m-text-Q8_0.gguf"]
    assert one(names, file="*code*", quant="Q8_0") == "m-code-Q8_0.gguf"
    assert one(names, file="*text*", quant="Q4_K_M") == "m-text-Q8_0.gguf"
    with pytest.raises(ModelFileError, match="means 2 models"):
        one(names, file="*code*", quant="Q4_K_M")


def test_a_plain_name_is_no_pattern():
    assert one(["m[1]-F16.gguf", "m1-F16.gguf"], file="m[1]-F16.gguf") == "m[1]-F16.gguf"


PARTS = tuple(f"Q4_K_M/m-{i}-of-00003.gguf" for i in ("00001", "00002", "00003"))


@pytest.mark.parametrize("how", [{}, {"file": PARTS[0]}, {"file": PARTS[1]}, {"file": "Q4_K_M/*"}])
def test_all_parts_of_a_split_model_are_chosen_in_order(how):
    names = [*reversed(PARTS), "m-Q8_0.gguf"]
    assert choose(names, "a/b", how.get("file"), None, "text").model == PARTS


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_part_is_named(lost):
    names = [part for i, part in enumerate(PARTS) if i != lost]
    with pytest.raises(ModelFileError, match=f"one of 3 parts, but lacks {PARTS[lost]}"):
        one(names)


OMNI = [
    f"v5-omni-small-{task}-{file}.gguf"
    for task in ("retrieval", "clustering")
    for file in ("Q8_0", "Q4_K_M", "vision-mmproj-F16", "audio-mmproj-F16")
]


@pytest.mark.parametrize("task", ["retrieval", "clustering"])
@pytest.mark.parametrize(
    ("modality", "roles"),
    [("text", ()), ("vision", ["vision"]), ("audio", ["audio"]), ("omni", ["vision", "audio"])],
)
def test_projectors_of_the_modality_and_of_the_models_own_task_are_chosen(task, modality, roles):
    choice = choose(OMNI, "a/b", f"*{task}-Q4_K_M.gguf", None, modality)
    assert choice.model == (f"v5-omni-small-{task}-Q4_K_M.gguf",)
    assert choice.mmproj == tuple(f"v5-omni-small-{task}-{role}-mmproj-F16.gguf" for role in roles)


@pytest.mark.parametrize(
    ("model", "projector"),
    [
        ("Qwen-VL-3B-Q4_K_M.gguf", "mmproj-Qwen-VL-3B-f16.gguf"),
        ("ggml-model-Q4_K_M.gguf", "mmproj-model-f16.gguf"),
        ("jev4-Q4_K_M.gguf", "mmproj-jev4-bf16.gguf"),
        ("Qwen-VL-3B.i1-Q4_K_M.gguf", "Qwen-VL-3B.mmproj-Q8_0.gguf"),
        ("Qwen-VL-3B-UD-Q4_K_XL.gguf", "mmproj-BF16.gguf"),
        ("granite-vision-2b-Q4_K_M.gguf", "mmproj-granite-vision-2b-f16.gguf"),
        ("Q4_K_M/Qwen-VL-3B-00001-of-00001.gguf", "mmproj-F16.gguf"),
        ("m-Q4_K_M.gguf", "the-vision-tower-mmproj-F16.gguf"),
    ],
)
def test_projectors_are_found_by_their_published_names(model, projector):
    assert mmproj([model, projector], "vision", quant_of(model)) == (projector,)


def test_one_projector_may_serve_both_roles():
    assert mmproj(["m-Q4_K_M.gguf", "mmproj-m-F16.gguf"], "omni") == ("mmproj-m-F16.gguf",)


def test_the_f16_projector_comes_first():
    names = [f"mmproj-{quant}.gguf" for quant in ("BF16", "Q8_0", "F32", "F16")]
    assert mmproj(["m-Q4_K_M.gguf", *names], "vision") == ("mmproj-F16.gguf",)
    assert mmproj(["m-Q4_K_M.gguf", *names[:3]], "vision") == ("mmproj-BF16.gguf",)


def test_the_projector_nearest_to_the_model_is_chosen():
    names = ["a/m-Q4_K_M.gguf", "b/mmproj-F16.gguf", "mmproj-F16.gguf"]
    assert mmproj(names, "vision") == ("mmproj-F16.gguf",)
    assert mmproj([*names, "a/mmproj-F16.gguf"], "vision") == ("a/mmproj-F16.gguf",)


def test_a_projector_without_a_name_serves_every_model_that_has_none_of_its_own():
    names = ["m-Q4_K_M.gguf", "other-Q8_0.gguf", "mmproj-F16.gguf"]
    assert mmproj(names, "vision") == ("mmproj-F16.gguf",)
    assert mmproj([*names, "mmproj-m-BF16.gguf"], "vision") == ("mmproj-m-BF16.gguf",)


@pytest.mark.parametrize(
    "names",
    [
        ["m-Q4_K_M.gguf"],
        ["m-Q4_K_M.gguf", "m-audio-mmproj-F16.gguf"],
        ["m-Q4_K_M.gguf", "other-Q8_0.gguf", "other-vision-mmproj-F16.gguf"],
        ["a/m-Q4_K_M.gguf", "b/mmproj-F16.gguf"],
    ],
)
def test_a_missing_projector_is_an_error_and_never_replaced_by_anothers(names):
    with pytest.raises(ModelFileError, match=r"no vision projector for .*m-Q4_K_M\.gguf"):
        mmproj(names, "vision")


def test_two_projectors_that_fit_alike_are_listed():
    names = ["m-Q4_K_M.gguf", "m-vision-mmproj-F16.gguf", "mmproj-m-vision-F16.gguf"]
    with pytest.raises(ModelFileError, match="a/b has 2 vision projectors for m-Q4_K_M"):
        mmproj(names, "vision")


def test_an_unknown_modality_lists_the_known_ones():
    with pytest.raises(InvalidInputError, match="'text', 'vision', 'audio', 'omni', got 'smell'"):
        mmproj(["m-Q4_K_M.gguf"], "smell")


WORDS = [
    "m",
    "Q4_K_M",
    "F16",
    "mmproj",
    "vision",
    "lora",
    "imatrix",
    "00001-of-00002",
    "00002-of-00002",
]


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map("-".join), max_size=8, unique=True),
    st.sampled_from(["text", "vision", "audio", "omni"]),
)
def test_whatever_a_repository_holds_a_choice_is_of_it_or_an_error(words, modality):
    names = [f"{word}.gguf" for word in words]
    try:
        choice = choose(names, "a/b", None, "F16", modality)
    except ModelFileError:
        return
    assert {*choice.model, *choice.mmproj} <= {*names}
    assert all("mmproj" in name for name in choice.mmproj)
    assert not any("mmproj" in name or "lora" in name for name in choice.model)
