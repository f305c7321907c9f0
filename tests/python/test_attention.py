"""Our attention on the CPU against ggml's flash attention, which has keys and values in F16."""

from __future__ import annotations

import pytest


# What F16 loses: values of size 1 have 11 bits, and the largest of some thousand values is near 4.
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n_heads", "n_heads_kv", "n_dims"), [(12, 12, 32), (16, 8, 128)])
def test_rows_are_those_of_ggml(internals, n_heads, n_heads_kv, n_dims, causal):
    ours, theirs, difference = internals.compare_attention(
        lengths=[1, 40, 130, 7],
        n_heads=n_heads,
        n_heads_kv=n_heads_kv,
        n_dims=n_dims,
        causal=causal,
        n_threads=2,
        n_rounds=2,
    )
    assert len(ours) == len(theirs) == 2
    assert 0 < difference < 4e-3
