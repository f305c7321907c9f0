"""What is tried for each contender before the rounds; the fastest setting plays them.

A setting has two parts: `load` needs a new process, `call` can change in a loaded one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Setting = dict[str, dict[str, Any]]

_MOST_SEQUENCES = 256  # of a context of llama.cpp


@dataclass(frozen=True)
class Facts:
    """What of a model and its texts decides which settings make sense."""

    n_tokens: list[int]  # of each text
    per_call: int | None
    pooling: str
    causal: bool

    @property
    def together(self) -> int:
        """Texts that are there at once."""
        return self.per_call or len(self.n_tokens)

    @property
    def longest(self) -> int:
        return max(self.n_tokens)

    @property
    def splits(self) -> bool:
        """Whether upstream computes a text in pieces, as it does with a cache and last pooling."""
        return self.causal and self.pooling == "last"


def _rounded(n: int) -> int:
    return -(-n // 256) * 256


def _ubatches(facts: Facts) -> list[int]:
    """Upstream's default where it can be, and a large one where there are tokens to fill it."""
    least = 512 if facts.splits else max(512, _rounded(facts.longest))
    total = min(sum(facts.n_tokens), facts.longest * facts.together)
    return [least, 2048] if least < 2048 and total > least else [least]


def _llama_server(facts: Facts) -> list[Setting]:
    least, *larger = _ubatches(facts)
    slots = [n for n in (1, 8, 64) if n == 1 or n <= facts.together]
    made = [(n, least, 1) for n in slots]
    if facts.together >= 32:  # several requests in flight, each with some of the texts
        made.append((slots[-1], least, 8))
    made += [(min(8, slots[-1]), n, 1) for n in larger]
    settings = []
    for n_slots, n_ubatch, in_flight in made:
        # Slots share one cache; 8192 cells are as many as 64 slots get, so that it stays small.
        n_ctx = max(n_ubatch, _rounded(min(n_slots * (facts.longest + 1), 8192)))
        n_ctx = max(n_ctx, _rounded(facts.longest + 1))
        options = ["-np", n_slots, "-ub", n_ubatch, "-b", max(2048, n_ubatch), "-c", n_ctx, "-kvu"]
        settings.append(
            {"load": {"options": [str(x) for x in options]}, "call": {"in_flight": in_flight}}
        )
    return settings


def _llama_embedding(facts: Facts) -> list[Setting]:
    """It makes n_ubatch as large as n_batch and n_ctx unless attention is said to be causal."""
    made = [["-c", n, "-b", n] for n in _ubatches(facts) if n >= facts.longest]
    if facts.splits:
        n_ctx = max(2048, _rounded(facts.longest))
        made.append(["-c", n_ctx, "-b", n_ctx, "-ub", 512, "--attention", "causal"])
    return [{"load": {}, "call": {"options": [str(x) for x in options]}} for options in made]


def _llama_cpp_python(facts: Facts) -> list[Setting]:
    """It cuts texts to n_batch."""
    made = [(n, n) for n in _ubatches(facts) if n >= facts.longest]
    if facts.splits:
        made.append((max(2048, _rounded(facts.longest)), 512))
    flash = [False] * len(made) + [True]
    settings = [
        {"n_ctx": n_batch, "n_batch": n_batch, "n_ubatch": n_ubatch, "flash_attn": on}
        for (n_batch, n_ubatch), on in zip([*made, made[-1]], flash, strict=True)
    ]
    return [{"load": setting, "call": {}} for setting in settings]


def _padded(facts: Facts) -> list[Setting]:
    """Batch sizes whose batches have up to 16 000 tokens."""
    mean = sum(facts.n_tokens) / len(facts.n_tokens)
    sizes = [
        n for n in (1, 4, 16, 64, 256) if n == 1 or (n <= facts.together and n * mean <= 16_000)
    ]
    return [{"load": {}, "call": {"batch_size": n}} for n in sizes[-3:]]


def _only(_: Facts) -> list[Setting]:
    return [{"load": {}, "call": {}}]


_CANDIDATES: dict[str, Callable[[Facts], list[Setting]]] = {
    "ggembed": _only,
    "llama-server": _llama_server,
    "llama-embedding": _llama_embedding,
    "llama-cpp-python": _llama_cpp_python,
    "sentence-transformers": _padded,
    "onnxruntime": _padded,
}


def candidates(contender: str, facts: Facts) -> list[Setting]:
    """Settings worth trying, those of one process next to each other."""
    name = contender if contender in _CANDIDATES else contender.rpartition("-")[0]
    return sorted(_CANDIDATES[name](facts), key=lambda setting: str(setting["load"]))
