"""Inputs of several parts: rows in place of ids, and what becomes of texts in them."""

from __future__ import annotations

import gguf_files
import numpy as np
import pytest
from ggembed import quantize

# Architectures whose graph takes rows, and one file of each.
MODELS = {
    "qwen3-last": "qwen3",
    "eurobert-last": "eurobert",
    "qwen2vl-mean": "qwen2vl",
    "qwen2-bidirectional-mean": "qwen2",
    "llama-last": "llama",
    "llama-embed-mean": "llama-embed",
}
# Every type that the token table can be given.
TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_K", "q5_1", "q5_K", "q5_0", "q4_1", "q4_K", "q4_0"),
    *("iq4_nl", "iq4_xs", "q3_K", "iq3_s", "iq3_xxs", "q2_K", "tq2_0", "tq1_0"),
)


def places(lengths):
    """Positions and sequence numbers of a micro-batch."""
    positions = [t for n in lengths for t in range(n)]
    return positions, [s for s, n in enumerate(lengths) for _ in range(n)]


def both_ways(session, ids, positions, sequences):
    """The rows of a micro-batch computed from ids and from the rows that they stand for."""
    rows = session.token_rows(ids)
    grid = {"heights": positions, "widths": positions} if session.has_mrope else {}
    by_ids = session.run(ids, positions, sequences)
    by_rows = session.run([-1] * len(ids), positions, sequences, rows, **grid)
    return by_ids, by_rows


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_alike_with_ids_and_with_their_rows(internals, tiny, name):
    session = internals.Compute(str(tiny(name)))
    assert session.cannot_take_rows == ""
    positions, sequences = places([7, 1, 12])
    ids = np.random.default_rng(7).integers(0, 200, len(positions)).tolist()
    by_ids, by_rows = both_ways(session, ids, positions, sequences)
    np.testing.assert_array_equal(by_ids, by_rows)


@pytest.mark.parametrize(
    "name", ["bert-mean", "gemma-embedding-mean", "gemma3-last", "t5encoder-mean"]
)
def test_other_architectures_say_that_they_take_none(internals, tiny, name):
    session = internals.Compute(str(tiny(name)))
    assert "take no media" in session.cannot_take_rows


@pytest.mark.parametrize("kind", TYPES)
def test_rows_of_tokens_of_every_type_are_those_of_the_graph(internals, tiny, tmp_path, kind):
    path = tmp_path / "model.gguf"
    quantize(tiny("qwen3-wide-last"), path, "F16", token_embedding_type=kind)
    session = internals.Compute(str(path))
    positions, sequences = places([9, 4])
    ids = [0, 1, 255, 256, 300, 17, 17, 400, 2, 99, 98, 97, 96]
    by_ids, by_rows = both_ways(session, ids, positions, sequences)
    np.testing.assert_array_equal(by_ids, by_rows)


def test_rows_of_tokens_are_found_in_split_files(internals, tiny, tmp_path):
    gguf_files.copy(tiny("qwen3-last"), tmp_path / "split.gguf", split_tensors=5)
    first, *others = sorted(tmp_path.glob("split-*.gguf"))
    assert others
    found = internals.Compute(str(first)).token_rows([3, 0, 300])
    np.testing.assert_array_equal(
        found, internals.Compute(str(tiny("qwen3-last"))).token_rows([3, 0, 300])
    )


def test_a_grid_of_rows_may_be_cut_anywhere(internals, tiny):
    """Two tokens, an image of 3 x 4 rows, two tokens; with positions of three parts."""
    session = internals.Compute(str(tiny("qwen2vl-mean")))
    assert session.has_mrope
    rows = np.random.default_rng(5).standard_normal((16, 64)).astype(np.float32)
    t = [0, 1, *[2] * 12, 6, 7]
    heights = [0, 1, *(2 + i // 4 for i in range(12)), 6, 7]
    widths = [0, 1, *(2 + i % 4 for i in range(12)), 6, 7]

    def run(begin, end, continues):
        part = slice(begin, end)
        none = [-1] * (end - begin)
        return session.run(
            none, t[part], [0] * (end - begin), rows[part], heights[part], widths[part], continues
        )

    whole = run(0, 16, continues=False)
    for cut in (1, 2, 7, 13, 14, 15):
        parts = [run(0, cut, continues=False), run(cut, 16, continues=True)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    plain = session.run([-1] * 16, t, [0] * 16, rows, t, t)
    assert np.abs(plain[:2] - whole[:2]).max() < 1e-6
    assert np.abs(plain[5] - whole[5]).max() > 1e-2, "the place in the image must matter"
    # a row sees those before it in its image, and none behind it
    rows[9] += 1
    changed = run(0, 16, continues=False)
    np.testing.assert_allclose(changed[:9], whole[:9], atol=1e-6)
    assert np.abs(changed[10:] - whole[10:]).max(axis=1).min() > 1e-3


def test_ids_go_on_behind_rows_with_positions_of_three_parts(internals, tiny):
    session = internals.Compute(str(tiny("qwen2vl-mean")))
    image = np.random.default_rng(6).standard_normal((4, 64)).astype(np.float32)
    places = {"heights": [0, 0, 1, 1], "widths": [0, 1, 0, 1]}
    ids = [40, 41, 42]
    session.run([-1] * 4, [0] * 4, [0] * 4, image, **places)
    by_ids = session.run(ids, [2, 3, 4], [0] * 3, continues=True)
    session.run([-1] * 4, [0] * 4, [0] * 4, image, **places)
    rows = session.token_rows(ids)
    by_rows = session.run([-1] * 3, [2, 3, 4], [0] * 3, rows, [2, 3, 4], [2, 3, 4], continues=True)
    np.testing.assert_array_equal(by_ids, by_rows)
