"""The prompt of a call: one set of rules for every combination of arguments and models."""

from __future__ import annotations

import doctest
from functools import partial

import numpy as np
import pytest
from ggembed import Embedder, _prompts, profiles
from ggembed._prompts import Prompts

V4 = profiles.find("qwen2vl", "jina-embeddings-v4-text-retrieval")
V5 = profiles.find("qwen3", "jina-embeddings-v5-text-small")
BGE = profiles.find("bert", "bge-base-en-v1.5")
GEMMA = profiles.find("gemma-embedding", "embeddinggemma-300m")
NOMIC = profiles.find("nomic-bert", "nomic-embed-text-v1.5")
NOMIC_2 = profiles.find("nomic-bert-moe", "nomic-embed-text-v2-moe")


def of(profile, merged_task=None, given=None, metadata=None, **more) -> Prompts:
    return Prompts.of(given, metadata or {}, profile, merged_task, **more)


def test_docstring_examples_run():
    assert doctest.testmod(_prompts).attempted >= 1
    assert doctest.testmod(_prompts).failed == 0


def test_role_takes_the_prompt_of_the_default_task():
    prompts = of(V5)
    assert (prompts.text(role="query"), prompts.text(role="document")) == ("Query: ", "Document: ")


def test_role_takes_the_prompt_of_the_task_of_the_call():
    prompts = of(V5)
    for task in ("text-matching", "clustering", "classification"):
        assert prompts.text(role="query", task=task) == ""
        assert prompts.text(role="document", task=task) == ""
    assert of(GEMMA).text(role="query", task="code") == "task: code retrieval | query: "
    assert of(GEMMA).text(role="document", task="code") == "title: none | text: "


def test_text_matching_of_v4_takes_documents_as_queries():
    for prompts in (of(V4, "text-matching"), of(V4, task="text-matching")):
        assert prompts.text(role="document") == "Query: "
        for name in ("query", "document", "passage"):
            assert prompts.text(prompt_name=name) == "Query: "
    assert of(V4).text(prompt_name="document", task="text-matching") == "Query: "
    assert of(V4).text(prompt_name="passage", task="code") == "Passage: "


def test_plain_call_to_v4_is_a_query():
    for task in ("retrieval", "text-matching", "code"):
        assert of(V4, task).text() == "Query: "
        assert of(V4).text(task=task) == "Query: "


@pytest.mark.parametrize("profile", [V5, BGE, GEMMA, NOMIC], ids=lambda p: p.name)
def test_plain_call_to_a_model_of_two_sides_adds_nothing(profile):
    assert of(profile).text() == ""


def test_plain_call_takes_the_prompt_that_both_sides_share():
    assert of(NOMIC, task="clustering").text() == "clustering: "
    assert of(V5, "clustering").text() == ""


def test_task_whose_sides_share_a_prompt_needs_no_role():
    assert of(NOMIC).text(task="clustering") == "clustering: "
    assert of(V5).text(task="classification") == ""


def test_task_of_two_sides_needs_a_role():
    with pytest.raises(
        ValueError,
        match="task 'retrieval' has one prompt for queries and another for documents; use "
        "encode_query or encode_document, or give prompt_name, one of 'query', 'document'",
    ):
        of(V5).text(task="retrieval")
    assert of(V5).text(task="retrieval", role="query") == "Query: "
    assert of(V5).text(task="retrieval", prompt_name="document") == "Document: "
    assert of(V5, default_name="document").text(task="retrieval") == "Document: "


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="no task is named 'x'; this model has 'retrieval', 'te"):
        of(V5).text(task="x")
    with pytest.raises(ValueError, match="no task is named 'x'; this model has no tasks"):
        of(None).text("prompt", task="x")
    with pytest.raises(ValueError, match=r"no task is named 'x'; this model has 'retrieval'$"):
        of(BGE, task="x")


def test_file_with_a_merged_task_has_that_one_only():
    prompts = of(V5, "clustering")
    assert (prompts.task, list(prompts.tasks)) == ("clustering", ["clustering"])
    assert prompts.text(task="clustering") == ""
    with pytest.raises(
        ValueError, match="no task is named 'retrieval'; this file holds 'clustering' only"
    ):
        prompts.text(task="retrieval", role="query")


def test_unknown_prompt_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="no prompt is named 'q'; this model has 'query', 'docum"):
        of(V5).text(prompt_name="q")
    with pytest.raises(ValueError, match="no prompt is named 'passage'; this model has no prompts"):
        of(None).text(prompt_name="passage")
    with pytest.raises(ValueError, match="no prompt is named 'q'"):
        of(V5, default_name="q")


def test_every_model_knows_query_and_document():
    for prompts in (of(None), of(V5, "clustering"), of(BGE, given={})):
        for name in ("query", "document"):
            assert prompts.text(prompt_name=name) == ""
            assert prompts.text(role=name) == ""


def test_names_of_the_document_side_stand_for_each_other():
    for name in ("document", "passage", "corpus"):
        assert of(NOMIC).text(prompt_name=name) == "search_document: "
        prompts = of(None, given={name: "text: "})
        assert prompts.text(role="document") == "text: "
        assert prompts.text(prompt_name="passage") == "text: "


def test_prompts_of_no_task_go_by_name_with_every_task():
    prompts = of(GEMMA)
    assert prompts.text(prompt_name="STS") == "task: sentence similarity | query: "
    assert prompts.text(prompt_name="STS", task="code") == "task: sentence similarity | query: "
    assert of(NOMIC_2).text(prompt_name="Speed") == "search_document: "


def test_prompt_of_the_call_wins():
    for prompts in (of(V4), of(V5, default_name="query")):
        assert prompts.text("x: ") == "x: "
        assert prompts.text("", role="query") == ""
        assert prompts.text("", task="retrieval") == ""


def test_prompt_and_prompt_name_exclude_each_other():
    with pytest.raises(ValueError, match="must not be given together"):
        of(V5).text("x", "query")


def test_default_prompt_name_serves_calls_that_say_nothing():
    prompts = of(V5, default_name="document")
    assert prompts.text() == "Document: "
    assert prompts.text(role="query") == "Query: "
    assert prompts.text(task="clustering") == ""
    assert of(V4, default_name="document").text() == "Passage: "
    assert of(GEMMA, default_name="STS").text() == "task: sentence similarity | query: "


def test_model_without_a_prompt_for_a_role_takes_the_text_as_it_is():
    prompts = of(None, given={"other": "of "}, default_name="other")
    assert (prompts.text(), prompts.text(role="query"), prompts.text(role="document")) == (
        "of ",
        "",
        "",
    )
    assert of(BGE).text(role="document") == ""


def test_given_prompts_override_by_name():
    prompts = of(V5, given={"query": "Q: ", "title": "T: "})
    assert prompts.by_name == {"query": "Q: ", "document": "Document: ", "title": "T: "}
    assert (prompts.text(role="query"), prompts.text(prompt_name="title")) == ("Q: ", "T: ")
    assert prompts.source == "argument"


def test_given_prompt_overrides_its_side_whatever_its_name():
    prompts = of(V5, given={"passage": "P: "})
    assert prompts.by_name == {"query": "Query: ", "passage": "P: "}
    assert prompts.text(role="document") == "P: "
    assert prompts.text(prompt_name="document") == "P: "


def test_given_prompts_leave_other_tasks_alone():
    prompts = of(NOMIC, given={"query": "Q: "})
    assert prompts.text(role="query", task="clustering") == "clustering: "
    assert of(NOMIC, given={"query": "Q: "}, task="clustering").text(role="query") == "Q: "


def test_no_given_prompts_mean_no_prompts_at_all():
    prompts = of(NOMIC, given={})
    assert (prompts.by_name, prompts.source) == ({}, "argument")
    for task in (None, *prompts.tasks):
        assert prompts.text(task=task) == prompts.text(task=task, role="query") == ""
    assert of(V4, given={}).text() == ""


def test_prompts_in_the_file_take_the_place_of_the_profile():
    metadata = {
        "sentence_transformers.prompts.query": "Frage: ",
        "sentence_transformers.prompts.STS": "Satz: ",
    }
    prompts = of(GEMMA, metadata=metadata)
    assert (prompts.by_name, prompts.source) == ({"query": "Frage: ", "STS": "Satz: "}, "file")
    assert (prompts.text(role="query"), prompts.text(role="document")) == ("Frage: ", "")
    assert prompts.text() == ""
    assert of(None, metadata=metadata).text(role="query") == "Frage: "
    assert of(GEMMA, metadata=metadata, given={"query": "Q: "}).by_name == {
        "query": "Q: ",
        "STS": "Satz: ",
    }


def test_unknown_model_has_no_rules():
    prompts = of(None)
    assert (prompts.by_name, dict(prompts.tasks), prompts.task, prompts.source) == (
        {},
        {},
        None,
        None,
    )
    assert prompts.text() == ""


def test_prompts_cannot_be_changed():
    prompts = of(V5)
    for table in (prompts.tasks, prompts.tasks["retrieval"], prompts.named, V5.tasks["retrieval"]):
        with pytest.raises(TypeError):
            table["query"] = "x"
    prompts.by_name["query"] = "x"
    assert prompts.text(role="query") == "Query: "


@pytest.mark.parametrize(
    ("model", "file", "query", "document", "plain"),
    [
        ("qwen3-last", "v5-small-retrieval-Q4_K_M", "Query: ", "Document: ", ""),
        ("qwen3-last", "v5-small-clustering-Q4_K_M", "", "", ""),
        ("eurobert-last", "v5-nano-retrieval-F16", "Query: ", "Document: ", ""),
        ("qwen3-last", "jina-embeddings-v5-omni-small-text-matching-Q8_0", "", "", ""),
        (
            "qwen2vl-mean",
            "jina-embeddings-v4-text-retrieval-Q4_K_M",
            "Query: ",
            "Passage: ",
            "Query: ",
        ),
        ("qwen2vl-mean", "jina-embeddings-v4-text-matching-F16", "Query: ", "Query: ", "Query: "),
        ("bert-cls", "bge-small-en-v1.5-q8_0", BGE.tasks["retrieval"]["query"], "", ""),
        (
            "nomic-bert-mean",
            "nomic-embed-text-v1.5.Q8_0",
            "search_query: ",
            "search_document: ",
            "",
        ),
        (
            "gemma-embedding-mean",
            "embeddinggemma-300M-Q8_0",
            "task: search result | query: ",
            "title: none | text: ",
            "",
        ),
    ],
)
def test_prompt_reaches_the_tokenizer_once(
    tiny, tmp_path, monkeypatch, model, file, query, document, plain
):
    path = tmp_path / f"{file}.gguf"
    path.write_bytes(tiny(model).read_bytes())
    with Embedder(path, n_threads=1) as embedder:
        engine = type(embedder._handles[1])
        encode, seen = engine.encode, []

        def spy(self, tokens, *args, **kwargs):
            seen.append(tokens.ids().tolist())
            return encode(self, tokens, *args, **kwargs)

        monkeypatch.setattr(engine, "encode", spy)
        calls = embedder.encode_query, embedder.encode_document, embedder.encode
        calls = [*calls, partial(embedder.encode, prompt="")]
        for call in calls:  # a text alone takes another way
            assert np.array_equal(call(["a text"])[0], call("a text"))
        wanted = [f"{prompt}a text" for prompt in (query, document, plain, "")]
        assert seen == [embedder.tokenize(text).tolist() for text in wanted]
