"""A mutated or truncated media file gives an error of ours or is decoded, never more than that.

No crash, no hang, no other exception, not more memory than `media_worker` says.
GGEMBED_FUZZ_MEDIA sets how many variants of each path through the decoders are tried,
GGEMBED_FUZZ_SEED which ones. Files that break ggembed are kept in the run's temporary folder, which
the failure names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import media_mutations
import pytest
import workers

N_VARIANTS = int(os.environ.get("GGEMBED_FUZZ_MEDIA", "40"))
SEED = int(os.environ.get("GGEMBED_FUZZ_SEED", "1"))
TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def pool() -> Iterator[workers.Pool]:
    with workers.Pool("media_worker.py", TIMEOUT_S) as pool:
        yield pool


@pytest.mark.parametrize("path", media_mutations.PATHS)
def test_a_broken_media_file_is_an_error_or_works(path, pool, tmp_path, capsys):
    kind, bases = media_mutations.PATHS[path]
    good = [make() for make in bases]
    variants = [*good, *media_mutations.variants(path, N_VARIANTS, SEED)]
    files = [(tmp_path / f"{i}-{path}", data) for i, data in enumerate(variants)]
    ends = pool.try_all(files, kind)
    counts = Counter(end for end, _ in ends)
    with capsys.disabled():
        listed = ", ".join(f"{end} {k}" for end, k in counts.most_common())
        print(f"\nfuzz {path}, seed {SEED}: {len(variants)} files: {listed}", end="")
    assert ends[: len(good)] == [("works", "")] * len(good)
    bad = [
        f"{end}: {message} ({file})"
        for (end, message), (file, _) in zip(ends, files, strict=True)
        if end in workers.FINDINGS
    ]
    assert not bad, f"{len(bad)} of {len(ends)} variants, seed {SEED}:\n" + "\n".join(bad)
