"""Progress, aborting, signals, and the log."""

from __future__ import annotations

import gc
import io
import logging
import sys
import threading
from types import SimpleNamespace

import pytest
from ggembed import AbortedError, Embedder, _native
from ggembed.progress import ProgressBar

TEXTS = ["the question and the answer " * (1 + i % 9) for i in range(300)]


class StopError(Exception):
    """Raised by callbacks of these tests."""


def test_progress_counts_tokens_to_the_end(bert):
    calls = []
    bert.encode(TEXTS, progress=lambda done, total: calls.append((done, total)))
    total = int(bert.count_tokens(TEXTS).sum())
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {total}
    assert done == sorted(done)
    assert done[-1] == total
    assert len(done) > 1


def test_progress_runs_on_the_calling_thread(bert):
    threads = set()
    bert.encode(TEXTS, progress=lambda *_: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("error", [StopError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_exception_in_progress_comes_out_of_encode(bert, error, capfd):
    def progress(_done, _total):
        raise error

    with pytest.raises(type(error)) as caught:
        bert.encode(TEXTS, progress=progress)
    assert caught.value is error
    assert capfd.readouterr() == ("", "")
    assert bert.encode("a").shape == (32,)


def test_exception_in_the_last_progress_call_comes_out_too(bert):
    def progress(done, total):
        if done == total:
            raise StopError

    with pytest.raises(StopError):
        bert.encode("a", progress=progress)


def test_exception_stops_the_call_early(bert):
    calls = []

    def progress(done, _total):
        calls.append(done)
        raise StopError

    with pytest.raises(StopError):
        bert.encode(TEXTS * 4, progress=progress)
    assert len(calls) == 1


def test_exception_in_progress_on_another_thread(bert):
    outcome = []

    def progress(_done, _total):
        raise StopError

    def work():
        try:
            bert.encode(TEXTS, progress=progress)
        except StopError as err:
            outcome.append(err)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(outcome) == 1


def test_exception_leaves_no_reference_cycle(bert):
    def progress(_done, _total):
        raise StopError

    def n_calls():
        return sum(isinstance(thing, _native.Call) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = n_calls()
        with pytest.raises(StopError):
            bert.encode(TEXTS, progress=progress)
        assert n_calls() == before
    finally:
        gc.enable()


def test_model_load_reports_bytes_and_can_be_stopped(tiny):
    calls = []
    with Embedder(tiny("bert-mean"), progress=lambda *call: calls.append(call)):
        assert calls[-1][0] == calls[-1][1] > 0

    def progress(_done, _total):
        raise StopError

    with pytest.raises(StopError):
        Embedder(tiny("bert-mean"), progress=progress)


def test_abort_status_is_its_own_error(tiny):
    lib = _native.library()
    model = _native.Model(
        str(tiny("bert-mean")), device="cpu", n_gpu_layers=0, mmap=True, progress=None
    )
    engine = _native.Engine(model, attention="default", n_threads=1)
    tokens = _native.Tokens(model, b"a" * 10, __import__("numpy").array([0, 10]))
    stop = lib.ffi.callback("int32_t(void *)", lambda _: 1)
    opts, err = lib.struct("gge_encode_options"), lib.error()
    opts.abort = stop
    out = lib.ffi.new("float[32]")
    status = lib.lib.gge_encode(engine.pointer, tokens.pointer, opts, out, 1, 32, err)
    if status != 0:  # a short call may be over before it asks
        with pytest.raises(AbortedError):
            _native.check(status, err)
    engine.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("with_progress", [False, True])
def test_ctrl_c_stops_encode(run_python, tiny, with_progress):
    program = """
import os, signal, sys, threading, time
from ggembed import Embedder
with Embedder(sys.argv[1], n_threads=1) as embedder:
    # Half a minute of work or more, so that only an abort can end it in time.
    texts = ["the question and the answer " * 80] * 2000
    progress = (lambda *_: None) if sys.argv[2] == "True" else None
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        embedder.encode(texts, progress=progress)
        print("went through")
    except KeyboardInterrupt:
        print("stopped")
    print(embedder.encode("a").shape)
"""
    done = run_python(program, tiny("qwen3-wide-last"), with_progress)
    assert done.stdout == "stopped\n(256,)\n", done.stderr
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_signal_handler_runs_during_encode(run_python, tiny):
    program = """
import os, signal, sys, threading
from ggembed import Embedder
class Stop(Exception): pass
def handler(number, frame): raise Stop
signal.signal(signal.SIGUSR1, handler)
with Embedder(sys.argv[1], n_threads=1) as embedder:
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        embedder.encode(["the question and the answer " * 80] * 2000)
    except Stop:
        print("handled")
"""
    done = run_python(program, tiny("qwen3-wide-last"))
    assert (done.stdout, done.stderr) == ("handled\n", "")


def test_progress_bar_shows_progress(bert, capfd):
    bert.encode(TEXTS, show_progress_bar=True)
    out, err = capfd.readouterr()
    assert out == ""
    total = int(bert.count_tokens(TEXTS).sum())
    assert f"embedding 100% [########################] {total:,}/{total:,} tokens" in err
    assert err.count("\n") == 1


def test_progress_bar_and_callback_go_together(bert, capfd):
    calls = []
    bert.encode(TEXTS, show_progress_bar=True, progress=lambda *call: calls.append(call))
    assert calls
    assert "100%" in capfd.readouterr().err


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_progress_bar_on_a_terminal_rewrites_its_line():
    stream = Terminal()
    with ProgressBar("work", "bytes", stream) as bar:
        bar(0, 10)
        bar(1, 10)  # too soon after the last
        bar(10, 10)
    states = stream.getvalue().split("\r")[1:]
    assert len(states) == 2
    assert states[0].startswith("work   0% [                        ] 0/10 bytes")
    assert states[1].startswith("work 100%")
    assert stream.getvalue().endswith("\n")


def test_progress_bar_without_calls_writes_nothing():
    stream = Terminal()
    with ProgressBar("work", "bytes", stream):
        pass
    assert stream.getvalue() == ""


def test_progress_of_nothing_is_complete():
    stream = io.StringIO()
    with ProgressBar("work", "bytes", stream) as bar:
        bar(0, 0)
    assert "100%" in stream.getvalue()


def test_tqdm_draws_on_a_terminal(bert, monkeypatch):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    bert.encode(TEXTS, show_progress_bar=True)
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("embedding: 100%|")
    assert " tokens/s]" in last


def test_tqdm_draws_in_a_notebook(bert, monkeypatch):
    auto = pytest.importorskip("tqdm.auto", reason="tqdm is not installed")
    made = []

    class Bar(auto.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "file": io.StringIO()})
            made.append(self)

    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(auto, "tqdm", Bar)
    bert.encode(TEXTS, show_progress_bar=True)
    assert made[0].n == made[0].total == bert.count_tokens(TEXTS).sum()


def test_without_tqdm_a_terminal_gets_a_bar_too(bert, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    bert.encode(TEXTS, show_progress_bar=True)
    assert "100% [####" in stream.getvalue()


def test_log_lines_go_to_logging(tiny, caplog):
    with caplog.at_level(logging.DEBUG, logger="ggembed"):
        Embedder(tiny("bert-mean")).close()
    assert caplog.records
    assert {record.name for record in caplog.records} == {"ggembed"}
    assert all("\n" not in record.getMessage() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="ggembed"):
        Embedder(tiny("bert-mean")).close()
    assert not [r for r in caplog.records if r.levelno < logging.WARNING]


def test_failing_log_handler_harms_nothing(tiny, capfd):
    class Failing(logging.Filter):
        def filter(self, _record):
            raise StopError

    logger, failing = logging.getLogger("ggembed"), Failing()
    logger.addFilter(failing)
    logger.setLevel(logging.DEBUG)
    try:
        with Embedder(tiny("bert-mean")) as embedder:
            assert embedder.encode("a").shape == (32,)
    finally:
        logger.removeFilter(failing)
        logger.setLevel(logging.NOTSET)
    assert capfd.readouterr() == ("", "")
