"""Every form in which an input may be written becomes the same list of parts."""

from __future__ import annotations

import base64
import doctest
import importlib
import io
import math
from pathlib import Path

import media_files
import numpy as np
import pytest
from ggembed import InvalidInputError
from ggembed.errors import MediaError
from ggembed.media import Audio, Image, Medium, Pdf, Video, parts_of
from PIL import Image as PilImage

PNG = media_files.make_image("png")
WAV = media_files.make_audio("wav", 0.1)
B64_PNG, B64_WAV = (base64.b64encode(data).decode() for data in (PNG, WAV))
URI_PNG, URI_WAV = f"data:image/png;base64,{B64_PNG}", f"data:audio/wav;base64,{B64_WAV}"


def shown(value: object, **options: bool) -> list[object]:
    """Parts as plain values: text as it is, media as their class and source."""
    parts = parts_of(value, **options)
    return [(type(p), p.source) if isinstance(p, Medium) else p for p in parts]


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("a text", ["a text"]),
        ("", [""]),
        ("cat.png", ["cat.png"]),
        (URI_PNG, [URI_PNG]),
        (Path("a.jpg"), [(Image, Path("a.jpg"))]),
        (Path("a.JPEG"), [(Image, Path("a.JPEG"))]),
        (Path("a.webm"), [(Video, Path("a.webm"))]),
        (Path("a.opus"), [(Audio, Path("a.opus"))]),
        (Path("a.pdf"), [(Pdf, Path("a.pdf"))]),
        ({"type": "text", "text": "t"}, ["t"]),
        ({"type": "input_text", "text": "t"}, ["t"]),
        ({"type": "text", "format": "text", "value": "t"}, ["t"]),
        ({"type": "image_url", "image_url": {"url": URI_PNG, "detail": "low"}}, [(Image, PNG)]),
        ({"type": "image_url", "image_url": URI_PNG}, [(Image, PNG)]),
        ({"type": "input_image", "image_url": URI_PNG}, [(Image, PNG)]),
        (
            {"type": "input_audio", "input_audio": {"data": B64_WAV, "format": "wav"}},
            [(Audio, WAV)],
        ),
        ({"type": "audio_url", "audio_url": {"url": URI_WAV}}, [(Audio, WAV)]),
        (
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            [(Video, b"\0\0\0")],
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
            [(Pdf, b"\0\0\0")],
        ),
        ({"type": "file", "file": {"file_data": B64_PNG, "filename": "a.PNG"}}, [(Image, PNG)]),
        ({"type": "input_file", "file_data": "AAAA", "filename": "a.pdf"}, [(Pdf, b"\0\0\0")]),
        ({"type": "image", "format": "base64", "value": URI_PNG}, [(Image, PNG)]),
        ({"type": "image", "format": "base64", "value": B64_PNG}, [(Image, PNG)]),
        ({"type": "pdf", "value": b"%PDF"}, [(Pdf, b"%PDF")]),
        ({"type": "image", "image": Path("a.png")}, [(Image, Path("a.png"))]),
        ({"text": "t"}, ["t"]),
        ({"image": URI_PNG}, [(Image, PNG)]),
        ({"image": B64_PNG, "text": "t"}, [(Image, PNG), "t"]),
        ({"text": "t", "image": B64_PNG, "id": 7}, ["t", (Image, PNG)]),
        ({"role": "user", "content": "t"}, ["t"]),
        ({"content": [{"type": "text", "text": "t"}, {"image": B64_PNG}]}, ["t", (Image, PNG)]),
        (["a", Path("a.png"), "b"], ["a", (Image, Path("a.png")), "b"]),
        (("a", ["b", {"text": "c"}]), ["a", "b", "c"]),
    ],
)
def test_an_input_becomes_parts(value, parts):
    assert shown(value) == parts


def test_media_and_pil_images_are_parts():
    image, picture = Image(PNG), PilImage.open(io.BytesIO(PNG))
    assert parts_of(["a", image]) == ["a", image]
    (part,) = parts_of(picture)
    assert part.source is picture


def test_with_auto_data_uris_and_existing_files_become_media(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert shown(str(path), auto=True) == [(Image, path)]
    assert shown(["t", str(path)], auto=True) == ["t", (Image, path)]
    assert shown(URI_PNG, auto=True) == [(Image, PNG)]
    assert shown("data:application/pdf;base64,AAAA", auto=True) == [(Pdf, b"\0\0\0")]
    for text in (
        str(tmp_path / "b.png"),
        str(tmp_path),
        "data: the new oil, they say",
        "data:",
        "data:text/plain,abc",
        "a\0.png",
        "a" * 5000 + ".png",
        "see cat.png",
    ):
        assert shown(text, auto=True) == [text]


def test_text_in_content_parts_is_text_also_with_auto(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert shown({"type": "text", "text": str(path)}, auto=True) == [str(path)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "at least one part"),
        ({"content": []}, "at least one part"),
        (
            {"type": "tool_use"},
            r"unknown content part of type 'tool_use'; known .*image_url.*content",
        ),
        ({"foo": 1, "bar": 2}, r"the keys \['bar', 'foo'\]; known are dicts .*image"),
        ({}, r"the keys \[\]"),
        ({"type": "image_url"}, 'part "image_url" has no key "image_url"'),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, 'no key "data", but'),
        ({"type": "image"}, 'content part "image" has no key "value"'),
    ],
)
def test_an_unknown_form_is_an_error_that_lists_the_known_ones(value, message):
    with pytest.raises(InvalidInputError, match=message):
        parts_of(value)


def test_parts_in_parts_without_end_are_an_error():
    value = "a text"
    for _ in range(5000):
        value = {"content": [value]}
    with pytest.raises(InvalidInputError, match="too deep"):
        parts_of(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": "https://example.org/a.png"}, "fetches nothing .* download the file first"),
        ({"type": "image_url", "image_url": {"url": "http://h/a.png"}}, "fetches nothing"),
        ({"image": "file:///etc/passwd"}, "fetches nothing"),
        ({"image": "a.png"}, r"takes data URIs and base64, no paths such as 'a.png': use a path"),
        ({"image": "/etc/passwd"}, "not valid base64"),
        ({"image": "AAA"}, "not valid base64"),
        ({"image": "AA AA"}, "not valid base64"),
        ({"image": "data:image/png;base64,A*=="}, "not valid base64"),
        ({"image": "data:image/png"}, "not a data URI"),
        (Path("a.docx"), r"the suffix '.docx' says no kind .* \.jpg .*\.opus"),
        (Path("README"), "the suffix '' says no kind"),
        (
            {"type": "file", "file": {"file_data": "AAAA", "filename": "a.docx"}},
            "neither its MIME type",
        ),
        ({"type": "file", "file": {"file_data": "AAAA"}}, "nor its filename None"),
    ],
)
def test_media_that_cannot_be_had_are_an_error(value, message):
    with pytest.raises(MediaError, match=message):
        parts_of(value)


@pytest.mark.parametrize("medium", [Image, Audio, Video, Pdf])
@pytest.mark.parametrize("url", ["http://h/a", "https://h/a.png", "s3://b/k", "ftp://h/a"])
def test_no_medium_is_fetched(medium, url):
    with pytest.raises(MediaError, match="fetches nothing"):
        medium(url)


@pytest.mark.parametrize(
    "value", [None, 7, b"bytes", np.zeros((2, 2, 3)), {1, 2}, (np.zeros(4), 16000)]
)
def test_other_types_are_a_type_error(value):
    with pytest.raises(TypeError, match="an input must be a str, a path, an Image"):
        parts_of(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "text", "text": 7}, "text must be a str, got int"),
        ({"type": "image_url", "image_url": {"url": None}}, "source of Image .* got NoneType"),
        ({"type": "input_audio", "input_audio": ["AAAA"]}, "source of Audio .* got list"),
        ({"content": None}, "an input must be .* got NoneType"),
        ({"type": ["text"]}, r"\"type\" of a content part must be a str, got \['text'\]"),
    ],
)
def test_wrong_types_in_content_parts_are_errors_of_the_input(value, message):
    with pytest.raises(InvalidInputError, match=message):
        parts_of(value)


def test_an_input_that_holds_itself_is_an_error():
    loop: list[object] = []
    loop.append(loop)
    message = {"content": loop}
    loop.append(message)
    for value in (loop, message):
        with pytest.raises(InvalidInputError, match="nested too deeply, or part of itself"):
            parts_of(value)


def test_content_parts_may_hold_media_objects():
    image = Image(PNG)
    assert parts_of([{"image": image}, {"type": "image", "value": image}]) == [image, image]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Image(7), TypeError, "the source of Image must be a path, bytes, .* got int"),
        (lambda: Image(io.StringIO("a")), TypeError, "must be binary, got str"),
        (lambda: Audio(np.zeros(9)), TypeError, r"or a tuple \(samples, rate\), got ndarray"),
        (lambda: Pdf(np.zeros(9)), TypeError, "got ndarray"),
        (lambda: Video(PilImage.new("L", (2, 2))), TypeError, "got Image"),
        (lambda: Video("a.mp4", fps=0), InvalidInputError, "fps must be positive, got 0"),
        (lambda: Video("a.mp4", fps="film"), InvalidInputError, '"source" or None, got .film'),
        (lambda: Video([], fps="source"), InvalidInputError, "needs a file"),
        (lambda: Video([], audio=True), InvalidInputError, "frames have no sound track"),
        (lambda: Video("a.mp4", max_frames=0), InvalidInputError, "max_frames must be positive"),
        (lambda: Pdf("a.pdf", dpi=-1), InvalidInputError, "dpi must be positive, got -1"),
        (lambda: Pdf("a.pdf", pages=[0.5]), TypeError, "integer"),
        (lambda: Audio("a.wav", max_seconds=0), InvalidInputError, "max_seconds must be positive"),
        (lambda: Image("a.png", max_pixels=-5), InvalidInputError, "max_pixels must be positive"),
        (lambda: Image("a.png", min_pixels=1 << 63), InvalidInputError, "at most 9.22337e"),
        (lambda: Image("a.png", max_pixels=0.5), TypeError, "max_pixels must be an int, got 0.5"),
        (lambda: Image(""), MediaError, "image: the path is empty"),
        (lambda: Audio("a.wav", max_seconds="9"), TypeError, "must be a number, got '9'"),
        (lambda: Audio("a.wav", max_seconds=math.inf), InvalidInputError, "at most 1.79.* got inf"),
        (lambda: Video("a.mp4", fps=math.nan), InvalidInputError, "fps must be positive, got nan"),
        (lambda: Video("a.mp4", max_frames=None), TypeError, "max_frames must be an int, got None"),
        (lambda: Pdf("a.pdf", dpi=10**400), InvalidInputError, "dpi must be at most 1.79"),
        (lambda: Pdf("a.pdf", dpi=None), TypeError, "dpi must be a number, got None"),
        (lambda: Pdf("a.pdf", password=b"a"), TypeError, "password must be a str, got bytes"),
        (lambda: Pdf("a.pdf", pages=slice("a")), TypeError, "slice indices"),
    ],
)
def test_arguments_that_make_no_sense_are_an_error(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_medium_says_what_it_is():
    assert repr(Image("a.png")) == "<image 'a.png'>"
    assert str(Audio((np.zeros((9, 2)), 8000))) == "audio of shape (9, 2)"
    assert str(Pdf(b"1234")) == "PDF of 4 bytes"
    assert str(Video([PilImage.new("L", (2, 2))])) == "video from list"
    assert str(Image(PilImage.new("L", (3, 2)))) == "image of 3 x 2 pixels"


def test_a_string_that_is_no_path_is_not_shown_whole():
    assert len(str(Image("A" * 100_000))) < 250
    with pytest.raises(MediaError, match=r"AAA\.\.\.AAA") as caught:
        parts_of(Path("A" * 100_000))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("module", ["_inputs", "_parts"])
def test_docstring_examples_run(module):
    results = doctest.testmod(importlib.import_module(f"ggembed.media.{module}"))
    assert results.failed == 0
    assert results.attempted > 0
