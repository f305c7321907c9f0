"""The programs of ``examples/`` run as they stand."""

from __future__ import annotations

import base64
import importlib.util
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ggembed import Embedder

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(tiny, monkeypatch):
    """A client of the example server, which runs on a thread."""
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    openai = pytest.importorskip("openai", reason="openai is not installed")
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    monkeypatch.setenv("MODEL", str(tiny("bert-mean")))
    config = uvicorn.Config(load("openai_server").app, log_level="error", lifespan="on")
    app = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=app.run, args=([listener],))
        thread.start()
        try:
            while not app.started:
                assert thread.is_alive()
                time.sleep(0.01)
            with openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            ) as client:
                yield client
        finally:
            app.should_exit = True
            thread.join(30)


def test_the_openai_client_is_served(server, bert):
    import openai

    texts = ["a cat sleeps", "the question and the answer"]
    expected = bert.encode(texts)
    for encoding in ("float", "base64"):
        found = server.embeddings.create(model="m", input=texts, encoding_format=encoding)
        rows = [
            np.frombuffer(base64.b64decode(item.embedding), np.float32)
            if isinstance(item.embedding, str)
            else item.embedding
            for item in found.data
        ]
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        assert [item.index for item in found.data] == [0, 1]
        assert found.usage.total_tokens == bert.count_tokens(texts).sum()
    found = server.embeddings.create(model="m", input=texts[0], dimensions=8)
    wanted = bert.encode(texts[0], truncate_dim=8)
    np.testing.assert_allclose(found.data[0].embedding, wanted, atol=1e-6)
    bad = [
        ({"input": "word " * 999}, "text 0 has "),
        ({"input": []}, "at least 1 item"),
        ({"input": "a", "dimensions": 1000}, "truncate_dim must be in 1..32"),
        ({"input": [[101, 102]]}, "valid string"),  # token ids, of which only OpenAI's models know
    ]
    for options, message in bad:
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            server.embeddings.create(model="m", **options)
        assert caught.value.body["type"] == "invalid_request_error"


def test_a_busy_server_says_so_in_the_way_of_openai(server, monkeypatch):
    import openai

    stats = Embedder.stats
    monkeypatch.setattr(Embedder, "stats", lambda e: replace(stats(e), n_tokens_queued=10**6))
    with pytest.raises(openai.RateLimitError, match="too many texts are waiting"):
        server.embeddings.create(model="m", input="a text")
    monkeypatch.undo()
    assert server.embeddings.create(model="m", input="a text").data[0].index == 0


def test_the_server_has_less_than_60_lines():
    assert len((EXAMPLES / "openai_server.py").read_text().splitlines()) < 60


def test_the_worker_pool_gives_the_rows_of_one_process(tiny, bert, tmp_path):
    texts = [f"text {i} and its words" for i in range(150)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), "utf-8")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "worker_pool.py", tiny("bert-mean"), "texts.txt", "rows.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "150 rows from 2 processes\n", done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), bert.encode(texts))


CELERY = """
import sys
from pathlib import Path
import celery_tasks
here = Path.cwd()
for name in ("rows", "queue"):
    (here / name).mkdir(exist_ok=True)
folders = {f"data_folder_{way}": str(here / "queue") for way in ("in", "out")}
celery_tasks.app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={**folders, "control_folder": str(here / "control")},
    result_backend=f"file://{here}/rows",
)
if sys.argv[1] == "ask":
    tasks = [celery_tasks.rows_of.delay([f"text {i}", "another"]) for i in range(4)]
    print([len(task.get(timeout=60)) for task in tasks])
else:
    options = ["--pool", sys.argv[1], "--concurrency", "2", "--without-gossip", "--without-mingle"]
    celery_tasks.app.worker_main(["worker", "--loglevel", "error", *options])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Celery does not support Windows")
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celery_serves_with_each_of_its_pools(tiny, tmp_path, pool):
    pytest.importorskip("celery", reason="celery is not installed")
    (tmp_path / "program.py").write_text(CELERY, "utf-8")
    environment = {**os.environ, "MODEL": os.fspath(tiny("bert-mean")), "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "program.py"]
    options = {"cwd": tmp_path, "env": environment, "text": True}
    with (tmp_path / "log").open("w+") as log:
        worker = subprocess.Popen([*command, pool], stdout=log, stderr=log, **options)
        try:
            done = subprocess.run(
                [*command, "ask"], capture_output=True, timeout=120, check=False, **options
            )
        finally:
            worker.terminate()
            worker.wait(60)
        log.seek(0)
        assert done.stdout == "[2, 2, 2, 2]\n", done.stderr + log.read()


def test_the_notebook_runs(minilm, monkeypatch, capsys):
    monkeypatch.setenv("MODEL", os.fspath(minilm))
    runpy.run_path(str(EXAMPLES / "notebook.py"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("Plants make sugar from light and water.")
    assert printed[-1].startswith("5 texts, ")


def test_prometheus_reads_the_counters(tiny):
    client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    example = load("prometheus")
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        registry = client.CollectorRegistry()
        registry.register(example.EmbedderCollector(embedder, "tiny"))
        embedder.encode(["a", "b", "c"])
        assert registry.get_sample_value("ggembed_texts_total", {"model": "tiny"}) == 3
        assert registry.get_sample_value("ggembed_texts_queued", {"model": "tiny"}) == 0
        text = client.generate_latest(registry).decode()
    assert 'ggembed_seconds_computing_total{model="tiny"}' in text
