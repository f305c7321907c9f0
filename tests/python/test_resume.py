"""Runs of ``ggembed embed`` that are ended at any moment and continued: no row lost, none twice."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import command
from ggembed import Embedder, InvalidInputError, _embed_command, tables
from ggembed._output import FileOutput
from ggembed._writers import WRITERS, Part

FORMATS = ["npy", "jsonl", "csv", "parquet"]
N_TEXTS, BATCH_SIZE = 203, 5
TIMEOUT_S = 60


def need(form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.fixture
def source(tmp_path):
    """A file of records; texts of many lengths, none of them twice."""
    path = tmp_path / "a.jsonl"
    rows = [{"id": i, "text": f"text {i} " + "the " * (i % 17)} for i in range(N_TEXTS)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def arguments(tiny, source):
    def arguments(form, target):
        keep = () if form == "npy" else ("--keep", "all")
        common = ("-m", tiny("bert-mean"), "--threads", 1, "-f", source, "-o", target)
        return ("embed", *common, "--batch-size", BATCH_SIZE, *keep)

    return arguments


def state_of(target):
    """What the state says, and {} before there is any."""
    try:
        return json.loads(target.with_name(f"{target.name}.partial.json").read_text())
    except FileNotFoundError:
        return {}


def others(target):
    """Files beside a target that belong to it."""
    return [path.name for path in target.parent.glob(f"{target.name}.*")]


def run_until(arguments, target, n_rows, chance):
    """Continues a run, and kills it once `n_rows` rows are there; its exit status."""
    with subprocess.Popen(
        command(*arguments, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        limit = time.monotonic() + TIMEOUT_S
        while process.poll() is None and state_of(target).get("rows", 0) < n_rows:
            assert time.monotonic() < limit
            time.sleep(chance.uniform(0, 0.002))
        process.kill()
        stderr = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
@pytest.mark.parametrize("form", ["npy", "jsonl", "parquet"])
def test_killed_runs_continue_to_the_same_file(arguments, run, tmp_path, form):
    need(form)
    chance = random.Random(f"killed {form}")
    whole, target = tmp_path / f"whole.{form}", tmp_path / f"killed.{form}"
    assert run(*arguments(form, whole))[0] == 0
    # Early ones: a run near its end may be through before it is killed.
    moments = sorted(chance.sample(range(1, N_TEXTS // 2), 3))
    n_killed = n_before = 0
    for n_rows in (*moments, N_TEXTS):
        if run_until(arguments(form, target), target, n_rows, chance) == 0:
            break
        assert not target.exists() or n_rows == N_TEXTS
        n_after = state_of(target).get("rows", N_TEXTS)
        assert n_after >= n_before
        n_killed, n_before = n_killed + 1, n_after
    assert n_killed >= 2
    if not target.exists() or others(target):
        assert run(*arguments(form, target), "--resume")[0] == 0
    assert target.read_bytes() == whole.read_bytes()
    assert others(target) == []


class Killed(BaseException):
    """Ends a run like SIGKILL: whatever would come next does not happen."""


def is_killed(monkeypatch, step, action):
    """Runs an action, whose n-th change of a file is the last; whether it got that far."""
    count = 0
    write_text, replace = Path.write_text, Path.replace
    unlink, fsync = Path.unlink, os.fsync

    def counting(function, torn=None):
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count < step:
                return function(*args, **kwargs)
            if torn is not None:
                torn(*args, **kwargs)
            raise Killed

        return counted

    def half(path, text, *args):
        write_text(path, text[: len(text) // 2], *args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", counting(write_text, half))
        patch.setattr(Path, "replace", counting(replace))
        patch.setattr(Path, "unlink", counting(unlink))
        patch.setattr(os, "fsync", counting(fsync))
        patch.setattr(FileOutput, "__exit__", lambda self, *_: self._stage.close())
        try:
            action()
        except Killed:
            return True
        return False


def fill(target, form, *, resume=True, n=12, origin=()):
    """Writes a file of rows that depend on their text alone."""
    records, columns = tables.from_texts(
        [f"text {i}" for i in range(n)], "text", () if form == "npy" else ("text",), "it"
    )
    writer = WRITERS[form](columns, np.empty((0, 3), np.float32))
    with FileOutput(target, writer, dict(origin), resume=resume) as output:
        for batch in output.remaining(tables.batches(records, columns, 5)):
            rows = [[float(text.split()[1]), 0, 1] for text in batch.texts]
            output.write(Part(batch, np.array(rows, np.float32)))
        output.finish()


@pytest.mark.parametrize("form", FORMATS)
def test_run_may_end_at_every_step_and_end_again(tmp_path, monkeypatch, form):
    need(form)
    chance = random.Random(f"steps {form}")
    fill(tmp_path / "whole", form)
    whole = (tmp_path / "whole").read_bytes()
    for step in itertools.count(1):
        target = tmp_path / str(step)
        if not is_killed(monkeypatch, step, partial(fill, target, form)):
            break
        is_killed(monkeypatch, chance.randint(1, 12), partial(fill, target, form))
        assert not target.exists() or target.read_bytes() == whole
        fill(target, form)
        assert target.read_bytes() == whole
        assert others(target) == []
    assert step > 10


@pytest.mark.parametrize("form", FORMATS)
def test_what_lies_behind_the_good_bytes_is_cut_off(tmp_path, monkeypatch, form):
    need(form)
    target = tmp_path / "a"
    stage, state = tmp_path / "a.partial", tmp_path / "a.partial.json"
    # A state that may be left is removed. Then every batch takes three steps: the rows are synced,
    # the new state is written, it replaces the old one.
    assert is_killed(monkeypatch, 5, partial(fill, target, form))
    first = state.read_text()
    assert json.loads(first)["rows"] == 5
    n_good = json.loads(first)["bytes"]
    assert is_killed(monkeypatch, 7, partial(fill, target, form))  # nothing to remove, two batches
    later = stage.read_bytes()
    assert len(later) > n_good + 20
    fill(target, form)
    whole = target.read_bytes()
    for n_bytes in (*range(n_good, n_good + 20), len(later) - 1, len(later)):
        stage.write_bytes(later[:n_bytes])
        state.write_text(first)
        fill(target, form)
        assert target.read_bytes() == whole


def test_unfinished_npy_is_no_array(tmp_path, monkeypatch):
    assert is_killed(monkeypatch, 5, partial(fill, tmp_path / "a", "npy"))
    with pytest.raises(ValueError, match="pickle"):
        np.load(tmp_path / "a.partial")


def test_stage_that_lost_bytes_is_refused(tmp_path, monkeypatch):
    assert is_killed(monkeypatch, 5, partial(fill, tmp_path / "a", "csv"))
    os.truncate(tmp_path / "a.partial", 3)
    with pytest.raises(InvalidInputError, match=r"a\.partial: it has 3 bytes of \d+;"):
        fill(tmp_path / "a", "csv")


@pytest.mark.parametrize("text", ["", '{"bytes": 0}', "[1]", "nothing"])
def test_state_that_cannot_be_read_is_refused(tmp_path, monkeypatch, text):
    assert is_killed(monkeypatch, 5, partial(fill, tmp_path / "a", "csv"))
    (tmp_path / "a.partial.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r"a\.partial\.json cannot be read; delete it"):
        fill(tmp_path / "a", "csv")


def test_state_of_a_run_that_is_gone_is_not_used(tmp_path, monkeypatch):
    """It must not be taken for that of a later run, which ends before it writes its own."""
    target = tmp_path / "a"
    assert is_killed(monkeypatch, 5, partial(fill, target, "csv"))
    (tmp_path / "a.partial").unlink()
    assert is_killed(monkeypatch, 2, partial(fill, target, "csv", n=1000))
    fill(target, "csv")
    fill(tmp_path / "whole", "csv")
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()


def test_input_that_became_shorter_is_refused(tmp_path, monkeypatch):
    assert is_killed(monkeypatch, 5, partial(fill, tmp_path / "a", "csv"))
    with pytest.raises(InvalidInputError, match="it has 5 rows, the input only 3"):
        fill(tmp_path / "a", "csv", n=3)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_two_runs_do_not_write_to_one_file(tmp_path):
    target = tmp_path / "a"
    writer = WRITERS["csv"]((), np.empty((0, 3), np.float32))
    with FileOutput(target, writer, {}, resume=False):
        for resume in (False, True):
            with pytest.raises(InvalidInputError, match=r"another run is writing to .*a\.partial"):
                fill(target, "csv", resume=resume)
    fill(target, "csv")
    assert others(target) == []


def test_rows_of_an_interrupted_run_are_not_overwritten(tmp_path, monkeypatch):
    target = tmp_path / "a"
    assert is_killed(monkeypatch, 5, partial(fill, target, "csv"))
    with pytest.raises(InvalidInputError, match="holds 5 rows of an interrupted run: continue it"):
        fill(target, "csv", resume=False)
    (tmp_path / "a.partial").unlink()
    fill(target, "csv", resume=False)
    assert others(target) == []


def test_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "real" / "b")
    fill(tmp_path / "a", "csv")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "real" / "b").read_text().count("\n") == 13


@pytest.fixture
def interrupted(arguments, run, source, tmp_path):
    """Arguments of a run that stopped at a text that is too long, which is then repaired."""
    good = source.read_text()
    lines = good.splitlines()
    lines[22] = json.dumps({"id": 22, "text": "the " * 1000})
    source.write_text("\n".join(lines))
    target = tmp_path / "b.csv"
    status, _, err = run(*arguments("csv", target))
    assert status == 1
    assert err.splitlines() == [
        f"ggembed: 20 rows are in {target}.partial; --resume continues",
        "ggembed: error: text 22 has 1002 tokens, the context holds 512",
    ]
    assert not target.exists()
    source.write_text(good)
    return arguments("csv", target)


def test_run_that_failed_continues(run, arguments, interrupted, tmp_path):
    assert run(*interrupted, "--resume") == (0, b"", "")
    assert run(*arguments("csv", tmp_path / "whole.csv"))[0] == 0
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_run_continues_with_another_batch_size_and_number_of_threads(run, interrupted, tmp_path):
    assert run(*interrupted, "--resume", "--batch-size", 8, "--threads", 2)[0] == 0
    rows = list(csv.reader((tmp_path / "b.csv").read_text().splitlines()))[1:]
    assert [int(row[0]) for row in rows] == list(range(N_TEXTS))


def test_continuing_computes_no_row_again(run, interrupted, monkeypatch):
    seen = []
    encode = Embedder.encode

    def spy(self, texts, **options):
        seen.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(Embedder, "encode", spy)
    assert run(*interrupted, "--resume")[0] == 0
    assert [int(text.split()[1]) for text in seen] == list(range(20, N_TEXTS))


@pytest.mark.parametrize("change", ["text", "kept value"])
def test_changed_input_of_finished_rows_is_refused(run, interrupted, source, change):
    text = source.read_text()
    old, new = ("text 7 ", "text seven ") if change == "text" else ('"id": 7,', '"id": 70,')
    source.write_text(text.replace(old, new, 1))
    status, _, err = run(*interrupted, "--resume")
    assert status == 1
    assert "the input of its 20 rows has changed; delete it to start again" in err
    assert err.count("\n") == 1
    source.write_text(text)
    assert run(*interrupted, "--resume")[0] == 0


def test_input_may_change_where_there_is_no_row_yet(run, interrupted, source, tmp_path):
    source.write_text(source.read_text() + '{"id": 9999, "text": "one more"}\n')
    assert run(*interrupted, "--resume")[0] == 0
    assert (tmp_path / "b.csv").read_text().splitlines()[-1].startswith("9999,one more,")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--truncate-dim", 16), "the options"),
        (("--prompt", "the "), "the options"),
        (("--no-normalize",), "the options"),
        (("--keep", "text,id"), "the kept columns"),
        (("--column", "id"), "the column"),
        (("--format", "jsonl"), "the output format"),
    ],
)
def test_changed_options_are_refused(run, interrupted, more, what):
    status, _, err = run(*interrupted, "--resume", *more)
    assert status == 1
    assert f": {what} was " in err
    assert run(*interrupted, "--resume")[0] == 0


def test_run_that_stopped_at_a_bad_text_may_go_on_collecting(run, interrupted):
    assert run(*interrupted, "--resume", "--on-error", "collect")[0] == 0


def test_changed_model_is_refused(run, interrupted, tiny, tmp_path):
    args = list(interrupted)
    model = args.index("-m") + 1
    args[model] = tiny("bert-cls")
    status, _, err = run(*args, "--resume")
    assert status == 1
    assert ": the model was " in err
    args[model] = shutil.copy(tiny("bert-mean"), tmp_path / "moved.gguf")  # the same content
    assert run(*args, "--resume")[0] == 0


def test_changed_version_is_refused(run, interrupted, monkeypatch):
    monkeypatch.setattr(_embed_command, "__version__", "99.0.0")
    status, _, err = run(*interrupted, "--resume")
    assert status == 1
    assert "the version of ggembed was" in err
    assert "now it is 99.0.0" in err


def test_digest_of_a_file_sees_every_part(tmp_path):
    path = tmp_path / "a"
    data = bytearray(np.random.default_rng(0).bytes(100_000))
    path.write_bytes(data)
    whole = _embed_command._file_digest(str(path))
    for place in (0, 50_000, 99_999):
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        assert _embed_command._file_digest(str(path)) != whole


def test_empty_input_makes_a_file_and_leaves_nothing_else(tmp_path):
    for form in FORMATS:
        need(form)
        fill(tmp_path / f"a.{form}", form, n=0)
        assert others(tmp_path / f"a.{form}") == []
    assert np.load(tmp_path / "a.npy").shape == (0, 3)
