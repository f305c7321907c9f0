"""Media through the public API: one call, whatever is in it."""

from __future__ import annotations

import base64
import re
import signal
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import media_files
import numpy as np
import pytest
from ggembed import (
    AbortedError,
    Audio,
    ClosedError,
    Embedder,
    Encoded,
    Image,
    InvalidInputError,
    MediaError,
    MediaLimits,
    MissingDecoderError,
    Pdf,
    TextTooLongError,
    TokenRows,
    UnsupportedError,
    Video,
    _calls,
    _media_calls,
    demo_omni,
)
from ggembed.media import _av

DIM = 64


def write(folder: Path, name: str, layout: str = "small") -> demo_omni.OmniFiles:
    limits = {"min_pixels": 64 * 64, "max_pixels": 192 * 192}
    return demo_omni.write_models(folder, layout=layout, name=name, **limits)


def opened(files: demo_omni.OmniFiles, **options) -> Embedder:
    mmproj = [file for file in (files.vision, files.audio) if file is not None]
    return Embedder(files.model, n_threads=1, device="cpu", **{"mmproj": mmproj, **options})


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> demo_omni.OmniFiles:
    """A causal model, named like the one for retrieval."""
    return write(tmp_path_factory.mktemp("small"), "jina-embeddings-v5-omni-small-retrieval")


@pytest.fixture(scope="module")
def omni(small):
    with opened(small) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A bidirectional model without a cache."""
    with opened(write(tmp_path_factory.mktemp("nano"), "plain", "nano")) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def v4(tmp_path_factory):
    name = "jina-embeddings-v4-retrieval"
    with opened(write(tmp_path_factory.mktemp("v4"), name, "v4")) as embedder:
        yield embedder


@pytest.fixture
def media_threads():
    """Threads that decode media and are alive; one that was just told to end gets time for it."""

    def found():
        end = time.monotonic() + 2
        while threads := [t for t in threading.enumerate() if t.name == "ggembed-media"]:
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        return threads

    return found


@pytest.fixture
def seen(monkeypatch):
    """Prompt and parts of every input that went to the tokenizer, in the order of the inputs."""
    inputs = []
    plain = _media_calls.tokenize

    def spy(call, model, data, offsets, prompt, errors, parts):
        for a, b in pairwise(offsets):
            inputs.append((prompt, [(k, "*" if k == "media" else c) for k, c in parts[a:b]]))
        return plain(call, model, data, offsets, prompt, errors, parts)

    monkeypatch.setattr(_media_calls, "tokenize", spy)
    return inputs


def picture(width=60, height=40, seed=0, **options) -> Image:
    return Image(media_files.pixels(width, height, seed), **options)


def sound(seconds=1.0) -> Audio:
    return Audio((media_files.tone(seconds, 16000), 16000))


def clip(n_frames=4) -> Video:
    return Video(media_files.frames(n_frames))


def document(n_pages=2) -> Pdf:
    return Pdf(media_files.make_pdf([(60, 80)] * n_pages))


def seven():
    return [
        "a text of some words",
        picture(60, 40),
        picture(200, 150, seed=1),
        sound(11),
        clip(),
        document(),
        ["what is this? ", picture(64, 64, seed=2)],
    ]


# Every way in which an input may be bad, and what its message says.
BAD = {
    "cannot be decoded": (lambda: Image(b"this is no image"), "no image of a known format"),
    "empty": (lambda: Image(np.zeros((0, 9, 3), np.uint8)), "no pixels"),
    "too narrow": (lambda: picture(1, 300), "200"),
    "too short": (lambda: sound(0.02), "30 ms"),
    "encrypted": (lambda: Pdf(media_files.make_pdf(password="secret")), "password"),
    "no frames": (lambda: Video(media_files.make_audio("m4a")), "no video"),
    "no video": (lambda: Video(b"this is no video"), "no known container"),
    "too long": (lambda: ["word " * 200_000, picture()], "tokens"),
    "a bomb": (lambda: Image(media_files.png_of_size(60_000, 60_000)), "max_image_pixels"),
    "cut off": (lambda: Image(media_files.make_image("jpg", 640, 480)[:3000]), "cut off|truncated"),
    "no PDF": (lambda: Pdf(b"this is no PDF"), "finds no pages"),
}


def lowest_cosine(a, b):
    a, b = np.atleast_2d(a, b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min(np.sum(a * b, axis=1) / norms))


# One call


@pytest.mark.parametrize("name", ["omni", "nano"])
def test_seven_inputs_give_the_rows_of_seven_calls(name, request):
    embedder = request.getfixturevalue(name)
    inputs = seven()
    rows = embedder.encode(inputs)
    assert rows.shape == (7, DIM)
    alone = np.stack([embedder.encode([one])[0] for one in inputs])
    assert lowest_cosine(rows, alone) >= 0.9999
    assert np.max(rows @ rows.T - np.eye(7)) < 0.9999  # they differ from each other


@pytest.mark.parametrize("name", ["omni", "nano"])
def test_bad_media_cost_their_own_rows_only(name, request):
    embedder = request.getfixturevalue(name)
    good, bad = seven(), [make() for make, _ in BAD.values()]
    places = range(1, 2 * len(bad), 2)
    mixed = [part for i, one in enumerate(bad) for part in (good[i % len(good)], one)]
    encoded = embedder.encode(mixed, on_error="collect")
    assert list(encoded.errors) == list(places)
    for (i, error), (_, message) in zip(encoded.errors.items(), BAD.values(), strict=True):
        assert isinstance(error, TextTooLongError if message == "tokens" else MediaError)
        assert error.input_index == i
        assert str(i) in str(error)
        assert re.search(message, str(error))
    assert np.isnan(encoded.rows[places]).all()
    kept = mixed[::2]
    assert lowest_cosine(encoded.rows[::2], embedder.encode(kept)) >= 0.9999
    assert (encoded.n_tokens[::2] > 0).all()


def test_loading_both_projectors_changes_no_bit(small, omni):
    images, sounds, texts = [picture(), picture(90, 70)], [sound(), sound(2.5)], ["one", "two"]
    with opened(small, mmproj=small.vision) as seeing, opened(small, mmproj=small.audio) as hearing:
        np.testing.assert_array_equal(seeing.encode(images), omni.encode(images))
        np.testing.assert_array_equal(hearing.encode(sounds), omni.encode(sounds))
        for embedder in (seeing, hearing):
            np.testing.assert_array_equal(embedder.encode(texts), omni.encode(texts))


def test_the_same_call_gives_the_same_bits(omni):
    np.testing.assert_array_equal(omni.encode(seven()), omni.encode(seven()))


# What an input may be


def test_one_input_gives_one_row(omni):
    part = {"type": "text", "text": "a text"}
    for one in (picture(), sound(), clip(), document(), part):
        assert omni.encode(one).shape == (DIM,)
        assert omni.encode([one]).shape == (1, DIM)


def test_content_parts_are_what_they_stand_for(omni):
    png = base64.b64encode(media_files.make_image("png")).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
    image = Image(media_files.make_image("png"))
    np.testing.assert_array_equal(omni.encode(part), omni.encode(image))
    fused = [{"type": "text", "text": "see: "}, part]
    np.testing.assert_array_equal(omni.encode([fused]), omni.encode([["see: ", image]]))


def test_paths_are_media_and_strings_only_if_asked(omni, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(media_files.make_image("png"))
    row = omni.encode(Image(path))
    np.testing.assert_array_equal(omni.encode(path), row)
    np.testing.assert_array_equal(omni.encode([path])[0], row)
    np.testing.assert_array_equal(omni.encode(str(path), auto=True), row)
    text = omni.encode(str(path))
    assert lowest_cosine(text, row) < 0.99
    np.testing.assert_allclose(omni.encode(["no path", str(path)], auto=True)[1], row, atol=1e-5)


def test_fused_parts_keep_their_order(omni):
    a, b = picture(seed=1), picture(seed=2)
    rows = omni.encode([[a, b], [b, a], [a, "x", b], [a, b]])
    assert lowest_cosine(rows[0], rows[3]) > 0.99999
    assert max(lowest_cosine(rows[0], rows[i]) for i in (1, 2)) < 0.9999


def test_fused_texts_are_one_text(omni):
    np.testing.assert_allclose(
        omni.encode([["one ", "two"], picture()])[0], omni.encode("one two"), atol=1e-5
    )


def test_a_tuple_or_an_iterator_of_inputs_is_a_list_of_them(omni):
    rows = omni.encode(["a", picture()])
    np.testing.assert_array_equal(omni.encode(("a", picture())), rows)
    np.testing.assert_array_equal(omni.encode(iter(["a", picture()])), rows)


def test_options_of_one_medium_leave_the_others_alone(omni):
    encoded = omni.encode(
        [picture(max_pixels=64 * 64), picture(min_pixels=128 * 128), picture()], return_info=True
    )
    few, many, own = encoded.n_tokens.tolist()
    assert few <= own < many
    np.testing.assert_allclose(encoded.rows[2], omni.encode(picture()), atol=1e-5)


@pytest.mark.parametrize("wrong", [5, None, 2.5, b"bytes", np.zeros((4, 4, 3), np.uint8), object()])
def test_what_is_no_input_is_named_with_its_place(omni, wrong):
    kind = type(wrong).__name__
    for options in ({}, {"on_error": "collect"}):
        with pytest.raises(TypeError, match=rf"input 2: .* got {kind}"):
            omni.encode(["a", picture(), wrong], **options)
        with pytest.raises(TypeError, match=rf"input 1: .* got {kind}"):
            omni.encode(["a", ["b", wrong]], **options)


def test_unknown_content_parts_are_errors_of_their_input(omni):
    with pytest.raises(InvalidInputError, match="input 1: unknown content part"):
        omni.encode(["a", {"typo": "text"}])
    loop = [picture()]
    loop.append(loop)
    wrong = [{"typo": "text"}, [], {"type": "image_url", "image_url": None}, loop]
    encoded = omni.encode(["a", *wrong], on_error="collect")
    assert list(encoded.errors) == [1, 2, 3, 4]
    assert len(list(omni.encode_iter(["a", picture()]))) == 2
    with pytest.raises(InvalidInputError, match="input 1: an input is nested too deeply"):
        list(omni.encode_iter(["a", loop]))


def test_lists_are_no_inputs_of_a_model_for_texts(qwen):
    with pytest.raises(TypeError, match="texts must be str, got list at index 1"):
        qwen.encode(["a", ["b", "c"]])


# Towers


def test_a_missing_tower_is_named_with_the_remedy(small, qwen):
    with opened(small, mmproj=small.vision) as seeing:
        with pytest.raises(UnsupportedError, match=r"input 1: audio .* needs audio, .*mmproj="):
            seeing.encode(["a", sound()])
        encoded = seeing.encode(["a", sound(), picture()], on_error="collect")
        assert list(encoded.errors) == [1]
        assert encoded.n_tokens[1] == 0
        with pytest.raises(UnsupportedError, match=r"video .* needs audio, .*modality='omni'"):
            seeing.encode(Video(media_files.make_video("mp4", 2), audio=True))
    for medium in (picture(), clip(), document()):
        with pytest.raises(UnsupportedError, match=r"needs vision, .*modality='vision'"):
            qwen.encode(medium)


def test_texts_alone_never_touch_media(omni, monkeypatch):
    expected = omni.encode(["one", "two"])
    monkeypatch.setattr(_media_calls, "run", lambda *_: pytest.fail("media"))
    monkeypatch.setattr(_media_calls, "parts_of", lambda *_: pytest.fail("media"))
    np.testing.assert_array_equal(omni.encode(["one", "two"]), expected)
    assert omni.encode("one").shape == (DIM,)
    assert omni.encode([]).shape == (0, DIM)


# Prompts and templates


def test_prompts_for_retrieval_stand_before_media(omni, seen):
    omni.encode_query([picture(), "a", ["Query: b", picture()], ["b", picture()]])
    omni.encode_document(picture())
    omni.encode(picture())
    omni.encode_query(picture(), prompt="")
    media, query = ("media", "*"), b"Query: "
    assert seen == [
        (query, [media]),
        (query, [("text", b"a")]),
        (query, [("text", b"Query: b"), media]),
        (query, [("text", b"b"), media]),
        (b"Document: ", [media]),
        (b"", [media]),
        (b"", [media]),
    ]


def test_a_prompt_is_text_before_the_medium(omni):
    row = omni.encode_query(picture())
    np.testing.assert_allclose(omni.encode([["Query: ", picture()]])[0], row, atol=1e-6)
    assert lowest_cosine(omni.encode(picture()), row) < 0.9999


def test_other_tasks_have_no_prompt_before_media(tmp_path, seen):
    for task in ("text-matching", "clustering", "classification"):
        name = f"jina-embeddings-v5-omni-nano-{task}"
        with opened(write(tmp_path / task, name, "nano")) as embedder:
            embedder.encode_query(picture())
            embedder.encode_document(picture())
    assert seen == [(b"", [("media", "*")])] * 6


def test_chat_is_a_turn_of_the_user_with_the_prompt_inside(omni, seen):
    start, end = ("template", b"<|im_start|>user\n"), ("template", b"<|im_end|>\n")
    media, query = ("media", "*"), ("text", b"Query: ")
    inputs = [picture(), "a", clip(), ["Query: b", sound()]]
    rows = omni.encode_query(inputs, media_template="chat")
    assert sorted(seen, key=str) == sorted(
        [
            (b"", [start, query, media, end]),
            (b"Query: ", [("text", b"a")]),
            (b"Query: ", [media]),
            (b"", [start, ("text", b"Query: b"), media, end]),
        ],
        key=str,
    )
    bare = omni.encode_query(inputs, media_template="bare")
    np.testing.assert_allclose(rows[1:3], bare[1:3], atol=1e-5)
    assert max(lowest_cosine(rows[i], bare[i]) for i in (0, 3)) < 0.9999


def test_images_of_v4_stand_in_the_sentence_of_its_card(v4, seen):
    assert v4.info().media_template == "chat"
    v4.encode_query([picture(), "a", picture(), "b"])
    start, media = ("template", b"<|im_start|>user\n"), ("media", "*")
    end = ("template", b"Describe the image.<|im_end|>\n")
    assert sorted(seen, key=str) == sorted(
        [(b"", [start, media, end])] * 2 + [(b"Query: ", [("text", t)]) for t in (b"a", b"b")],
        key=str,
    )


def test_inputs_with_several_prompts_stay_in_order(v4):
    inputs = [picture(), "a", picture(seed=1), "b", picture(seed=2)]
    rows = v4.encode_query(inputs)
    alone = np.stack([v4.encode_query(one) for one in inputs])
    assert lowest_cosine(rows, alone) >= 0.9999


def test_templates_that_a_model_lacks_are_refused(nano):
    with pytest.raises(ValueError, match="media_template must be one of 'bare', got 'chat'"):
        nano.encode(picture(), media_template="chat")


def test_special_tokens_in_texts_beside_media_stay_text(omni):
    info = [
        omni.encode([[text, picture()]], return_info=True).n_tokens[0]
        for text in ("<|vision_end|>", "x")
    ]
    assert info[0] > info[1]


# Options of every call


def test_rows_may_be_cut_converted_and_written_elsewhere(omni):
    inputs = [picture(), "a", sound()]
    full = omni.encode(inputs)
    cut = omni.encode(inputs, truncate_dim=32)
    np.testing.assert_allclose(
        cut, full[:, :32] / np.linalg.norm(full[:, :32], axis=1, keepdims=True), atol=1e-6
    )
    bits = omni.encode(inputs, precision="ubinary")
    np.testing.assert_array_equal(bits, np.packbits(full > 0, axis=1))
    assert omni.encode(inputs, precision="int8").dtype == np.int8
    assert omni.encode(inputs, precision="float16").dtype == np.float16
    out = np.zeros((5, DIM + 3), np.float32)
    assert omni.encode(inputs, out=out[1:4, :DIM]).base is not None
    np.testing.assert_array_equal(out[1:4, :DIM], full)
    assert not out[0].any()
    one = np.zeros(DIM, np.float32)
    assert omni.encode(picture(), out=one) is one
    assert one.any()
    with pytest.raises(ValueError, match=r"out must have shape \(3, 64\)"):
        omni.encode(inputs, out=np.zeros((2, DIM), np.float32))


def test_one_medium_alone_has_no_ranges_of_its_own(omni):
    with pytest.raises(ValueError, match="needs ranges"):
        omni.encode(picture(), precision="int8")


def test_reports_count_the_tokens_of_media(omni):
    inputs = [picture(64, 64), sound(11), "a", document(2)]
    encoded = omni.encode(inputs, return_info=True)
    assert isinstance(encoded, Encoded)
    assert encoded.n_tokens.tolist()[:3] == [6, 277, 1]
    np.testing.assert_array_equal(encoded.n_tokens, encoded.n_tokens_original)
    assert not encoded.truncated.any()


def test_token_rows_are_those_of_tokens_and_of_media(omni):
    inputs = ["a b c", picture(64, 64), sound(0.5)]
    counts = omni.encode(inputs, return_info=True).n_tokens
    rows = omni.encode(inputs, output_value="token_embeddings")
    assert isinstance(rows, TokenRows)
    assert [len(one) for one in rows] == counts.tolist()
    np.testing.assert_allclose([one[-1] for one in rows], omni.encode(inputs), atol=1e-5)
    assert omni.encode(picture(64, 64), output_value="token_embeddings").shape == (6, DIM)
    bad = [inputs[0], Image(b"bad"), *inputs[1:]]
    encoded = omni.encode(bad, output_value="token_embeddings", on_error="collect")
    assert [len(one) for one in encoded.token_rows] == [counts[0], 0, *counts[1:]]


def test_an_input_with_media_that_is_too_long_is_refused_and_a_text_cut(omni):
    encoded = omni.encode(
        ["one two three", picture(192, 192), picture(64, 64)],
        max_tokens=10,
        overflow="truncate",
        on_error="collect",
    )
    assert [type(error) for error in encoded.errors.values()] == [TextTooLongError]
    assert list(encoded.errors) == [1]
    with pytest.raises(TextTooLongError, match=r"\b2\b") as caught:
        omni.encode(["one", "two", picture(192, 192)], max_tokens=10)
    assert caught.value.input_index == 2


def test_progress_counts_inputs(omni, capsys):
    calls = []
    omni.encode([*seven(), *seven()], progress=lambda *call: calls.append(call))
    assert calls[-1] == (14, 14)
    assert calls == sorted(calls)
    omni.encode([picture()], show_progress_bar=True)
    assert "1/1 inputs" in capsys.readouterr().err


def test_rows_of_media_and_texts_are_compared(omni):
    assert omni.similarity(omni.encode_query("a"), omni.encode_document(seven())).shape == (1, 7)


def test_adapters_and_scales_do_not_stand_in_the_way(omni):
    with pytest.raises(ValueError, match="no adapter is named 'x'"):
        omni.encode(picture(), adapter="x")


# Streams


def test_a_stream_may_hold_media(omni):
    inputs = seven()
    rows = list(omni.encode_iter(iter(inputs), chunk_size=3))
    assert lowest_cosine(np.stack(rows), omni.encode(inputs)) >= 0.9999


def test_places_in_a_stream_are_told(omni):
    inputs = ["a"] * 4 + [Image(b"bad"), picture()]
    results = list(omni.encode_iter(inputs, chunk_size=2, on_error="collect"))
    assert [list(one.errors) for one in results] == [[], [], [], [], [0], []]
    assert results[4].errors[0].input_index == 4
    assert str(results[4].errors[0]).startswith("input 4: ")
    with pytest.raises(TypeError, match="input 4: "):
        list(omni.encode_iter(["a"] * 4 + [["b", 5]], chunk_size=2))
    with pytest.raises(TypeError, match="got int at index 4"):
        list(omni.encode_iter(["a"] * 4 + [5], chunk_size=2))


def test_sources_in_memory_fill_a_chunk_of_a_stream():
    assert _media_calls.n_chars("text") == 4
    assert _media_calls.n_chars(Image("a.png")) == 2048
    big = Image(np.zeros((1024, 1024, 3), np.uint8))
    assert _media_calls.n_chars(["text", big]) == 4 + 2048 + 3 * 2**20 // 64
    url = {"type": "image_url", "image_url": {"url": "x" * 640_000}}
    assert _media_calls.n_chars(url) > 10_000


# Errors, ends, threads


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"too long"}))  # known once media are decoded
def test_the_first_bad_medium_is_raised(omni, name, media_threads):
    with pytest.raises(MediaError, match=r"^input 2: ") as caught:
        omni.encode(["a", picture(), BAD[name][0](), Image(b"also bad")])
    assert caught.value.input_index == 2
    assert media_threads() == []


def test_limits_are_those_of_the_call_or_of_the_embedder(small, omni):
    tight = MediaLimits(max_image_pixels=100)
    with pytest.raises(MediaError, match="max_image_pixels is 100"):
        omni.encode(picture(), limits=tight)
    with opened(small, limits=tight) as careful:
        with pytest.raises(MediaError, match="max_image_pixels is 100"):
            careful.encode(picture())
        assert careful.encode(picture(), limits=MediaLimits()).shape == (DIM,)
    with pytest.raises(TypeError, match="limits must be MediaLimits, got dict"):
        omni.encode("a", limits={"max_image_pixels": 100})


def test_a_missing_package_is_an_error_of_the_input(omni, monkeypatch):
    def refuse(*_):
        raise MissingDecoderError('audio needs the package av: pip install "ggembed[media]"')

    monkeypatch.setattr(_media_calls, "prepare", refuse)
    with pytest.raises(MissingDecoderError, match=r"^input 1: audio needs the package av: "):
        omni.encode(["a", sound()])
    with pytest.raises(MissingDecoderError, match=r"^input 3: audio needs the package av: "):
        list(omni.encode_iter(["a", "b", "c", sound()], chunk_size=2))
    encoded = omni.encode(["a", sound()], on_error="collect")
    assert type(encoded.errors[1]) is MissingDecoderError
    assert not np.isnan(encoded.rows[0]).any()


def test_invalid_unicode_beside_media_is_an_error_of_its_input(omni):
    inputs = [picture(), "a\ud83cb", ["\ud83c", picture()], "fine"]
    with pytest.raises(InvalidInputError, match=r"input 1: .*U\+D83C at position 1"):
        omni.encode(inputs)
    encoded = omni.encode(inputs, on_error="collect")
    assert list(encoded.errors) == [1, 2]
    assert np.isfinite(encoded.rows[[0, 3]]).all()


def slow_prepare(monkeypatch, seconds=0.02):
    """Lets media be ready in an order other than theirs."""
    plain, begun = _media_calls.prepare, []

    def prepare(medium, model, limits):
        begun.append(medium)
        time.sleep(seconds * (3 - len(begun) % 4))
        return plain(medium, model, limits)

    monkeypatch.setattr(_media_calls, "prepare", prepare)
    return begun


def test_order_does_not_depend_on_the_threads(small, omni, monkeypatch, media_threads):
    inputs = [picture(seed=i) for i in range(24)]
    expected = omni.encode(inputs)
    slow_prepare(monkeypatch)
    with opened(small, media_threads=8) as embedder:
        np.testing.assert_array_equal(embedder.encode(inputs), expected)
    assert media_threads() == []


def test_media_are_prepared_only_so_far_ahead(small, monkeypatch):
    monkeypatch.setattr(_media_calls, "_CHUNK_BYTES", 4 * 3 * 96 * 96)
    begun = slow_prepare(monkeypatch, 0)
    ahead, chunks = [], []
    plain = _calls.Encoding.run

    def watch(step, engine):
        time.sleep(0.05)  # the threads run on as far as they may
        chunks.append(len(step.rows))
        ahead.append(len(begun) - sum(chunks))
        return plain(step, engine)

    monkeypatch.setattr(_calls.Encoding, "run", watch)
    with opened(small, media_threads=3) as embedder:
        rows = embedder.encode([picture(96, 96, seed=i) for i in range(40)])
    assert rows.shape == (40, DIM)
    assert Counter(chunks)[4] == 10
    assert max(ahead) <= 4 + 3
    assert max(ahead) >= 4


def test_an_exception_of_the_callers_stops_everything(omni, media_threads):
    def stop(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        omni.encode([picture(seed=i) for i in range(20)], progress=stop)
    assert media_threads() == []


def test_ctrl_c_stops_everything_while_media_are_decoded(omni, monkeypatch, media_threads):
    begun = []

    def prepare(*_):
        begun.append(1)
        if len(begun) == 1:
            signal.raise_signal(signal.SIGINT)  # which Python handles on the main thread
        time.sleep(0.1)
        return []

    monkeypatch.setattr(_media_calls, "prepare", prepare)
    with pytest.raises(KeyboardInterrupt):
        omni.encode([picture()] * 500)
    assert media_threads() == []
    assert len(begun) < 500


@pytest.mark.parametrize(("end", "error"), [("abort", AbortedError), ("close", ClosedError)])
def test_a_call_that_waits_for_media_can_be_ended(small, monkeypatch, end, error, media_threads):
    for collects in (False, True):
        with opened(small, media_threads=1) as embedder:
            plain = _media_calls.prepare

            def prepare(medium, model, limits, embedder=embedder, plain=plain):
                if medium.source.shape[0] == 41:
                    getattr(embedder, end)()
                    time.sleep(0.1)
                return plain(medium, model, limits)

            monkeypatch.setattr(_media_calls, "prepare", prepare)
            monkeypatch.setattr(_media_calls, "_CHUNK_INPUTS", 2)
            inputs = [picture(), picture(), picture(60, 41), picture(), picture()]
            if not collects:
                with pytest.raises(error):
                    embedder.encode(inputs)
            else:
                encoded = embedder.encode(inputs, on_error="collect")
                assert {2, 3, 4} <= encoded.errors.keys()
                assert all(type(found) is error for found in encoded.errors.values())
                assert np.isnan(encoded.rows[list(encoded.errors)]).all()
            monkeypatch.setattr(_media_calls, "prepare", plain)
    assert media_threads() == []


def test_decoding_ends_with_its_call(small, monkeypatch, media_threads, capfd):
    monkeypatch.setattr(_av, "_MAX_STEPS", 1 << 60)
    endless = Audio(media_files.make_audio("wav", 0.5) + bytes(1 << 25))
    with opened(small) as embedder:
        threading.Timer(0.3, embedder.abort).start()
        started = time.monotonic()
        with pytest.raises(AbortedError):
            embedder.encode([endless, "a text"])
        assert time.monotonic() - started < 10
    assert media_threads() == []
    assert capfd.readouterr() == ("", "")


def test_many_threads_may_encode_media_at_once(omni):
    inputs = seven()
    expected = omni.encode(inputs)
    found = {}

    def work(i):
        found[i] = omni.encode(inputs)

    threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in found.values():
        assert lowest_cosine(rows, expected) >= 0.9999
    assert len(found) == 4
