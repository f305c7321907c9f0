"""Import, fork, spawn, pre-fork servers, pickles, and weights that processes share."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import time
import urllib.request

import cloudpickle
import numpy as np
import pytest
from ggembed import (
    ClosedError,
    Embedder,
    EmbedError,
    MediaLimits,
    TruncationWarning,
    errors,
    hub,
    quantize,
)
from proc_maps import mapped

LINUX = sys.platform == "linux"
FORKS = hasattr(os, "fork")
needs_linux = pytest.mark.skipif(not LINUX, reason="reads /proc of Linux")
needs_fork = pytest.mark.skipif(not FORKS, reason="this platform has no fork")


# ------------------------------------------------------------------ import


@needs_linux
def test_import_starts_no_thread_and_loads_no_native_library(run_python):
    program = """
import os, sys
from pathlib import Path
import numpy  # has threads of its own
def look():
    maps = Path("/proc/self/maps").read_text()
    loaded = [name for name in ("libggembed", "libcuda", "libnvidia") if name in maps]
    return len(os.listdir("/proc/self/task")), loaded
before = look()
import ggembed
print(before == look(), before[1])
"""
    done = run_python(program)
    assert done.stdout == "True []\n", done.stderr


@needs_linux
def test_the_cpu_is_used_without_a_driver(run_python, tiny):
    program = """
import sys
from pathlib import Path
from ggembed import Embedder
with Embedder(sys.argv[1], device="cpu", n_threads=1) as embedder:
    embedder.encode("a")
    maps = Path("/proc/self/maps").read_text()
print("libggembed" in maps, [n for n in ("libcuda", "libnvidia", "libvulkan") if n in maps])
"""
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout == "True []\n", done.stderr


# ------------------------------------------------------------------ fork

FORK = """
import copy, gc, os, pickle, sys, threading, warnings
import numpy as np
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside other threads
from ggembed import ClosedError, Embedder, _native

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as err:
            print("child failed:", repr(err), flush=True)
            os._exit(1)
        sys.exit(0)  # with all that an interpreter does at its end
    print(os.waitpid(pid, 0)[1], flush=True)

def outcome(use):
    try:
        return f"no error: {use()}"
    except ClosedError as err:
        return str(err)

embedder = Embedder(sys.argv[1], n_threads=2)
embedder.encode("a")
"""


@needs_fork
def test_every_use_in_a_forked_child_says_what_to_do(run_python, tiny):
    program = (
        FORK
        + """
uses = [
    lambda: embedder.encode("a"), lambda: embedder.encode([]), lambda: embedder.encode_query("a"),
    lambda: list(embedder.encode_iter(["a"])), lambda: embedder.rank("a", ["b"]),
    lambda: embedder.tokenize("a"), lambda: embedder.count_tokens(["a"]),
    embedder.info, embedder.abort, embedder.__enter__,
]
in_child(lambda: print(*map(outcome, uses), sep="\\n"))
"""
    )
    done = run_python(program, tiny("bert-mean"))
    *told, status = done.stdout.splitlines()
    assert (status, len(told)) == ("0", 10), done.stdout + done.stderr
    for line in told:
        assert re.fullmatch(
            r"this Embedder belongs to process \d+ and cannot be used in its forked child \d+; "
            r"make one after the fork, or start processes with spawn",
            line,
        )


@needs_fork
def test_native_handles_of_the_parent_are_refused_in_a_forked_child(run_python, tiny):
    program = (
        FORK
        + """
model, engine = embedder._live()
bounds, out = np.array([0, 1]), np.zeros((1, 32), np.float32)
tokens = _native.Tokens(model, b"a", bounds)
uses = [
    model.info, engine.info, lambda: _native.Tokens(model, b"a", bounds),
    lambda: _native.Engine(model, attention="default"),
    lambda: engine.encode(tokens, out, pooling="mean"),
]
def work():
    print(*map(outcome, uses), sep="\\n", flush=True)
    lib = _native.library().lib  # what Python would not even call
    for name in ("abort", "close", "free"):
        getattr(lib, f"gge_engine_{name}")(engine.pointer)
    lib.gge_tokens_free(tokens.pointer)
    lib.gge_model_free(model.pointer)
in_child(work)
print(embedder.encode("a").shape)
"""
    )
    done = run_python(program, tiny("bert-mean"))
    *told, status, shape = done.stdout.splitlines()
    assert (status, shape) == ("0", "(32,)"), done.stdout + done.stderr
    assert [re.match(r"the (\w+) belongs to process", line)[1] for line in told] == [
        *("model", "engine", "model", "model", "engine")
    ]


@needs_fork
@pytest.mark.parametrize("ending", ["close", "collect", "leave"])
def test_a_child_forked_at_any_moment_ends_and_may_start_anew(run_python, tiny, ending):
    """The parent computes meanwhile on other threads, which hold what locks they need."""
    program = (
        FORK
        + f"""
import random
def busy():
    while True:
        embedder.encode(["the question " * random.randrange(60) for _ in range(8)])
for _ in range(2):
    threading.Thread(target=busy, daemon=True).start()
def work():
    global embedder
    mine = copy.copy(embedder)
    if {ending!r} == "close":
        embedder.close()
    elif {ending!r} == "collect":
        embedder = None
        gc.collect()
    assert mine.encode("a").shape == (32,)
for _ in range(10):
    in_child(work)
"""
    )
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout.split() == ["0"] * 10, done.stdout + done.stderr


@needs_fork
def test_locks_that_threads_hold_at_a_fork_are_free_in_the_child(run_python, tiny):
    program = (
        FORK
        + """
import logging
from cffi import cparser
log, held = logging.getLogger("ggembed"), threading.Semaphore(0)

class Stuck(logging.Handler):
    def emit(self, record):
        if threading.current_thread() is not threading.main_thread():
            held.release()
            threading.Event().wait()

def hold(lock):
    with lock:
        held.release()
        threading.Event().wait()

log.addHandler(Stuck())
log.setLevel(logging.DEBUG)
locks = [_native._library_lock, _native.library().ffi._lock, cparser.lock]
threads = [threading.Thread(target=hold, args=(lock,), daemon=True) for lock in locks]
threads.insert(0, threading.Thread(target=Embedder, args=(sys.argv[1],), daemon=True))
for thread in threads:
    thread.start()
    held.acquire()

def work():
    log.setLevel(logging.WARNING)  # waits for callbacks of the log
    with Embedder(sys.argv[1], n_threads=1) as mine:
        print(mine.encode("a").shape, flush=True)
    os._exit(0)
in_child(work)
os._exit(0)
"""
    )
    done = run_python(program, tiny("bert-mean"))
    assert done.stdout.split("\n")[:2] == ["(32,)", "0"], done.stdout + done.stderr


# ------------------------------------------------------------------ multiprocessing

WORKERS = """
import multiprocessing, sys, warnings
from ggembed import ClosedError, Embedder
warnings.simplefilter("ignore", DeprecationWarning)

def inherited(queue):
    try:
        queue.put(GIVEN.encode("a").shape)
    except ClosedError as err:
        queue.put(str(err))

def passed(queue, embedder):
    queue.put(embedder.encode("a").shape)

def made(queue, path):
    with Embedder(path, n_threads=1) as embedder:
        queue.put(embedder.encode("a").shape)

def start(given):
    global mine
    mine = Embedder(given, n_threads=1) if isinstance(given, str) else given

def encode(text):
    return mine.encode(text)

if __name__ == "__main__":
    way, model = sys.argv[1:]
    context = multiprocessing.get_context(way)
    GIVEN = Embedder(model, n_threads=1)
    expected = GIVEN.encode(["a", "b", "c"])
    queue = context.SimpleQueue()
    if way == "fork":
        tasks = [(inherited,), (made, model)]
    else:
        tasks = [(made, model), (passed, GIVEN)]
    for work, *args in tasks:
        process = context.Process(target=work, args=(queue, *args))
        process.start()
        print(queue.get())
        process.join()
        assert process.exitcode == 0
    with context.Pool(2, start, (model if way == "fork" else GIVEN,)) as pool:
        rows = pool.map(encode, "abc")
    print(all((row == other).all() for row, other in zip(rows, expected)))
"""


@needs_fork
def test_multiprocessing_with_fork(tmp_path, tiny):
    first, *others = run_workers("fork", tmp_path, tiny)
    assert "cannot be used in its forked child" in first
    assert others == ["(32,)", "True"]


@pytest.mark.parametrize("way", ["spawn", pytest.param("forkserver", marks=needs_fork)])
def test_multiprocessing_with_a_fresh_interpreter_takes_an_embedder_along(way, tmp_path, tiny):
    assert run_workers(way, tmp_path, tiny) == ["(32,)", "(32,)", "True"]


def run_workers(way, folder, tiny):
    script = folder / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, script, way, tiny("bert-mean")],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ------------------------------------------------------------------ a server that forks its workers

SERVICE = """
import copy, os
from ggembed import ClosedError, Embedder

embedder = Embedder(os.environ["TEST_MODEL"], n_threads=1)  # with --preload, in the parent
embedder.encode("warm")
own = None

def app(environ, start_response):
    global own
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        if environ["PATH_INFO"] == "/inherited":
            return [str(embedder.encode("a").shape).encode()]
        if own is None:
            own = copy.copy(embedder)
        return [f"{os.getpid()} {own.encode('a').shape}".encode()]
    except ClosedError as err:
        return [str(err).encode()]
"""


@needs_fork
def test_gunicorn_with_preload(tmp_path, tiny):
    (tmp_path / "service.py").write_text(SERVICE)
    options = ["--preload", "--workers", "2", "--bind", "127.0.0.1:0"]
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "gunicorn", *options, "service:app"],
            cwd=tmp_path,
            env={**os.environ, "TEST_MODEL": str(tiny("bert-mean")), "HOME": str(tmp_path)},
            stdout=out,
            stderr=out,
        )
    try:
        address = wait_for(lambda: re.search(r"Listening at: (\S+)", log.read_text()), server)[1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def get(path):
            with opener.open(address + path, timeout=60) as answer:
                return answer.read().decode()

        assert "cannot be used in its forked child" in get("/inherited")
        for _ in range(4):
            process, shape = get("/own").split(maxsplit=1)
            assert (int(process) != server.pid, shape) == (True, "(32,)")
    finally:
        server.terminate()
        status = server.wait(30)
    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def wait_for(look, process):
    for _ in range(600):
        if found := look():
            return found
        assert process.poll() is None, "the process ended"
        time.sleep(0.05)
    raise AssertionError("waited for 30 s")


# ------------------------------------------------------------------ pickles

WAYS = {
    "pickle": lambda embedder: pickle.loads(pickle.dumps(embedder)),
    "cloudpickle": lambda embedder: pickle.loads(cloudpickle.dumps(embedder)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.filterwarnings("ignore::ggembed.TruncationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_an_embedder_carries_its_arguments(way, tiny):
    options = {
        "pooling": "cls",
        "n_threads": 1,
        "n_ctx": 64,
        "n_ubatch": 32,
        "truncate_dim": 16,
        "overflow": "truncate",
        "prompts": {"query": "q: "},
        "default_prompt_name": "query",
        "limits": MediaLimits(max_bytes=10**6),
        "progress": lambda *_: None,  # no pickle takes it
    }
    with Embedder(tiny("bert-mean"), device="cpu", **options) as embedder:
        embedder.max_seq_length = 40
        expected = embedder.encode(["the question", "an answer " * 100])
        with WAYS[way](embedder) as other:
            np.testing.assert_array_equal(
                other.encode(["the question", "an answer " * 100]), expected
            )
            assert other.info() == embedder.info()
            assert other.max_seq_length == 40
            assert other._limits == embedder._limits
        embedder.encode("the copy's end is not that of the other")


def test_a_pickle_does_not_depend_on_the_current_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny("bert-mean").parent)
    with Embedder("bert-mean.gguf", n_threads=1) as embedder:
        data = pickle.dumps(embedder)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(data) as other:
        assert other.encode("a").shape == (32,)


def test_a_projection_goes_along(tiny, tmp_path):
    matrix = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
    np.save(tmp_path / "projection.npy", matrix)
    rows = []
    for projection in (matrix, tmp_path / "projection.npy"):
        given = Embedder(tiny("bert-mean"), n_threads=1, projection=projection)
        with given as embedder, copy.copy(embedder) as other:
            rows += [
                e.encode("the question", output_value="token_embeddings") for e in (embedder, other)
            ]
    assert all((row == rows[0]).all() for row in rows)
    assert rows[0].shape[1] == 8


def test_a_missing_file_is_named_where_the_pickle_is_loaded(tiny, tmp_path):
    path = tmp_path / "gone.gguf"
    path.write_bytes(tiny("bert-mean").read_bytes())
    with Embedder(path, n_threads=1) as embedder:
        data = pickle.dumps(embedder)
    path.unlink()
    with pytest.raises(EmbedError, match=re.escape(str(path))):
        pickle.loads(data)


def test_a_closed_embedder_is_not_pickled(tiny):
    embedder = Embedder(tiny("bert-mean"), n_threads=1)
    embedder.close()
    for use in (pickle.dumps, copy.copy, copy.deepcopy, cloudpickle.dumps):
        with pytest.raises(ClosedError, match="this Embedder is closed"):
            use(embedder)


def test_models_of_the_hub_keep_their_revision(tiny, monkeypatch):
    commit, asked = "c" * 40, []

    def fetch(repo, file=None, quant=None, *, revision=None, **options):
        asked.append((repo, file, quant, revision, options.get("token")))
        return hub.HubFiles(tiny("bert-mean"), (), repo, commit, {})

    monkeypatch.setattr(hub, "fetch", fetch)
    ways = [
        (lambda: Embedder("hf:a/b:Q8_0", n_threads=1), ("a/b", None, "Q8_0")),
        (lambda: Embedder("hf:a/b@main:m.gguf", n_threads=1), ("a/b", "m.gguf", None)),
        (lambda: Embedder.from_hub("a/b", quant="F16", token="secret"), ("a/b", None, "F16")),
    ]
    for make, named in ways:
        with make() as embedder:
            data = pickle.dumps(embedder)
            asked.clear()
            with pickle.loads(data) as other, copy.copy(other) as third:
                assert third.encode("a").shape == (32,)
            assert asked == 2 * [(*named, commit, None)]
            assert b"secret" not in data


def test_errors_come_through_a_pickle():
    found = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, EmbedError)]
    assert len(found) > 10
    for kind in found:
        error = pickle.loads(pickle.dumps(kind("text 3 is bad", input_index=3)))
        assert (type(error), str(error), error.input_index) == (kind, "text 3 is bad", 3)
    warning = pickle.loads(pickle.dumps(TruncationWarning("cut", n_truncated=2, input_index=1)))
    assert (warning.n_truncated, warning.input_index) == (2, 1)


# ------------------------------------------------------------------ memory

HOLDER = """
import sys
from ggembed import Embedder
embedder = Embedder(sys.argv[1], device="cpu", n_threads=1, cpu_kernels="upstream")
embedder.encode("a few words")
print("ready", flush=True)
sys.stdin.readline()
"""


@needs_linux
@pytest.mark.parametrize("level", ["F32", "Q8_0"])
def test_processes_share_the_weights(level, minilm, tmp_path):
    path = quantize(minilm, tmp_path / f"{level}.gguf", level)
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout.readline() == b"ready\n"
        for holder in holders:
            pages = mapped(holder.pid, path)
            assert pages["Rss"] > 0.4 * path.stat().st_size  # half is the table of tokens
            assert pages["Pss"] == pytest.approx(pages["Rss"] / 2, rel=0.05)
            assert pages["Private_Dirty"] == pages["Shared_Dirty"] == 0
    finally:
        for holder in holders:
            holder.communicate(b"\n", timeout=30)


def test_a_copy_dies_with_its_last_reference(tiny):
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(5):
            copy.copy(embedder).encode("a")
        gc.collect()
        assert len(gc.get_objects()) < before + 100
