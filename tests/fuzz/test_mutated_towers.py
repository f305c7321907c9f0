"""A mutated or truncated projector file gives an error of ours or a working tower, never a crash.

GGEMBED_FUZZ_TOWERS sets how many variants are tried, GGEMBED_FUZZ_SEED which ones. Files that break
ggembed are kept in the run's temporary folder, which the failure names.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import make_tiny_models
import mutations
import pytest
import tiny_towers
import workers

N_VARIANTS = int(os.environ.get("GGEMBED_FUZZ_TOWERS", "300"))
SEED = int(os.environ.get("GGEMBED_FUZZ_SEED", "1"))
TIMEOUT_S = 20.0
WIDTH = 48

SHARES = {"structure": 0.6, "truncation": 0.15, "bits": 0.25}


@pytest.fixture(scope="module")
def pool(build_dir) -> Iterator[workers.Pool]:
    with workers.Pool("tower_worker.py", TIMEOUT_S, str(build_dir / "tests")) as pool:
        yield pool


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A text model, and towers for it."""
    folder = tmp_path_factory.mktemp("towers")
    towers = {
        name: tiny_towers.make(name, folder / f"{name}.gguf", kind=kind, width=WIDTH)
        for name, kind in (("qwen3vl", "F32"), ("qwen25vl", "F16"), ("qwen25o", "Q8_0"))
    }
    return {"base": make_tiny_models.make("qwen3-last", folder / "base.gguf"), **towers}


def try_all(
    pool: workers.Pool, variants: list[mutations.Variant], folder: Path, base: Path
) -> list[tuple[str, str]]:
    named = [(folder / f"variant-{i}.gguf", v.data) for i, v in enumerate(variants)]
    return pool.try_all(named, str(base), str(WIDTH))


def test_the_unchanged_towers_work(pool, files, tmp_path):
    towers = [n for n in files if n != "base"]
    plain = [mutations.Variant(n, files[n].read_bytes()) for n in towers]
    assert try_all(pool, plain, tmp_path, files["base"]) == [("works", "")] * len(plain)


@pytest.mark.parametrize("kind", SHARES)
def test_a_broken_tower_is_an_error_or_works(kind, pool, files, tmp_path, capsys):
    draw = random.Random(f"{SEED}/towers/{kind}")
    make = {name: getattr(mutations, name) for name in SHARES}[kind]
    towers = [n for n in files if n != "base"]
    share = round(N_VARIANTS * SHARES[kind] / len(towers))
    variants = [v for n in towers for v in make(n, files[n].read_bytes(), draw, share)]
    ends = try_all(pool, variants, tmp_path, files["base"])
    counts = Counter(end for end, _ in ends)
    with capsys.disabled():
        listed = ", ".join(f"{end} {k}" for end, k in counts.most_common())
        print(f"\nfuzz towers, {kind}, seed {SEED}: {len(variants)} variants: {listed}")
    bad = [
        f"{end} {variants[i].name} -> {message} ({tmp_path / f'variant-{i}.gguf'})"
        for i, (end, message) in enumerate(ends)
        if end in workers.FINDINGS
    ]
    assert not bad, f"{len(bad)} of {len(ends)} variants, seed {SEED}:\n" + "\n".join(bad)
