"""Inputs of several parts: rows in place of ids, and what becomes of texts in them."""

from __future__ import annotations

import gguf_files
import numpy as np
import pytest
import tiny_towers
from ggembed import _native, quantize

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
    session = internals.Compute(str(tiny("qwen2vl-mean")), plain=True)  # with a cache
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
    packed = internals.Compute(str(tiny("qwen2vl-mean")))
    apart = packed.run([-1] * 16, t, [0] * 16, rows, heights, widths) - whole
    assert np.abs(apart).max() < 5e-3  # a cache has its keys and values in F16
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
    session = internals.Compute(str(tiny("qwen2vl-mean")), plain=True)
    image = np.random.default_rng(6).standard_normal((4, 64)).astype(np.float32)
    places = {"heights": [0, 0, 1, 1], "widths": [0, 1, 0, 1]}
    ids = [40, 41, 42]
    session.run([-1] * 4, [0] * 4, [0] * 4, image, **places)
    by_ids = session.run(ids, [2, 3, 4], [0] * 3, continues=True)
    session.run([-1] * 4, [0] * 4, [0] * 4, image, **places)
    rows = session.token_rows(ids)
    by_rows = session.run([-1] * 3, [2, 3, 4], [0] * 3, rows, [2, 3, 4], [2, 3, 4], continues=True)
    np.testing.assert_array_equal(by_ids, by_rows)


# Text models with a tower that fits them.
WITH_TOWERS = {
    "qwen3-last": ("qwen3vl", 48),
    "eurobert-last": ("qwen3vl", 64),
    "qwen2vl-mean": ("qwen25vl", 64),
}


class Loaded:
    """A model with a tower, an image and a video for it, without the Python API."""

    def __init__(self, tiny, folder, name):
        tower, width = WITH_TOWERS[name]
        mmproj = tiny_towers.make(tower, folder / "mmproj.gguf", width=width)
        self.model = _native.Model(
            str(tiny(name)),
            device="cpu",
            n_gpu_layers=0,
            mmproj=[str(mmproj)],
            mmap=True,
            progress=None,
        )
        rng = np.random.default_rng(11)
        limits = {"min_pixels": 1, "max_pixels": 128 * 128}
        pixels = rng.integers(0, 256, (96, 70, 3), np.uint8)
        self.image = _native.Media.image(self.model, pixels, **limits)
        self.videos = []
        if tower != "qwen25vl":  # which takes none
            frames = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
            seconds = np.array([0.0, 0.1, 0.25])
            self.videos.append(
                _native.Media.video(self.model, iter(frames), 3, (64, 64), seconds, **limits)
            )

    def tokens(self, inputs, **options):
        parts = [part for each in inputs for part in each]
        offsets = np.cumsum([0, *map(len, inputs)])
        return _native.Tokens(self.model, b"", offsets, parts=parts, **options)

    def rows(self, inputs, *, pooling="default", **engine):
        tokens = self.tokens(inputs)
        n_rows = len(tokens.ids()) if pooling == "none" else len(inputs)
        out = np.zeros((n_rows, self.model.info()["n_embd"]), np.float32)
        state = _native.Engine(self.model, attention="default", n_threads=1, **engine)
        try:
            state.encode(tokens, out, pooling=pooling)
        finally:
            state.close()
        return out


def distance(a, b):
    """The largest cosine distance of unit rows."""
    return 1 - (a.astype(np.float64) * b).sum(axis=-1).min()


@pytest.fixture(scope="module", params=WITH_TOWERS)
def loaded(request, tiny, tmp_path_factory):
    return Loaded(tiny, tmp_path_factory.mktemp("towers"), request.param)


def test_a_row_with_media_is_the_same_alone_and_in_company(loaded):
    image, videos = ("media", loaded.image), [("media", video) for video in loaded.videos]
    inputs = [
        [("text", b"a red bicycle "), image, ("text", b" in the rain")],
        [("text", b"nothing but text")],
        [*videos, image, ("text", b"a video")],
        [image],
        [("text", b"more text, which is longer"), image, image, *videos],
    ]
    together = loaded.rows(inputs)
    assert np.isfinite(together).all()
    for i, each in enumerate(inputs):
        assert distance(loaded.rows([each]), together[i : i + 1]) < 1e-5
    for settings in ({"n_tower_batch": 1}, {"n_ubatch": 16}, {"n_seq_max": 1}):
        assert distance(loaded.rows(inputs, **settings), together) < 1e-5
    assert (together[[0, 4]] @ together[3]).max() < 0.999
    # jina-embeddings-v4's mean is over the image, which does not see the text behind it
    is_v4 = loaded.model.info()["architecture"] == "qwen2vl"
    assert (distance(together[2:3], together[3:4]) < 1e-5) == is_v4


def test_texts_beside_media_keep_their_token_rows(loaded):
    inputs = [[("text", b"only text")], [("media", loaded.image)], [("text", b"and this")]]
    tokens = loaded.tokens(inputs)
    rows = np.split(loaded.rows(inputs, pooling="none"), tokens.offsets()[1:-1])
    for i in (0, 2):
        alone = loaded.rows([inputs[i]], pooling="none")
        assert distance(rows[i], alone) < 1e-5


def test_what_stands_around_media_comes_from_the_vocabulary(loaded):
    def plain(text):
        offsets = np.array([0, len(text)])
        tokens = _native.Tokens(loaded.model, text, offsets, add_special=False)
        return tokens.ids().tolist()

    def special(text):
        return loaded.tokens([[("template", text)]], add_special=False).ids().tolist()

    image = [("text", b"of <|vision_end|>"), ("media", loaded.image)]
    ids = loaded.tokens([image], prompt=b"Document: ").ids().tolist()
    head, rows = plain(b"Document: of <|vision_end|>"), [-1] * loaded.image.n_rows
    if loaded.model.info()["architecture"] == "eurobert":
        assert ids == head + rows + special(b"<|end_of_text|>")
        return
    [start], [end] = special(b"<|vision_start|>"), special(b"<|vision_end|>")
    assert ids == [*head, start, *rows, end]
    for video in loaded.videos:
        ids = loaded.tokens([[("media", video)]], prompt=b"Document: ").ids().tolist()
        pair = [start, *[-1] * (video.n_rows // 2), end]
        stamps = plain(b"Document: <0.1 seconds>"), plain(b"<0.2 seconds>")
        assert ids == [*stamps[0], *pair, *stamps[1], *pair]
