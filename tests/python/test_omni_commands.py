"""The command line with images, sound, video and PDF: what is taken, in which order, where to."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
from ggembed import (
    InvalidInputError,
    _embed_inputs,
    _folders,
    _media_options,
)
from ggembed._embed_inputs import FOLDER, Given, InputFile, Inputs, as_folders


def no_error(error):
    raise AssertionError(error)


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def links(target, link):
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError as err:
        pytest.skip(f"no links here: {err}")


def test_walk_goes_by_name_and_leaves_out_what_is_hidden(tmp_path):
    make(tmp_path, "b.png", "a/z.png", "a/b/c.png", "a.png", ".hidden.png", ".git/x.png", "B.png")
    assert list(_folders.walk(tmp_path, no_error)) == [
        "B.png",
        "a/b/c.png",
        "a/z.png",
        "a.png",
        "b.png",
    ]
    make(tmp_path, ".cache/in.png")
    assert list(_folders.walk(tmp_path / ".cache", no_error)) == ["in.png"]


def test_walk_enters_a_folder_once_whatever_links_to_it(tmp_path):
    make(tmp_path, "a/1.png", "b/2.png")
    links(tmp_path, tmp_path / "a" / "loop")
    links(tmp_path / "b", tmp_path / "a" / "other")
    links(tmp_path / "a", tmp_path / "b" / "other")
    links(tmp_path / "nothing", tmp_path / "broken")
    links(tmp_path / "self", tmp_path / "self")
    links(tmp_path / "b" / "2.png", tmp_path / "c.png")
    assert list(_folders.walk(tmp_path, no_error)) == ["a/1.png", "a/other/2.png", "c.png"]


def test_walk_goes_on_behind_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/2.png")
    iterdir, found = Path.iterdir, []

    def refusing(path):
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert list(_folders.walk(tmp_path, found.append)) == ["b/2.png"]
    assert [error.filename for error in found] == [str(tmp_path / "a")]
    with pytest.raises(AssertionError, match="Permission denied"):
        list(_folders.walk(tmp_path, no_error))


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("*.png", ["a.png", ".png"], ["b/a.png", "a.PNG", "apng"]),
        ("**/*.png", ["a.png", "b/a.png", "b/c/a.png"], ["a.jpg", "a.png/b"]),
        ("b/**", ["b/a", "b/c/d"], ["b", "c/b", "bb/a"]),
        ("**", ["a", "b/c"], []),
        ("./b/?.png", ["b/a.png"], ["b/aa.png", "a.png"]),
        ("**/b/**/*", ["b/a", "x/b/y/z"], ["a", "xb/a"]),
        ("[a-c]1", ["a1", "c1"], ["d1", "-1"]),
        ("[!a-c]1", ["d1", "-1"], ["a1", "/1"]),
        ("[]x]", ["]", "x"], ["[]x]"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("[", ["["], ["a"]),
        ("a+(b)|c{1}.png", ["a+(b)|c{1}.png"], ["ab", "c"]),
        ("a\nb", ["a\nb"], ["a b"]),
    ],
)
def test_patterns_know_names_from_folders(pattern, good, bad):
    matches = _folders.matcher([pattern])
    assert [path for path in (*good, *bad) if matches(path)] == good


def test_one_of_several_patterns_is_enough_and_a_wrong_one_is_named():
    matches = _folders.matcher(["*.png", "*.jpg"])
    assert list(map(matches, ["a.png", "a.jpg", "a.gif"])) == [True, True, False]
    with pytest.raises(InvalidInputError, match=r"'\[z-a\]' is not a pattern"):
        _folders.matcher(["[z-a]"])


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("3", (2,)),
        ("1,3", (0, 2)),
        ("2-4", slice(1, 4)),
        ("-4", slice(0, 4)),
        ("2-", slice(1, None)),
        ("7, 1-2", (6, 0, 1)),
    ],
)
def test_pages_are_counted_from_1(text, pages):
    assert _media_options.pages(text) == pages


@pytest.mark.parametrize("text", ["", "0", "-", "3-2", "1,,2", "a", "1-2-3", "1,2-", "-0"])
def test_other_lists_of_pages_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a list of pages|an open range"):
        _media_options.pages(text)


def inputs_of(*given, patterns=(), said=None):
    say = no_error if said is None else said.append
    return Inputs(given, patterns, on_error=no_error, say=say)


def items(inputs, **options):
    options = {"column": "text", "keep": None, "batch_size": 512} | options
    return [item for batch in inputs.table(**options).batches for item in batch.texts]


def test_folder_gives_all_files_of_known_types_and_tells_of_the_others(tmp_path):
    names = ("a.PNG", "b.wav", "c.mkv", "d.pdf", "e.txt", "f.docx", "g.docx", "h")
    folder = str(make(tmp_path, *names))
    said = []
    found = items(inputs_of(Given(FOLDER, folder), said=said))
    assert [(file.kind, Path(file.path).name) for file in found] == [
        ("image", "a.PNG"),
        ("audio", "b.wav"),
        ("video", "c.mkv"),
        ("pdf", "d.pdf"),
        ("text", "e.txt"),
    ]
    assert said == [
        f"warning: files of no known type in {folder}, which have no row: 3 (.docx 2, none 1)"
    ]


def test_folder_without_inputs_is_told_of(tmp_path):
    said = []
    assert items(inputs_of(Given(FOLDER, str(tmp_path)), patterns=["*.png"], said=said)) == []
    assert said == [f"warning: {tmp_path} has no files that can be embedded"]


def test_table_has_paths_kinds_and_texts_in_the_order_that_was_given(tmp_path):
    make(tmp_path, "x/b.png", "x/a.wav")
    given = (
        Given("text", "first"),
        Given("pdf", "missing.pdf"),
        Given(FOLDER, str(tmp_path / "x")),
        Given("text", "last"),
    )
    inputs = inputs_of(*given)
    table = inputs.table("body", None, 512)
    assert table.columns == ("path", "kind", "body")
    (batch,) = table.batches
    paths = [str(tmp_path / "x" / name) for name in ("a.wav", "b.png")]
    assert batch.columns == {
        "path": [None, "missing.pdf", *paths, None],
        "kind": ["text", "pdf", "audio", "image", "text"],
        "body": ["first", None, None, None, "last"],
    }
    assert inputs.main_columns("body") == ("path", "body")
    assert inputs_of(*given[1:3]).main_columns("body") == ("path",)
    with pytest.raises(InvalidInputError, match="the command line has no column 'id'"):
        inputs.table("body", ("id",), 512)


def test_batches_are_as_small_as_their_inputs_are_heavy(tmp_path):
    folder = make(tmp_path, *(f"{i:03}.mp4" for i in range(40)), *(f"{i}.txt" for i in range(3)))
    table = inputs_of(Given(FOLDER, str(folder))).table("text", (), 512)
    assert [len(batch) for batch in table.batches] == [16, 16, 8 + 3]
    table = inputs_of(Given(FOLDER, str(folder))).table("text", (), 2)
    assert {len(batch) for batch in table.batches} == {1, 2}


def test_large_folder_is_read_as_it_is_needed(tmp_path, monkeypatch):
    folder = make(tmp_path, *(f"{i:04}.png" for i in range(500)))
    n_seen = 0
    at = InputFile.at

    def counting(path, kind):
        nonlocal n_seen
        n_seen += 1
        return at(path, kind)

    monkeypatch.setattr(InputFile, "at", counting)
    batches = inputs_of(Given(FOLDER, str(folder))).table("text", ("path",), 512).batches
    assert len(next(batches)) == 128
    assert n_seen <= 129
    assert sum(map(len, batches)) == 500 - 128


def test_file_that_changed_is_another_input(tmp_path):
    path = make(tmp_path, "a.png") / "a.png"
    before = InputFile.at(str(path), "image")
    assert InputFile.at(str(path), "image") == before
    os.utime(path, ns=(1, 1))
    assert InputFile.at(str(path), "image") != before
    assert InputFile.at(str(tmp_path / "no.png"), "image").n_bytes == -1


def test_text_file_is_read_without_its_last_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n two\r\n\r\n")
    assert InputFile.at(str(path), "text").read_text() == "one\n two"
    path.write_bytes(b"one \xff")
    with pytest.raises(InvalidInputError, match=r"a\.txt is not valid UTF-8 at byte 4"):
        InputFile.at(str(path), "text").read_text()
    with pytest.raises(InvalidInputError, match=r"cannot read .*b\.txt: No such file"):
        InputFile.at(str(tmp_path / "b.txt"), "text").read_text()


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (["a.png"], "vision"),
        (["a.mp4", "b.pdf", "c.txt"], "vision"),
        (["a.wav", "c.txt"], "audio"),
        (["a.wav", "b/c.pdf"], "omni"),
        (["a.txt", "b.docx"], "text"),
    ],
)
def test_modality_is_what_the_inputs_need(tmp_path, names, modality):
    folder = make(tmp_path, *names)
    assert inputs_of(Given(FOLDER, str(folder))).modality() == modality
    kinds = [_embed_inputs.kind_of(name) for name in names]
    files = [Given(kind, name) for kind, name in zip(kinds, names, strict=True) if kind]
    assert inputs_of(*files).modality() == modality


def test_only_what_looks_like_a_path_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "docs/a.png"))
    words = ["docs/", "docs", "other/", ".", "", "docs/a.png", "no\0path/", "long/" * 2000]
    said = []
    given = as_folders([Given("text", word) for word in words], all_texts=False, say=said.append)
    assert [one.value for one in given] == words
    assert [one.value for one in given if one.kind == FOLDER] == ["docs/", "."]
    assert said == ["warning: docs is taken as a text; docs/ would be the folder"]

    given = [Given("text", "docs"), Given("image", "docs/a.png")]
    assert as_folders(given, all_texts=True, say=no_error) == (Given(FOLDER, "docs"), given[1])
    with pytest.raises(InvalidInputError, match="'other' is not a folder"):
        as_folders([Given("text", "other")], all_texts=True, say=no_error)


def test_options_of_a_kind_go_to_its_files():
    decoding = _media_options.Decoding(fps=2.0, max_frames=8, pages=(0,), max_pixels=9)
    image = decoding.load(InputFile("image", "a.png", 1, 1))
    video = decoding.load(InputFile("video", "a.mp4", 1, 1))
    document = decoding.load(InputFile("pdf", "a.pdf", 1, 1))
    assert image.max_pixels == 9
    assert (video.fps, video.max_frames, video.max_pixels) == (2.0, 8, 9)
    assert (document.pages, document.dpi) == ((0,), 150)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--image", "a.png", "-f", "x"), "files and --file exclude each other"),
        (("--pdf", "a.pdf", "--input-format", "csv"), "files and --input-format exclude each"),
        (("--image", "a.png", "--glob", "*"), "--glob needs a folder"),
        (("--pages", "0", "--pdf", "a.pdf"), "'0' is not a list of pages such as 1-3,7"),
        (("--max-image-pixels", "0"), "must be at least 1, got 0"),
        (("--dpi", "-1"), "must be above 0, got -1"),
        (("--fps", "inf"), "must be above 0, got inf"),
        (("--fps", "fast"), "invalid rate value: 'fast'"),
        (("--image", "a.png"), "the demo model takes texts only: name a model with -m"),
    ],
)
def test_wrong_usage_of_media_is_status_2(run, args, message):
    status, out, err = run("embed", *args)
    assert (status, out) == (2, b"")
    assert message in err


def test_npy_has_kept_columns_in_a_file_beside_it(run, tiny, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"id": 7, "text": "one"}\n{"id": 8, "text": "two"}\n')
    target = tmp_path / "rows.npy"
    common = ("embed", "-m", tiny("bert-mean"), "--threads", 1, "-f", source)
    assert run(*common, "-o", target, "--keep", "id")[0] == 0
    assert np.load(target).shape == (2, 32)
    beside = (tmp_path / "rows.npy.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in beside] == [{"id": 7}, {"id": 8}]
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "rows.npy", "rows.npy.jsonl"}
