"""Profiles are found by metadata or file name, and their data is sound."""

from __future__ import annotations

import re

import gguf_files
import pytest
from ggembed import Embedder, profiles


@pytest.mark.parametrize(
    ("architecture", "name", "file", "expected"),
    [
        ("qwen3", "", "v5-small-retrieval-Q4_K_M.gguf", "jina-embeddings-v5-retrieval"),
        ("eurobert", "", "v5-nano-retrieval-F16.gguf", "jina-embeddings-v5-retrieval"),
        (
            "eurobert",
            "Jina Embeddings v5 Text Nano Retrieval",
            "model.gguf",
            "jina-embeddings-v5-retrieval",
        ),
        (
            "qwen3",
            "",
            "jina-embeddings-v5-omni-small-retrieval-Q8_0.gguf",
            "jina-embeddings-v5-retrieval",
        ),
        ("qwen3", "", "v5-small-text-matching-F16.gguf", "jina-embeddings-v5-symmetric"),
        ("eurobert", "", "v5-nano-clustering-Q8_0.gguf", "jina-embeddings-v5-symmetric"),
        (
            "qwen2vl",
            "",
            "jina-embeddings-v4-text-retrieval-Q4_K_M.gguf",
            "jina-embeddings-v4-retrieval",
        ),
        ("qwen2vl", "", "jina-embeddings-v4-text-code-F16.gguf", "jina-embeddings-v4-retrieval"),
        (
            "qwen2vl",
            "",
            "jina-embeddings-v4-text-matching-F16.gguf",
            "jina-embeddings-v4-matching",
        ),
        ("qwen3", "Qwen3 Embedding 0.6B", "model.gguf", "Qwen3-Embedding"),
        ("qwen3", "", "Qwen3-Embedding-8B-Q4_K_M.gguf", "Qwen3-Embedding"),
        ("qwen3", "Qwen3 0.6B", "Qwen3-0.6B.gguf", None),
        ("qwen3", "", "Qwen3-Reranker-0.6B.gguf", None),
        ("nomic-bert", "nomic-embed-text-v1.5", "a.gguf", "nomic-embed-text-v1"),
        ("nomic-bert", "", "nomic-embed-text-v1.5.f16.gguf", "nomic-embed-text-v1"),
        ("nomic-bert-moe", "nomic-embed-text-v2-moe", "a.gguf", None),
        ("bert", "Bge Base En v1.5", "a.gguf", "bge-en-v1.5"),
        ("bert", "", "bge-large-en-v1.5-q8_0.gguf", "bge-en-v1.5"),
        ("bert", "bge-m3", "bge-m3.gguf", None),
        ("bert", "E5 Base v2", "a.gguf", "e5"),
        ("bert", "multilingual-e5-large", "a.gguf", "e5"),
        ("bert", "multilingual-e5-large-instruct", "a.gguf", None),
        ("llama", "e5-mistral-7b-instruct", "e5-mistral-7b-instruct.gguf", None),
        ("bert", "all-MiniLM-L6-v2", "a.gguf", "all-MiniLM"),
        ("gemma-embedding", "Embeddinggemma 300m", "a.gguf", "EmbeddingGemma"),
        ("gemma-embedding", "", "embeddinggemma-300M-Q8_0.gguf", "EmbeddingGemma"),
        ("bert", "Qwen3 Embedding 0.6B", "", None),
        ("bert", "", "", None),
    ],
)
def test_models_are_recognised(architecture, name, file, expected):
    found = profiles.find(architecture, name, file)
    assert (None if found is None else found.name) == expected


def test_prompts_of_known_models():
    def prompts(name):
        return next(p.prompts for p in profiles.load_all() if p.name == name)

    assert prompts("jina-embeddings-v5-retrieval") == {"query": "Query: ", "document": "Document: "}
    assert prompts("jina-embeddings-v5-symmetric") == {}
    assert prompts("jina-embeddings-v4-retrieval")["document"] == "Passage: "
    assert prompts("jina-embeddings-v4-matching")["document"] == "Query: "
    assert prompts("Qwen3-Embedding")["query"].endswith("answer the query\nQuery:")
    assert prompts("nomic-embed-text-v1")["document"] == "search_document: "
    assert prompts("all-MiniLM") == {}


def test_data_is_sound():
    names = [profile.name for profile in profiles.load_all()]
    assert len(set(names)) == len(names) >= 10
    for profile in profiles.load_all():
        re.compile(profile.match)
        assert profile.architectures
        assert all(isinstance(text, str) for text in profile.prompts.values())
        assert not profile.prompts or {"query", "document"} <= profile.prompts.keys()


def rename(source, target, **strings):
    """A copy of a tiny model with other or more string metadata."""
    strings = {key.replace("__", "."): value for key, value in strings.items()}
    return gguf_files.copy(source, target, strings=strings)


def test_profile_gives_an_embedder_its_prompts(tiny, tmp_path):
    name = "Jina Embeddings v5 Text Small Retrieval"
    path = rename(tiny("qwen3-last"), tmp_path / "m.gguf", general__name=name)
    with Embedder(path, n_threads=1) as embedder:
        info = embedder.info()
        assert (info.profile, info.prompts_source) == ("jina-embeddings-v5-retrieval", "profile")
        rows = embedder.encode(["Query: a", "Document: a"])
        assert (embedder.encode_query("a") * rows[0]).sum() > 1 - 1e-5
        assert (embedder.encode_document("a") * rows[1]).sum() > 1 - 1e-5


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
