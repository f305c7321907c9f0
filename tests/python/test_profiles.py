"""Profiles are found by metadata or file name, their data is sound, files are held against them."""

from __future__ import annotations

import dataclasses
import doctest
import importlib.util
import re
from pathlib import Path

import gguf_files
import make_tiny_models
import pytest
from ggembed import Attention, Embedder, Pooling, profiles

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_model_docs.py"
JINA_TASKS = {"retrieval", "text-matching", "clustering", "classification"}

# Names of published files, and of models as converters write them to general.name.
KNOWN = {
    "bge-en-v1.5": (
        "bert",
        ["bge-small-en-v1.5-q8_0.gguf", "Bge Base En v1.5", "BAAI/bge-large-en-v1.5"],
    ),
    "bge-m3": ("bert", ["bge-m3-Q8_0.gguf", "bge-m3-FP16.gguf", "Bge M3", "BAAI/bge-m3"]),
    "e5": ("bert", ["e5-base-v2.Q8_0.gguf", "E5 Base v2", "intfloat/e5-small", "e5-large-v2"]),
    "multilingual-e5": (
        "bert",
        ["multilingual-e5-large-q8_0.gguf", "Multilingual E5 Small", "multilingual_e5_base.gguf"],
    ),
    "EmbeddingGemma": (
        "gemma-embedding",
        ["embeddinggemma-300M-Q8_0.gguf", "Embeddinggemma 300m", "embeddinggemma-300m-qat-q4_0"],
    ),
    "gte-Qwen2-instruct": (
        "qwen2",
        ["gte-Qwen2-1.5B-instruct-Q8_0.gguf", "Gte Qwen2 7B Instruct"],
    ),
    "gte-modernbert-base": ("modern-bert", ["gte-modernbert-base-f16.gguf", "Gte Modernbert Base"]),
    "jina-embeddings-v4-text": (
        "qwen2vl",
        [
            "jina-embeddings-v4-text-retrieval-Q4_K_M.gguf",
            "jina-embeddings-v4-text-code-F16.gguf",
            "jina-embeddings-v4-text-matching-IQ3_S.gguf",
            "Jina Embeddings v4 Text Retrieval",
        ],
    ),
    "jina-embeddings-v4": (
        "qwen2vl",
        ["jev4-bf16.gguf", "jina-embeddings-v4-Q8_0.gguf", "Jina Embeddings v4"],
    ),
    "jina-embeddings-v5-text-small": (
        "qwen3",
        [
            "v5-small-retrieval-Q4_K_M.gguf",
            "v5-small-text-matching-F16.gguf",
            "jina-embeddings-v5-text-small-Q8_0.gguf",
            "Jina Embeddings v5 Text Small Retrieval",
        ],
    ),
    "jina-embeddings-v5-text-nano": (
        "eurobert",
        ["v5-nano-retrieval-F16.gguf", "jinaai/jina-embeddings-v5-text-nano-clustering"],
    ),
    "jina-embeddings-v5-omni-small": (
        "qwen3",
        ["jina-embeddings-v5-omni-small-retrieval-Q8_0.gguf", "Jina Embeddings v5 Omni Small"],
    ),
    "jina-embeddings-v5-omni-nano": (
        "eurobert",
        ["jina-embeddings-v5-omni-nano-classification-Q5_K_M.gguf"],
    ),
    "mxbai-embed-large-v1": ("bert", ["mxbai-embed-large-v1-f16.gguf", "Mxbai Embed Large v1"]),
    "nomic-embed-text-v1": ("nomic-bert", ["nomic-embed-text-v1.f16.gguf", "nomic-embed-text-v1"]),
    "nomic-embed-text-v1.5": (
        "nomic-bert",
        ["nomic-embed-text-v1.5.Q8_0.gguf", "Nomic Embed Text v1.5"],
    ),
    "nomic-embed-text-v2-moe": (
        "nomic-bert-moe",
        ["nomic-embed-text-v2-moe.Q4_K_M.gguf", "Nomic Embed Text v2 Moe"],
    ),
    "modernbert-embed-base": (
        "modern-bert",
        ["modernbert-embed-base-q8_0.gguf", "nomic-ai/modernbert-embed-base"],
    ),
    "Qwen3-Embedding": (
        "qwen3",
        ["Qwen3-Embedding-0.6B-Q8_0.gguf", "Qwen3 Embedding 0.6b", "Qwen3-Embedding-8B-f16.gguf"],
    ),
    "all-MiniLM": ("bert", ["all-MiniLM-L6-v2", "All MiniLM L12 v2", "all-minilm-l6-v2_f16.gguf"]),
    "all-mpnet-base-v2": ("bert", ["all-mpnet-base-v2.gguf"]),
    "snowflake-arctic-embed-v2.0": (
        "bert",
        [
            "snowflake-arctic-embed-l-v2.0-q8_0.gguf",
            "Snowflake Arctic Embed M v2.0",
            "snowflake-arctic-embed2",
        ],
    ),
}

UNKNOWN = [
    ("qwen3", "Qwen3-0.6B-Q8_0.gguf"),
    ("qwen3", "Qwen3-Reranker-0.6B-Q8_0.gguf"),
    ("qwen3", "jina-reranker-v3-Q8_0.gguf"),
    ("qwen3vl", "Qwen3-VL-Embedding-2B-Q8_0.gguf"),
    ("qwen2", "gte-Qwen1.5-7B-instruct-Q4_K_M.gguf"),
    ("qwen2", "jina-code-embeddings-0.5b-Q8_0.gguf"),
    ("qwen2vl", "Qwen2.5-VL-3B-Instruct-Q4_K_M.gguf"),
    ("qwen2vl", "jina-reranker-m0-Q4_K_M.gguf"),
    ("bert", "bge-reranker-v2-m3-Q8_0.gguf"),
    ("bert", "bge-m3-retromae-f16.gguf"),
    ("bert", "bge-small-zh-v1.5-f16.gguf"),
    ("bert", "multilingual-e5-large-instruct-q8_0.gguf"),
    ("llama", "e5-mistral-7b-instruct-Q4_K_M.gguf"),
    ("bert", "e5-base-unsupervised.gguf"),
    ("bert", "mxbai-embed-2d-large-v1.gguf"),
    ("bert", "mxbai-rerank-large-v1.gguf"),
    ("bert", "snowflake-arctic-embed-l-f16.gguf"),
    ("bert", "snowflake-arctic-embed-m-v1.5.gguf"),
    ("bert", "paraphrase-multilingual-MiniLM-L12-v2.gguf"),
    ("bert", "multi-qa-mpnet-base-dot-v1.gguf"),
    ("modern-bert", "gte-reranker-modernbert-base.gguf"),
    ("modern-bert", "ModernBERT-base.gguf"),
    ("nomic-bert", "nomic-embed-text-v1-unsupervised.gguf"),
    ("qwen2", "nomic-embed-code-Q4_K_M.gguf"),
    ("gemma3", "embeddinggemma-300M-Q8_0.gguf"),
    ("gemma3", "KaLM-Embedding-Gemma3-12B.gguf"),
    ("jina-bert-v2", "jina-embeddings-v2-base-en.gguf"),
    ("jina-bert-v3", "jina-embeddings-v3.gguf"),
    ("bert", "Qwen3 Embedding 0.6B"),
    ("bert", ""),
]


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [(a, name, profile) for profile, (a, names) in KNOWN.items() for name in names],
)
def test_models_are_recognised_by_either_name(architecture, name, expected):
    for names in ((name, ""), ("", name), ("tiny something", name)):
        found = profiles.find(architecture, *names)
        assert found is not None
        assert found.name == expected


@pytest.mark.parametrize(("architecture", "name"), UNKNOWN)
def test_other_models_are_not_recognised(architecture, name):
    assert profiles.find(architecture, name, name) is None


def test_every_name_fits_one_profile():
    for profile, (_, names) in KNOWN.items():
        for name in names:
            text = re.sub(r"[\s_]+", "-", name.lower())
            matching = [p.name for p in profiles.load_all() if re.search(p.match, text)]
            assert matching == [profile]


def test_metadata_comes_before_the_file_name():
    assert profiles.find("bert", "bge-m3", "multilingual-e5-large.gguf").name == "bge-m3"


def test_merged_task_is_read_from_the_names():
    def task(architecture, *names):
        return profiles.find(architecture, *names).task_in(*names)

    assert task("qwen2vl", "", "jina-embeddings-v4-text-retrieval-Q4_K_M.gguf") == "retrieval"
    assert task("qwen2vl", "", "jina-embeddings-v4-text-matching-F16.gguf") == "text-matching"
    assert task("qwen2vl", "Jina Embeddings v4 Text Code", "a.gguf") == "code"
    assert task("qwen2vl", "jina-embeddings-v4-vllm-text-matching", "") == "text-matching"
    assert task("qwen2vl", "Jina Embeddings v4", "jev4-bf16.gguf") is None
    for name in JINA_TASKS:
        assert task("qwen3", "", f"v5-small-{name}-Q4_K_M.gguf") == name
        assert task("eurobert", "", f"v5-nano-{name}-Q8_0.gguf") == name
        assert task("qwen3", "", f"jina-embeddings-v5-omni-small-{name}-F16.gguf") == name
        assert task("eurobert", f"Jina Embeddings v5 Omni Nano {name}", "a.gguf") == name
    assert (
        task("qwen3", "Jina Embeddings v5 Text Small", "v5-small-clustering.gguf") == "clustering"
    )
    assert task("qwen3", "Jina Embeddings v5 Text Small", "a.gguf") is None
    assert task("qwen3", "", "Qwen3-Embedding-0.6B-Q8_0.gguf") is None


def test_data_is_complete():
    loaded = profiles.load_all()
    assert {profile.name for profile in loaded} == KNOWN.keys()
    assert len(loaded) == len(KNOWN)
    facts = {"prompts", "pooling", "attention", "tokens", "dims", "n_ctx", "licence"}
    for profile in loaded:
        assert profile.architectures
        assert all(isinstance(name, str) for name in profile.architectures)
        assert profile.pooling in (Pooling.MEAN, Pooling.CLS, Pooling.LAST)
        assert isinstance(profile.attention, Attention)
        assert list(profile.dims) == sorted(set(profile.dims))
        assert all(16 <= dim <= 4096 for dim in profile.dims)
        assert 128 <= profile.n_ctx <= 32768
        assert profile.licence
        assert profile.default_task in profile.tasks
        for task, prompts in profile.tasks.items():
            assert prompts.keys() in (set(), {"query", "document"}), task
            assert all(isinstance(text, str) for text in prompts.values())
        assert profile.default_prompt in (None, "query")
        assert not profile.prompts.keys() & {"query", "document", "passage", "corpus"}
        assert profile.merged_task.keys() in (set(), profile.tasks.keys())
        assert profile.end_id is None or profile.ends_with
        optional = {"caveat": profile.caveat, "media": profile.media.templates}
        assert profile.sources.keys() == facts | {name for name, has in optional.items() if has}
        assert profile.media.template in ("bare", *profile.media.templates)
        assert profile.media.templates.keys() <= {"chat"}
        assert all(profile.sources.values())


def test_jinas_models_have_their_tasks():
    by_name = {profile.name: profile for profile in profiles.load_all()}
    for name in ("jina-embeddings-v4-text", "jina-embeddings-v4"):
        assert by_name[name].tasks.keys() == {"retrieval", "text-matching", "code"}
        assert by_name[name].default_prompt == "query"
    for kind in ("text", "omni"):
        for size in ("small", "nano"):
            assert by_name[f"jina-embeddings-v5-{kind}-{size}"].tasks.keys() == JINA_TASKS


def test_prompts_stand_before_media_of_v5_and_not_of_v4():
    by_name = {profile.name: profile.media for profile in profiles.load_all()}
    for name in ("jina-embeddings-v4-text", "jina-embeddings-v4"):
        media = by_name[name]
        assert (media.template, media.takes_prompt) == ("chat", False)
        assert media.around("chat", ["image"]) == (
            "<|im_start|>user\n",
            "Describe the image.<|im_end|>\n",
        )
    for name in ("jina-embeddings-v5-omni-small", "jina-embeddings-v5-omni-nano"):
        media = by_name[name]
        assert (media.template, media.takes_prompt) == ("bare", True)
        assert media.around("bare", ["image"]) == ("", "")
        assert media.around("chat", ["image"]) == ("<|im_start|>user\n", "<|im_end|>\n")
        assert media.around("chat", ["audio", "video"]) == ("", "")


def test_embeddinggemma_has_the_names_of_sentence_transformers():
    gemma = profiles.find("gemma-embedding", "embeddinggemma-300m")
    assert len(gemma.prompts) == 12
    assert gemma.prompts["Retrieval-document"] == gemma.tasks["retrieval"]["document"]
    assert gemma.prompts["Summarization"] == "task: summarization | query: "


def test_docstring_examples_run():
    results = doctest.testmod(profiles)
    assert results.attempted >= 5
    assert results.failed == 0


def test_docs_are_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("make_model_docs", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert DOCS.read_text("utf-8") == script.render(), f"run python {SCRIPT.name}"


def test_docs_have_a_row_for_every_model_and_task():
    text = DOCS.read_text("utf-8")
    for profile in profiles.load_all():
        for task in profile.tasks:
            assert f"| {profile.name} | {task} |" in text
    small = "| jina-embeddings-v5-text-small"
    nano = "| jina-embeddings-v5-text-nano"
    end = r"`<\|end_of_text\|>`"
    for row in (
        "| jina-embeddings-v4-text | text-matching | `Query: {text}` | `Query: {text}` |  |  |",
        "| jina-embeddings-v4-text | retrieval | `Query: {text}` | `Passage: {text}` |  |  |",
        f"{small} | retrieval | `Query: {{text}}` | `Document: {{text}}` |  |  |",
        f"{nano} | clustering | `{{text}}` | `{{text}}` |  | {end} |",
        "| jina-embeddings-v5-omni-small | classification | `{text}` | `{text}` |  |  |",
    ):
        assert f"{row}\n" in text


def rename(source, target, **strings):
    """A copy of a tiny model with other or more string metadata."""
    strings = {key.replace("__", "."): value for key, value in strings.items()}
    return gguf_files.copy(source, target, strings=strings)


def test_profile_gives_an_embedder_its_prompts(tiny, tmp_path):
    name = "Jina Embeddings v5 Text Small Retrieval"
    path = rename(tiny("qwen3-last"), tmp_path / "m.gguf", general__name=name)
    with Embedder(path, n_threads=1) as embedder:
        info = embedder.info()
        assert (info.profile, info.prompts_source) == ("jina-embeddings-v5-text-small", "profile")
        assert (info.tasks, info.task) == (("retrieval",), "retrieval")
        assert info.dims == (32, 64, 128, 256, 512, 768, 1024)
        assert (info.n_ctx_advised, info.licence) == (32768, "CC BY-NC 4.0")
        rows = embedder.encode(["Query: a", "Document: a"])
        assert (embedder.encode_query("a") * rows[0]).sum() > 1 - 1e-5
        assert (embedder.encode_document("a") * rows[1]).sum() > 1 - 1e-5


def test_base_model_has_all_tasks(tiny, tmp_path):
    name = "Jina Embeddings v5 Text Small"
    path = rename(tiny("qwen3-last"), tmp_path / "m.gguf", general__name=name)
    with Embedder(path) as embedder:
        assert set(embedder.info().tasks) == JINA_TASKS
        assert embedder.info().task == "retrieval"


def test_basename_in_the_file_counts(tiny, tmp_path):
    path = rename(tiny("bert-cls"), tmp_path / "m.gguf", general__basename="bge-small-en-v1.5")
    with Embedder(path) as embedder:
        assert embedder.info().profile == "bge-en-v1.5"


def test_prompts_in_the_file_come_before_the_profile(tiny, tmp_path):
    prompts = {"sentence_transformers__prompts__query": "Frage:\n"}
    path = rename(
        tiny("qwen3-last"), tmp_path / "m.gguf", general__name="Qwen3 Embedding 0.6B", **prompts
    )
    with Embedder(path) as embedder:
        assert embedder.prompts == {"query": "Frage:\n"}
        assert embedder.info().prompts_source == "file"
        assert embedder.info().profile == "Qwen3-Embedding"


def test_argument_comes_before_the_profile(tiny, tmp_path):
    path = rename(tiny("qwen3-last"), tmp_path / "m.gguf", general__name="Qwen3 Embedding 0.6B")
    with Embedder(path, prompts={}) as embedder:
        assert embedder.prompts == {}
        assert embedder.info().prompts_source == "argument"


def test_unknown_model_has_no_facts_but_those_of_the_file(tiny, tmp_path):
    path = rename(tiny("bert-mean"), tmp_path / "m.gguf", general__license="mit")
    with Embedder(path) as embedder:
        info = embedder.info()
        assert (info.profile, info.tasks, info.task, info.dims) == (None, (), None, ())
        assert (info.dim_min, info.n_ctx_advised, info.warnings) == (None, None, ())
        assert info.licence == "mit"


def test_pooling_comes_from_argument_file_profile_attention(tiny, tmp_path):
    name = {"general__name": "bge-small-en-v1.5"}
    bare = rename(tiny("bert-no-pooling-key"), tmp_path / "bare.gguf", **name)
    full = rename(tiny("bert-mean"), tmp_path / "full.gguf", **name)
    for path, more, expected in (
        (full, {"pooling": "last"}, ("last", "argument")),
        (full, {}, ("mean", "file")),
        (bare, {}, ("cls", "profile")),
        (tiny("bert-no-pooling-key"), {}, ("mean", "attention")),
    ):
        with Embedder(path, **more) as embedder:
            assert (embedder.info().pooling, embedder.info().pooling_source) == expected
    with Embedder(bare) as of_profile, Embedder(bare, pooling="cls") as given:
        assert (of_profile.encode("a b") == given.encode("a b")).all()


def warnings_of(path, **more) -> list[str]:
    with Embedder(path, **more) as embedder:
        return list(embedder.info().warnings)


def logged_of(path, caplog) -> list[tuple[str, str, str]]:
    """What was logged about a file, without the native library's own lines."""
    records = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    return [record for record in records if record[2].startswith(f"{path}: ")]


def test_file_that_fits_its_profile_is_silent(tiny, tmp_path, caplog):
    path = rename(tiny("bert-cls"), tmp_path / "m.gguf", general__name="bge-small-en-v1.5")
    assert warnings_of(path) == []
    assert logged_of(path, caplog) == []


def test_wrong_pooling_in_a_file_is_named(tiny, tmp_path):
    path = rename(tiny("bert-mean"), tmp_path / "m.gguf", general__name="bge-small-en-v1.5")
    assert warnings_of(path) == [
        "the file says pooling mean, bge-en-v1.5 was trained with cls; pass pooling='cls'"
    ]
    assert warnings_of(path, pooling="cls") == []


def test_wrong_attention_in_a_file_is_named(tmp_path):
    model = make_tiny_models.build("qwen2-bidirectional-mean")
    keys = {key: value for key, value in model.keys.items() if key != "attention.causal"}
    path = tmp_path / "gte-Qwen2-1.5B-instruct-Q8_0.gguf"
    make_tiny_models.write(dataclasses.replace(model, keys=keys), path)
    said = (
        "the file says causal attention, gte-Qwen2-instruct was trained with bidirectional; "
        "pass attention='bidirectional'"
    )
    assert said in warnings_of(path)
    assert said not in warnings_of(path, attention="bidirectional")


def test_missing_or_superfluous_tokens_are_named(tiny, tmp_path):
    path = rename(tiny("qwen3-last"), tmp_path / "q.gguf", general__name="Qwen3 Embedding 0.6B")
    assert (
        "the file puts no token behind a text, Qwen3-Embedding needs <|endoftext|>; fetch or "
        "convert the file again"
    ) in warnings_of(path)
    path = rename(tiny("qwen3-last"), tmp_path / "v5-small-retrieval-F16.gguf")
    assert not [line for line in warnings_of(path) if "token " in line]
    # its tokenizer opens a text with <s>, which v5-nano must not have
    model = make_tiny_models.build("eurobert-last")
    vocab = dataclasses.replace(model.vocab, keys={**model.vocab.keys, "add_bos_token": True})
    path = tmp_path / "v5-nano-retrieval-F16.gguf"
    make_tiny_models.write(dataclasses.replace(model, vocab=vocab), path)
    assert (
        "the file puts a token in front of a text, jina-embeddings-v5-text-nano needs none; fetch "
        "or convert the file again"
    ) in warnings_of(path)


def test_wrong_closing_token_is_named(tiny, tmp_path):
    path = rename(tiny("eurobert-last"), tmp_path / "v5-nano-retrieval-F16.gguf")
    with Embedder(path) as embedder:
        info = embedder.info()
        assert (
            f"the file puts token {info.token_eos} behind a text, jina-embeddings-v5-text-nano "
            "needs 128001, <|end_of_text|>; fetch or convert the file again"
        ) in info.warnings


def test_shorter_context_than_the_models_is_named(tiny, tmp_path):
    path = rename(tiny("bert-cls"), tmp_path / "m.gguf", general__name="bge-m3")
    (line,) = warnings_of(path)
    assert line == (
        "the file takes 512 tokens, bge-m3 takes 8192; fetch or convert the file again, or keep "
        "texts that short"
    )


def test_model_that_no_file_can_hold_is_named(tiny, tmp_path):
    path = rename(tiny("bert-mean"), tmp_path / "m.gguf", general__name="all-mpnet-base-v2")
    assert [line for line in warnings_of(path) if line.startswith("llama.cpp has no MPNet")]


def test_contradictions_are_logged_once_per_process(tiny, tmp_path, caplog):
    path = rename(tiny("bert-mean"), tmp_path / "m.gguf", general__name="bge-small-en-v1.5")
    first, second = warnings_of(path), warnings_of(path)
    assert first == second
    assert logged_of(path, caplog) == [("ggembed", "WARNING", f"{path}: {first[0]}")]
    other = rename(path, tmp_path / "other.gguf")
    assert warnings_of(other) == first
    assert logged_of(other, caplog) == [("ggembed", "WARNING", f"{other}: {first[0]}")]


def test_untrained_widths_get_a_warning(bert):
    def said(profile, dim, full):
        info = dataclasses.replace(
            bert.info(),
            profile=profile and profile.name,
            dim=full,
            dims=profile.dims if profile else (),
            dim_min=profile and profile.dim_min,
        )
        return profiles.untrained_dim_warning(info, dim)

    v5 = profiles.find("eurobert", "v5-nano-retrieval")
    assert said(v5, 256, 768) is said(v5, 768, 768) is None
    assert said(v5, 100, 768) == (
        "jina-embeddings-v5-text-nano was trained for rows of 32, 64, 128, 256, 512, 768 values; "
        "rows cut to 100 give worse results"
    )
    qwen = profiles.find("qwen3", "Qwen3-Embedding-0.6B")
    assert said(qwen, 32, 1024) is said(qwen, 333, 1024) is None
    assert "for rows of 32 or more values" in said(qwen, 31, 1024)
    minilm = profiles.find("bert", "all-MiniLM-L6-v2")
    assert said(minilm, 384, 384) is None
    assert "for rows of 384 values" in said(minilm, 128, 384)
    arctic = profiles.find("bert", "snowflake-arctic-embed-l-v2.0")
    assert said(arctic, 256, 1024) is None
    assert "for rows of 256, 1024 values" in said(arctic, 512, 1024)
    assert said(None, 5, 384) is None


def test_closing_token_that_a_file_lacks_comes_from_its_profile(tiny, monkeypatch):
    name = "<|im_end|>"
    tokens = make_tiny_models.build("qwen3-last").vocab.tokens
    known = profiles.find("qwen3", "Qwen3-Embedding-0.6B")
    known = dataclasses.replace(known, ends_with=name, end_id=tokens.index(name))
    with Embedder(tiny("qwen3-last"), n_threads=1) as plain:
        bare = plain.tokenize("the question").tolist()
    monkeypatch.setattr(profiles, "find", lambda *_: known)
    with Embedder(tiny("qwen3-last"), n_threads=1) as embedder:
        info = embedder.info()
        assert (info.end_token, info.add_eos_source) == (tokens.index(name), "profile")
        assert info.add_eos
        assert not any("behind a text" in warning for warning in info.warnings)
        assert embedder.tokenize("the question").tolist() == [*bare, info.end_token]
        assert embedder.count_tokens("the question") == len(bare) + 1
        encoded = embedder.encode(["the question"], return_info=True)
        assert encoded.n_tokens.tolist() == [len(bare) + 1]
