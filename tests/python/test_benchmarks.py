"""The harness of ``benchmarks/``: who takes turns, what is counted; never how fast anything is."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"

CONTENDER = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import serve

class Fake(serve.Plain):
    def __init__(self, job):
        if job["fails"] == "load":
            raise OSError("no such model")
        self._job = job
        self.factor = 1

    def tune(self, setting):
        self.factor = setting["factor"]

    def encode(self, inputs):
        if self._job["fails"] == "encode" and len(inputs) > 1:
            raise ValueError("too many texts")
        with open(self._job["log"], "a") as log:
            print(self._job["name"], len(inputs), file=log)
        self.n_tokens = [len(x) for x in inputs]
        return np.array([[len(x) * self.factor] for x in inputs], np.float32)

    def describe(self):
        return {{"name": self._job["name"]}}

serve.run(Fake)
"""


@pytest.fixture
def harness(monkeypatch):
    """Imports a module of ``benchmarks/``."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def start(harness, tmp_path):
    """Starts a fake contender that writes its calls into a log."""
    if sys.platform != "linux":
        pytest.skip("the harness reads /proc")
    turns = harness("turns")
    script = tmp_path / "fake.py"
    script.write_text(CONTENDER.format(folder=str(FOLDER)), "utf-8")

    def make(name, *, fails="", per_call=None):
        job = {"name": name, "fails": fails, "per_call": per_call, "log": str(tmp_path / "log")}
        job["inputs"] = ["a", "bb", "ccc"]
        worker = turns.Worker(sys.executable, str(script), job)
        worker.ask("warm")
        return worker

    return make


@pytest.fixture
def log(tmp_path):
    return lambda: (tmp_path / "log").read_text().splitlines()


@pytest.mark.parametrize("together", [True, False])
def test_contenders_take_turns(harness, start, log, together):
    match = harness("turns").Match(
        "case", {name: partial(start, name) for name in "AB"}, together=together
    )
    match.play(2)
    assert [x for x in log() if x.endswith("3")] == ["A 3", "B 3", "A 3", "B 3"]
    warm = [x for x in log() if x.endswith("1")]
    assert warm == (["A 1", "B 1"] if together else ["A 1", "B 1", "A 1", "B 1"])
    figures = match.entries["B"].figures()
    assert len(figures["seconds"]) == 2
    assert figures["n_tokens"] == 6
    assert figures["about"] == {"name": "B"}
    np.testing.assert_array_equal(match.entries["A"].rows, [[1], [2], [3]])


@pytest.mark.parametrize(("fails", "reason"), [("load", "no such model"), ("encode", "too many")])
def test_who_fails_leaves_and_the_others_go_on(harness, start, fails, reason):
    starts = {"A": partial(start, "A", fails=fails), "B": partial(start, "B")}
    match = harness("turns").Match("case", starts)
    match.play(2)
    assert reason in match.entries["A"].figures()["error"]
    assert len(match.entries["B"].figures()["seconds"]) == 2


def test_one_text_per_call_gives_the_rows_of_all(harness, start, log):
    match = harness("turns").Match("case", {"A": partial(start, "A", per_call=1)})
    match.play(1)
    assert log() == ["A 1"] * 4
    np.testing.assert_array_equal(match.entries["A"].rows, [[1], [2], [3]])
    assert match.entries["A"].figures()["n_tokens"] == 6


def test_settings_change_in_a_loaded_contender(start, tmp_path):
    worker = start("A")
    worker.ask('tune {"factor": 10}')
    worker.ask("encode")
    worker.ask(f"save {tmp_path}/rows.npy")
    worker.close()
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), [[10], [20], [30]])


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("lengths", [[8] * 64, [2000] * 2, [4, 90, 700]])
@pytest.mark.parametrize("per_call", [None, 1])
def test_every_setting_holds_the_longest_text(harness, pooling, lengths, per_call):
    settings = harness("peer_settings")
    facts = settings.Facts(lengths, per_call, pooling, causal=pooling == "last")
    splits = pooling == "last"
    for setting in settings.candidates("llama-cpp-python", facts):
        assert setting["load"]["n_batch"] >= max(lengths)
        assert splits or setting["load"]["n_ubatch"] >= max(lengths)
    for setting in settings.candidates("llama-embedding", facts):
        options = dict(zip(*[iter(setting["call"]["options"])] * 2, strict=True))
        assert int(options["-b"]) >= max(lengths)
    for setting in settings.candidates("llama-server", facts):
        options = dict(zip(*[iter(setting["load"]["options"][:-1])] * 2, strict=True))
        assert int(options["-c"]) > max(lengths)
        assert splits or int(options["-ub"]) >= max(lengths)
        assert int(options["-np"]) <= (per_call or len(lengths))


def test_one_text_per_call_leaves_one_batch_size(harness):
    settings = harness("peer_settings")
    facts = settings.Facts([16] * 8, 1, "mean", causal=False)
    for contender in ("onnxruntime-f32", "sentence-transformers-bf16"):
        assert [x["call"] for x in settings.candidates(contender, facts)] == [{"batch_size": 1}]


def test_work_of_packed_texts_is_the_sum_of_each(harness):
    packing, models = harness("packing"), harness("models")
    shape = models.SHAPES["v5-small"]
    alone = packing.flop(shape, [[256]] * 32, whole=False)
    assert packing.flop(shape, [[256] * 32], whole=False) == alone
    assert packing.flop(shape, [[256]] * 32, whole=True) > alone  # causal: half the pairs
    assert packing.flop(shape, [[256] * 32], whole=True) > 1.2 * alone


def test_work_follows_from_the_shapes_of_the_products(harness):
    packing, models = harness("packing"), harness("models")
    shape = models.Shape(
        arch="qwen3", n_layer=2, n_embd=6, n_head=2, n_head_kv=1, head_dim=4, n_ff=10, n_vocab=9,
        n_ctx=8, pooling=3, eps=1e-6, rope_theta=1e4, pre="qwen2",
    )  # fmt: skip
    matrices = [(6, 8), (6, 4), (6, 4), (8, 6)]  # q, k, v, output
    forward = [(6, 10), (6, 10), (10, 6)]

    def products(pairs, n):
        return sum(2 * n * a * b for a, b in pairs)

    scores_and_values = 2 * sum(2 * 2 * 4 * n for n in (1, 2, 3))  # 2 products, 2 heads of 4
    expected = 2 * products(matrices, 3) + products(forward, 3) + products(forward, 1)
    assert packing.flop(shape, [[3]], whole=False) == expected + 2 * scores_and_values


def test_concurrent_callers_get_the_rows_of_one_call(harness, bert):
    concurrency = harness("concurrency")
    texts = [f"caller {i} and " + "more words " * (i % 5) for i in range(40)]
    args = SimpleNamespace(callers=4, coroutines=20, rounds=2)
    results = concurrency.throughput(bert, texts, args) + concurrency.latency(bert, "a query", 10)
    assert [result["case"] for result in results] == [
        "one call",
        "threads",
        "coroutines",
        "query, bare pass",
        "query, encode",
        "query, aencode",
        "query, forward",
    ]
    assert all(result["min_cosine"] > 0.99999 for result in results[:3])
    assert results[0]["ratio"] == results[3]["ratio"] == 1
    assert results[6]["ratio"] < 1
    assert {result["n_tokens"] for result in results[:3]} == {int(bert.count_tokens(texts).sum())}


def test_gaps_of_the_loop_are_measured(harness, bert):
    concurrency = harness("concurrency")
    texts = [f"caller {i} and more words" for i in range(40)]
    results = concurrency.loop_gaps(bert, texts, 20, 2)
    cases = [result["case"] for result in results]
    assert cases[:2] == ["loop gap, encode", "loop gap, asyncio"]
    for result in results:
        assert 0 < result["gap_99_ms"] <= result["largest_gap_ms"]
        assert result["largest_cpu_ms"] > 0
        assert len(result["largest_gaps_ms"]) == 2
