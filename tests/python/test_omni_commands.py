"""The command line with images, sound, video and PDF: what is taken, in which order, where to."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import command
from ggembed import (
    Embedder,
    InvalidInputError,
    _demo_media,
    _embed_inputs,
    _folders,
    _media_options,
    _model_commands,
    demo_omni,
)
from ggembed._embed_inputs import FOLDER, Given, InputFile, Inputs, as_folders
from ggembed.media import Audio, Image, MediaLimits, Pdf, Video


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
    assert list(_folders.walk(tmp_path, no_error)) == [
        "a/1.png",
        "a/other/2.png",
        "broken",
        "c.png",
        "self",
    ]


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


def test_link_to_nowhere_is_an_input_that_cannot_be_read(tmp_path):
    links(tmp_path / "gone", tmp_path / "a.png")
    (file,) = items(inputs_of(Given(FOLDER, str(tmp_path))))
    assert (file.kind, file.n_bytes) == ("image", -1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    (file,) = items(inputs_of(Given(FOLDER, str(tmp_path))))
    with pytest.raises(InvalidInputError, match="is not a regular file"):
        file.read_text()


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
    words = ["docs/", "docs", "other/", ".", "", "a.png", "no\0path.png", "long/" * 2000 + ".png"]
    said = []
    given = as_folders([Given("text", word) for word in words], all_texts=False, say=said.append)
    assert [one.value for one in given] == words
    assert [one.value for one in given if one.kind == FOLDER] == ["docs/", "."]
    assert said == ["warning: docs is taken as a text; docs/ would be the folder"]

    given = [Given("text", "docs"), Given("image", "docs/a.png")]
    assert as_folders(given, all_texts=True, say=no_error) == (Given(FOLDER, "docs"), given[1])
    with pytest.raises(InvalidInputError, match="'other' is not a folder"):
        as_folders([Given("text", "other")], all_texts=True, say=no_error)


def test_files_that_are_taken_as_texts_are_told_of(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "a.png", "b.pdf", "c.txt"))
    for words, more in (
        (["a text", "a.png", "c.txt"], ""),
        (["a.png", "b.pdf"], " (and 1 like it)"),
    ):
        said = []
        given = [Given("text", word) for word in words]
        assert as_folders(given, all_texts=False, say=said.append) == tuple(given)
        assert said == [f"warning: a.png is taken as a text{more}; --image a.png would be the file"]


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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random model with projectors, for small images."""
    folder = tmp_path_factory.mktemp("models")
    return demo_omni.write_models(folder, min_pixels=4096, max_pixels=16384)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """One file of each kind."""
    return _demo_media.write(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def omni(model):
    with Embedder(model.model, modality="omni", n_threads=1) as embedder:
        yield embedder


@pytest.fixture
def folder(tmp_path, media):
    """A folder with a file of each kind, a bad one and an unknown one; the names of the good."""
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    for path in media:
        shutil.copy(path, root / "deep" if path == media.sound else root)
    (root / "note.txt").write_text("a note\n")
    (root / "other.docx").write_text("what is this")
    return root


@pytest.fixture
def embed(run, model):
    """Runs the command with the model: (status, stdout, stderr)."""

    def embed(*args, **options):
        return run("embed", "-m", model.model, "--threads", 1, *args, **options)

    return embed


def rows_of(omni, folder):
    """The paths of a folder's files, and their rows."""
    found = {
        "deep/tone.wav": Audio(folder / "deep" / "tone.wav"),
        "gradient.png": Image(folder / "gradient.png"),
        "note.txt": "a note",
        "pages.pdf": Pdf(folder / "pages.pdf"),
        "square.mp4": Video(folder / "square.mp4"),
    }
    return [str(folder / name) for name in found], omni.encode(list(found.values()))


def check_rows(rows, expected):
    # F16 weights: what stands in the same micro-batch moves rows by some 1e-4.
    np.testing.assert_allclose(np.array(list(rows), np.float32), expected, atol=1e-3)


def read(path):
    """Paths and rows of a file in any of the formats."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        return table["path"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)
    if path.suffix == ".npy":
        beside = path.with_name(f"{path.name}.jsonl").read_text().splitlines()
        return [json.loads(line)["path"] for line in beside], np.load(path)
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        empty = [np.nan] * 64
        rows = np.array([line["embedding"] or empty for line in lines], np.float32)
        return [line["path"] for line in lines], rows
    header, *lines = csv.reader(io.StringIO(path.read_text()))
    assert header[0] == "path"
    return [line[0] for line in lines], np.array([line[1:] for line in lines], np.float32)


FORMATS = ["parquet", "npy", "csv", "jsonl"]


@pytest.mark.parametrize("form", FORMATS)
def test_folder_has_a_row_and_its_path_for_each_file(embed, omni, folder, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    target = tmp_path / f"rows.{form}"
    status, out, err = embed(f"{folder}/", "-o", target)
    assert (status, out) == (0, b"")
    assert err == (
        f"ggembed: warning: files of no known type in {folder}/, which have no row: 1 (.docx 1)\n"
    )
    paths, expected = rows_of(omni, folder)
    found, rows = read(target)
    assert found == paths
    check_rows(rows, expected)


def test_files_and_texts_come_in_the_order_of_the_command_line(embed, omni, media):
    args = ("a text", "--pdf", media.document, "--image", media.image, "--text", "another")
    status, out, err = embed(*args, "--audio", media.sound, "--video", media.video)
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.decode().splitlines()]
    assert [(line["path"], line["text"]) for line in lines] == [
        (None, "a text"),
        (str(media.document), None),
        (str(media.image), None),
        (None, "another"),
        (str(media.sound), None),
        (str(media.video), None),
    ]
    inputs = ["a text", Pdf(media.document), Image(media.image), "another"]
    inputs += [Audio(media.sound), Video(media.video)]
    check_rows((line["embedding"] for line in lines), omni.encode(inputs))


def test_pattern_chooses_files_and_keep_columns(embed, folder):
    status, out, err = embed(folder, "--glob", "**/*.p[dn]*", "--keep", "kind,path")
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.decode().splitlines()]
    assert [(line["kind"], Path(line["path"]).name) for line in lines] == [
        ("image", "gradient.png"),
        ("pdf", "pages.pdf"),
    ]


def test_folder_of_texts_needs_no_projectors(run, tiny, bert, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    target = tmp_path / "rows.npy"
    args = ("-m", tiny("bert-mean"), "--threads", 1, tmp_path, "--glob", "*.txt")
    status, _, err = run("embed", *args, "-o", target, "--on-error", "collect")
    assert status == 0
    assert "input 1: " in err
    assert "b.txt is not valid UTF-8 at byte 0" in err
    rows = np.load(target)
    check_rows(rows[:1], bert.encode(["one"]))
    assert np.isnan(rows[1]).all()


def test_bad_file_is_named_and_ends_the_run(embed, folder, tmp_path):
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    status, out, err = embed(folder / "", "-o", tmp_path / "rows.npy")
    assert (status, out) == (1, b"")
    assert "bad.png' is cut off" in err
    status, _, err = embed("--image", tmp_path / "missing.png")
    assert status == 1
    assert "missing.png' cannot be read: No such file" in err


@pytest.mark.parametrize("form", FORMATS)
def test_bad_files_have_no_row_and_the_others_theirs(embed, omni, folder, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    paths, expected = rows_of(omni, folder)
    (folder / "a-bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "z-empty.wav").touch()
    target = tmp_path / f"rows.{form}"
    status, _, err = embed(f"{folder}/", "-o", target, "--on-error", "collect")
    assert status == 0
    assert "a-bad.png' is cut off" in err
    assert "z-empty.wav' is empty" in err
    assert "2 of 7 inputs have no row" in err
    if form == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(target)
        found = table["path"].to_pylist()
        rows = [row or [np.nan] * 64 for row in table["embedding"].to_pylist()]
    else:
        found, rows = read(target)
    assert found == [str(folder / "a-bad.png"), *paths, str(folder / "z-empty.wav")]
    check_rows(rows[1:-1], expected)
    assert np.isnan(np.array([rows[0], rows[-1]], np.float32)).all()


@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_run_over_files_continues_where_it_ended(embed, omni, folder, tmp_path, form):
    target = tmp_path / f"rows.{form}"
    args = (f"{folder}/", "-o", target, "--batch-size", 1)
    good = (folder / "note.txt").read_bytes()
    (folder / "note.txt").write_bytes(b"\xff")
    status, _, err = embed(*args)
    assert status == 1
    assert f"2 rows are in {target}.partial; --resume continues" in err
    assert not target.exists()

    (folder / "note.txt").write_bytes(good)
    picture = folder / "gradient.png"
    times = picture.stat().st_atime_ns, picture.stat().st_mtime_ns
    os.utime(picture, ns=(1, 1))
    status, _, err = embed(*args, "--resume")
    assert status == 1
    assert "the input of its 2 rows has changed" in err
    os.utime(picture, ns=times)
    status, _, err = embed(*args, "--resume", "--dpi", 72)
    assert status == 1
    assert "the options was" in err

    assert embed(*args, "--resume")[0] == 0
    paths, expected = rows_of(omni, folder)
    found, rows = read(target)
    assert found == paths
    check_rows(rows, expected)
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_killed_run_over_a_folder_continues_to_the_same_file(model, media, embed, tmp_path):
    folder, target, whole = tmp_path / "in", tmp_path / "rows.npy", tmp_path / "whole.npy"
    folder.mkdir()
    for i in range(60):
        shutil.copy(media.image, folder / f"{i:02}.png")
    args = (f"{folder}/", "--batch-size", 1)
    state = tmp_path / "rows.npy.partial.json"
    common = ("embed", "-m", model.model, "--threads", 1, *args, "-o", target)
    with subprocess.Popen(command(*common), stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 60
        while process.poll() is None and not state.exists():
            assert time.monotonic() < limit
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    assert 1 <= json.loads(state.read_text())["rows"] < 60

    assert embed(*args, "-o", target, "--resume") == (0, b"", "")
    assert embed(*args, "-o", whole) == (0, b"", "")
    assert target.read_bytes() == whole.read_bytes()
    beside = tmp_path / "rows.npy.jsonl"
    assert beside.read_bytes() == (tmp_path / "whole.npy.jsonl").read_bytes()
    assert len(beside.read_text().splitlines()) == 60
    names = {"in", "rows.npy", "rows.npy.jsonl", "whole.npy", "whole.npy.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_options_of_media_reach_the_decoders(embed, omni, media):
    args = ("--pages", "2-", "--dpi", 40, "--fps", 2, "--max-frames", 4, "--max-seconds", 0.5)
    files = ("--pdf", media.document, "--video", media.video, "--audio", media.sound)
    status, out, _ = embed(*files, "--image", media.image, *args, "--max-pixels", 5000)
    assert status == 0
    rows = [json.loads(line)["embedding"] for line in out.decode().splitlines()]
    inputs = [
        Pdf(media.document, pages=slice(1, None), dpi=40, max_pixels=5000),
        Video(media.video, fps=2, max_frames=4, max_pixels=5000),
        Audio(media.sound, max_seconds=0.5),
        Image(media.image, max_pixels=5000),
    ]
    check_rows(rows, omni.encode(inputs))


def test_chat_template_is_an_option(run, media, tmp_path):
    name = "jina-embeddings-v5-omni-small-retrieval"  # whose profile has one
    model = demo_omni.write_models(tmp_path, name=name, min_pixels=4096, max_pixels=16384).model
    args = ("embed", "-m", model, "--threads", 1, "--image", media.image)
    status, out, _ = run(*args, "--media-template", "chat")
    assert status == 0
    found = json.loads(out)["embedding"]
    with Embedder(model, modality="vision", n_threads=1) as embedder:
        check_rows([found], embedder.encode([Image(media.image)], media_template="chat"))
        bare = embedder.encode(Image(media.image), media_template="bare")
    assert np.abs(found - bare).max() > 1e-2


def test_limits_are_options(embed, media):
    for option, file, message in (
        ("--max-image-pixels", ("--image", media.image), "76800 pixels, max_image_pixels is 10"),
        ("--max-bytes", ("--audio", media.sound), "max_bytes is 10"),
        ("--max-video-frames", ("--video", media.video), "max_video_frames"),
        ("--max-audio-seconds", ("--audio", media.sound), "max_audio_seconds"),
        ("--max-pdf-pages", ("--pdf", media.document), "max_pdf_pages"),
    ):
        limit = 10 if option in ("--max-image-pixels", "--max-bytes") else 1
        status, out, err = embed(*file, option, limit)
        assert (status, out) == (1, b""), option
        assert message in err


def test_limits_of_the_command_line_are_all_there_are():
    from dataclasses import fields

    assert set(_media_options._LIMITS) == {field.name for field in fields(MediaLimits)}


def test_projectors_may_be_named_and_what_they_cannot_do_is_an_error(embed, omni, model, media):
    status, out, _ = embed("--audio", media.sound, "--mmproj", model.audio)
    assert status == 0
    check_rows([json.loads(out)["embedding"]], omni.encode([Audio(media.sound)]))
    status, _, err = embed("--image", media.image, "--mmproj", model.audio)
    assert status == 1
    assert "needs vision, and no vision projector is loaded" in err
    status, _, err = embed("--image", media.image, "--modality", "audio")
    assert status == 1
    assert "needs vision" in err


def test_only_the_projectors_that_inputs_need_have_to_be_there(run, model, media, tmp_path):
    shutil.copy(model.model, tmp_path)
    shutil.copy(model.vision, tmp_path)
    args = ("embed", "-m", tmp_path / model.model.name, "--threads", 1)
    assert run(*args, "--image", media.image, "--truncate-dim", 2)[0] == 0
    status, _, err = run(*args, "--audio", media.sound)
    assert status == 1
    assert "audio" in err


def test_text_has_the_same_row_beside_media(embed, media):
    status, out, _ = embed("one two", "--image", media.image, "--format", "csv")
    assert status == 0
    alone = embed("one two", "--format", "csv")[1]
    rows = list(csv.reader(io.StringIO(out.decode())))
    check_rows([[float(v) for v in rows[1][2:]]], [np.loadtxt(io.BytesIO(alone), delimiter=",")])


def test_info_describes_projectors(run, model):
    args = ("info", model.model, "--mmproj", model.vision, "--mmproj", model.audio)
    towers = json.loads(run(*args, "--json")[1])["towers"]
    assert [tower["modality"] for tower in towers] == ["vision", "audio"]
    status, out, _ = run(*args)
    assert status == 0
    vision, audio = out.decode().partition("vision tower:\n")[2].split("audio tower:\n")
    assert "  patch_size" in vision
    assert "  n_window" in audio
    assert "patch_size" not in audio


@pytest.mark.parametrize("command", ["estimate", "doctor"])
def test_commands_about_models_take_projectors(run, model, monkeypatch, command):
    function, seen = getattr(_model_commands, command), {}

    def recording(*args, **options):
        seen.update(options)
        return function(*args, **options)

    monkeypatch.setattr(_model_commands, command, recording)
    projectors = [str(model.vision), str(model.audio)]
    assert run(command, model.model, "--mmproj", projectors[0], "--mmproj", projectors[1])[0] == 0
    assert seen["mmproj"] == projectors


def test_estimate_counts_projectors(run, model):
    args = ("estimate", model.model, "--json")
    alone, both = (
        json.loads(run(*args, *more)[1])["weights_host"]
        for more in ((), ("--mmproj", model.vision, "--mmproj", model.audio))
    )
    with Embedder(model.model, modality="omni", n_threads=1) as embedder:
        towers = sum(tower.tensor_bytes for tower in embedder.info().towers)
    assert both - alone >= towers > 0
