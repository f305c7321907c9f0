"""Pre-tokenizers on std::regex: long runs do not overflow the stack, long texts split rightly."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re

import numpy as np
import pytest
from ggembed import Embedder

# default: several short regexes; tekken and the like: long ones with lookaheads; qwen2: no regex.
PRE_TOKENIZERS = ["default", "tekken", "gpt-4o", "deepseek-llm", "deepseek-v3", "bloom", "qwen2"]


@pytest.fixture(scope="module")
def model_with(tmp_path_factory):
    import make_tiny_models as tiny_models

    folder = tmp_path_factory.mktemp("pre")

    def path(pre):
        file = folder / f"{pre}.gguf"
        if not file.exists():
            model = tiny_models.build("qwen3-last")
            vocab = dataclasses.replace(model.vocab, pre=pre)
            tiny_models.write(dataclasses.replace(model, vocab=vocab), file)
        return file

    return path


def mixed_text(n_words: int) -> str:
    words = ["word", "the", "naïve", "字字字", "2024", "a_b", "--->", "\n\n", "\t", "don't", "x"]
    words += ["...", "123456789", "   ", "é", "Ω", "мир", "🙂", "https://a.b/c?d=1", "CamelCase"]
    rng = random.Random(5)
    return " ".join(rng.choice(words) for _ in range(n_words))


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_long_text_has_the_tokens_of_its_parts(model_with, pre):
    text = mixed_text(6000)  # some 30 000 characters: many windows of the bounded search
    # Between two plain letters with one space, no pre-token reaches across.
    cuts = [m.start() + 1 for m in re.finditer(r"[a-z] [a-z]", text)]
    cuts = [0, *cuts[::7], len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
    assert max(map(len, parts)) < 1500
    with Embedder(model_with(pre), n_threads=1) as embedder:
        whole = embedder.tokenize(text)
        pieces = embedder.tokenize(parts)
    assert len(parts) > 50
    np.testing.assert_array_equal(whole, np.concatenate(pieces))


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_long_run_ends_in_tokens_and_not_in_a_crash(model_with, pre, run_python):
    program = """
import sys
from ggembed import Embedder
with Embedder(sys.argv[1], n_threads=1) as embedder:
    for unit in ("-", " ", "a", "1", "\\n", "é", "字", "- "):
        assert embedder.count_tokens(unit * 100_000) > 0
print("done")
"""
    done = run_python(program, model_with(pre))
    assert done.stdout.strip() == "done", f"exit status {done.returncode}: {done.stderr[-500:]}"
