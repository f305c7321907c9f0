"""A mutated or truncated GGUF gives an error of ours or a working model, never a crash or a hang.

GGEMBED_FUZZ_VARIANTS sets how many variants are tried, GGEMBED_FUZZ_SEED which ones. Files that
break ggembed are kept in the run's temporary folder, which the failure names.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import make_tiny_adapters
import make_tiny_models
import make_tiny_rerankers
import mutations
import pytest
import workers

N_VARIANTS = int(os.environ.get("GGEMBED_FUZZ_VARIANTS", "360"))
SEED = int(os.environ.get("GGEMBED_FUZZ_SEED", "1"))
TIMEOUT_S = 20.0

SHARES = {"meaning": 0.5, "structure": 0.25, "truncation": 0.1, "bits": 0.15}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make_tiny_models.make(name, folder / f"{name}.gguf") for name in mutations.BASES}


def try_all(
    variants: list[mutations.Variant], folder: Path, role: str = "model", base: Path | str = ""
) -> list[tuple[str, str]]:
    """Loads and runs the variants; results in their order."""
    files = ((folder / f"variant-{i}.gguf", variant.data) for i, variant in enumerate(variants))
    with workers.Pool("worker.py", TIMEOUT_S) as pool:
        return pool.try_all(files, role, str(base))


def test_the_unchanged_files_work(files, tmp_path):
    plain = [mutations.Variant(n, p.read_bytes()) for n, p in files.items()]
    assert try_all(plain, tmp_path) == [("works", "")] * len(plain)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """An adapter with its base, and rerankers."""
    folder = tmp_path_factory.mktemp("parts")
    base = make_tiny_models.build("qwen3-last")
    return {
        "base": make_tiny_models.write(base, folder / "base.gguf"),
        "adapter": make_tiny_adapters.write(
            make_tiny_adapters.build(base, "first"), folder / "adapter.gguf"
        ),
        **{
            name: make_tiny_rerankers.make(name, folder / f"{name}.gguf")
            for name in ("bert", "modern-bert", "qwen3")
        },
    }


def bad_ends(
    variants: list[mutations.Variant], ends: list[tuple[str, str]], folder: Path
) -> list[str]:
    """What the variants that are findings were and came to."""
    return [
        f"{end} [{i}] {variants[i].name} -> {message} ({folder / f'variant-{i}.gguf'})"
        for i, (end, message) in enumerate(ends)
        if end in workers.FINDINGS
    ]


@pytest.mark.parametrize("name", ["adapter", "bert", "modern-bert", "qwen3"])
def test_a_broken_adapter_or_reranker_is_an_error_or_works(name, parts, tmp_path, capsys):
    role = "adapter" if name == "adapter" else "reranker"
    data, draw = parts[name].read_bytes(), random.Random(f"{SEED}/{name}")
    plain = [mutations.Variant(name, data)]
    assert try_all(plain, tmp_path, role, parts["base"]) == [("works", "")]
    n = N_VARIANTS // 12
    variants = [
        *mutations.structure(name, data, draw, n),
        *mutations.truncation(name, data, draw, n // 3),
        *mutations.bits(name, data, draw, n // 3),
    ]
    ends = try_all(variants, tmp_path, role, parts["base"])
    with capsys.disabled():
        listed = ", ".join(f"{end} {k}" for end, k in Counter(e for e, _ in ends).most_common())
        print(f"\nfuzz {role} {name}, seed {SEED}: {len(variants)} variants: {listed}")
    bad = bad_ends(variants, ends, tmp_path)
    assert not bad, f"{len(bad)} of {len(ends)} variants, seed {SEED}:\n" + "\n".join(bad)


@pytest.mark.parametrize("kind", mutations.KINDS)
def test_a_broken_file_is_an_error_or_works(kind, files, tmp_path, capsys):
    n = round(N_VARIANTS * SHARES[kind])
    variants = mutations.variants(kind, files, tmp_path / "scratch.gguf", n, SEED)
    ends = try_all(variants, tmp_path)
    counts = Counter(end for end, _ in ends)
    with capsys.disabled():
        listed = ", ".join(f"{end} {k}" for end, k in counts.most_common())
        print(f"\nfuzz {kind}, seed {SEED}: {len(variants)} variants: {listed}")
    bad = bad_ends(variants, ends, tmp_path)
    assert not bad, f"{len(bad)} of {len(ends)} variants, seed {SEED}:\n" + "\n".join(bad)
