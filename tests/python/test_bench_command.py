"""``ggembed bench``: what it measures and prints; never how fast that is."""

from __future__ import annotations

import json
import subprocess
import types
from itertools import pairwise

import make_tiny_rerankers
import pytest
from commands import command, interrupt
from ggembed import Embedder, InternalError, OutOfMemoryError, _bench, _bench_tune
from ggembed._bench import CASES, make_texts
from ggembed._bench_tune import SIZES, Tuner, thread_counts

FACTS = {"date", "machine", "build", "model", "settings", "interrupted"}
POINT = {"n_ubatch", "n_threads", "memory_bytes", "n_tokens", "tokens_per_s", "seconds"}
N_CPUS = 4


@pytest.fixture
def quick(monkeypatch):
    """No pauses, and 4 CPUs on every machine."""
    monkeypatch.setattr(_bench_tune, "_PAUSE_S", 0.0)
    monkeypatch.setattr(_bench_tune, "n_cpus", lambda: N_CPUS)


@pytest.fixture
def clock(quick, monkeypatch):  # noqa: ARG001
    """Decides how long calls of the tuner take: a function of n_ubatch, n_threads and the call."""

    def use(seconds, rate=100_000.0):
        n_calls = {}

        def call(_, point):
            key = point.n_ubatch, point.n_threads
            n_calls[key] = n_calls.get(key, 0) + 1
            return seconds(*key, n_calls[key])

        monkeypatch.setattr(
            _bench_tune, "Workload", lambda *_, **__: types.SimpleNamespace(rate=rate)
        )
        monkeypatch.setattr(Tuner, "_call", call)

    return use


def tuned(run, path, *argv, status=0, seconds=0.1):
    """What --tune --json prints of a tiny model."""
    given = ("bench", path, "--tune", "--json", "--device", "cpu", "--seconds", seconds)
    found, out, err = run(*given, *argv)
    assert found == status, err
    return json.loads(out)


def values(curve):
    return [point[curve["setting"]] for point in curve["points"]]


@pytest.mark.parametrize("name", ["bert-mean", "qwen3-last", "llama-last", "eurobert-last"])
def test_texts_have_the_tokens_that_are_wanted(name, tiny):
    with Embedder(tiny(name), n_threads=1) as embedder:
        wanted = [8, 128, 4, 5, 6, 77, 300]
        counts = embedder.count_tokens(make_texts(wanted, _bench.counter(embedder)))
    assert counts.tolist() == wanted


def test_texts_of_the_demo_model_have_the_tokens_that_are_wanted(minilm):
    with Embedder(minilm, n_threads=1) as embedder:
        wanted = [*CASES["mixed"].lengths(64, 512), 8, 128, 512]
        counts = embedder.count_tokens(make_texts(wanted, _bench.counter(embedder)))
    assert counts.tolist() == wanted


def test_lengths_keep_to_the_case_and_to_the_context():
    mixed = CASES["mixed"].lengths(1000, 300)
    assert min(mixed) >= 4
    assert max(mixed) == 300
    assert len(set(mixed)) > 100
    assert mixed == CASES["mixed"].lengths(1000, 300)
    assert CASES["long"].lengths(2, 512) == [512, 512]


@pytest.mark.parametrize(("n", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, range(1, 7))])
def test_every_number_of_threads_is_tried_on_small_machines(n, counts):
    assert list(thread_counts(n)) == list(counts)


@pytest.mark.parametrize("n", [8, 13, 64, 96, 256])
def test_few_numbers_of_threads_are_tried_on_large_machines(n):
    counts = list(thread_counts(n))
    assert counts[:8] == list(range(1, 9))
    assert counts[-1] == n
    assert counts == sorted(set(counts))
    assert all(b <= 1.5 * a for a, b in pairwise(counts[7:]))


def test_every_case_has_a_line(run, tiny):
    status, out, err = run("bench", tiny("bert-mean"), "--seconds", "0.01", "--threads", 1)
    lines = out.decode().splitlines()
    assert status == 0
    assert lines[0].startswith("model    tiny bert-mean, ")
    assert any(line.startswith("settings n_threads=1, n_ubatch=") for line in lines)
    table = lines[lines.index("") + 1 :]
    assert table[0].split()[:5] == ["case", "texts", "tokens", "tokens/s", "texts/s"]
    assert [line.split()[0] for line in table[1 : len(CASES) + 1]] == list(CASES)
    assert "weights" in lines[-1]
    assert "100%" in err


def test_figures_as_json(run, tiny):
    argv = ("--seconds", "0.01", "--ubatch", "96", "--case", "medium,single", "--json")
    status, out, _ = run("bench", tiny("qwen3-last"), "--device", "cpu", *argv)
    found = json.loads(out)
    assert status == 0
    assert set(found) == FACTS | {"memory", "cases"}
    assert set(found["machine"]) >= {"cpu", "n_cpus", "memory_bytes", "system", "load_average"}
    assert found["model"]["file"] == "qwen3-last.gguf"
    assert found["settings"]["n_ubatch"] == 96
    assert not found["interrupted"]
    assert found["memory"]["weights_bytes"] > 0
    medium, single = found["cases"]
    assert (medium["case"], medium["longest_text"]) == ("medium", 128)
    assert medium["n_tokens"] == 128 * medium["n_texts"]
    assert (single["case"], single["n_texts"], single["n_tokens"]) == ("single", 1, 8)
    assert len(single["seconds"]) >= 3
    for case in (medium, single):
        assert case["tokens_per_s"] == pytest.approx(case["n_tokens"] / case["median_s"], abs=0.1)
        assert case["memory_bytes"] > 0


def test_the_default_model_is_the_demo_model(run, minilm):
    status, out, _ = run("bench", "--case", "single", "--seconds", "0.01", "--json")
    assert status == 0
    assert json.loads(out)["model"]["file"] == minilm.name


def test_peak_memory_needs_no_line_of_the_kernel(tmp_path):
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\n", "utf-8")
    assert _bench.peak_memory(tmp_path) == 2048 * 1024
    status.write_text("Name:\tpython\n", "utf-8")
    peak = _bench.peak_memory(tmp_path)
    assert peak is None or peak > 2**20


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--case", "huge"], "--case must be of short, medium, long, mixed, single, got 'huge'"),
        (["--tune", "--case", "single"], "--case must be of short, medium, long, mixed, got"),
        (["--tune", "--case", "short,long"], "--tune takes one case, got 2"),
        (["--tune", "--threads", "1", "--ubatch", "64"], "leave nothing to --tune"),
        (["--seconds", "0"], "--seconds must be over 0, at most 60, got 0.0"),
        (["--seconds", "nan"], "--seconds must be over 0, at most 60, got nan"),
        (["--seconds", "61"], "--seconds must be over 0, at most 60, got 61.0"),
    ],
)
def test_wrong_usage_is_explained(argv, message, run):
    status, out, err = run("bench", "no-model-is-opened.gguf", *argv)
    assert (status, out) == (2, b"")
    assert message in err


def test_a_file_that_is_missing_and_numbers_that_are_wrong_are_errors(run, tiny, tmp_path):
    status, _, err = run("bench", tmp_path / "no.gguf")
    assert status == 1
    assert "no.gguf" in err
    status, _, err = run("bench", tiny("bert-mean"), "--ubatch", 0)
    assert status == 1
    assert "n_ubatch must be in 1.." in err


def test_rerankers_are_refused(run, tmp_path):
    path = make_tiny_rerankers.make("bert", tmp_path / "rank.gguf")
    status, _, err = run("bench", path)
    assert status == 1
    assert "reranker" in err


@pytest.mark.usefixtures("quick")
def test_tuning_a_real_model_covers_both_settings(run, tiny):
    found = tuned(run, tiny("qwen3-last"), "--threads", 1, "--case", "short", seconds=0.01)
    (sizes,) = found["curves"]
    assert set(found) == FACTS | {"texts", "limits", "curves", "comparison", "arguments"}
    assert sizes["setting"] == "n_ubatch"
    assert len(sizes["points"]) >= 1
    for point in sizes["points"]:
        assert set(point) == POINT
        assert point["n_threads"] == 1
        assert point["memory_bytes"] > 0
        assert len(point["seconds"]) == _bench.ROUNDS
    assert sizes["default"] in values(sizes)
    assert sizes["best"] in values(sizes)
    assert found["texts"]["longest"] == 8
    (threads,) = tuned(run, tiny("bert-mean"), "--ubatch", 64, seconds=0.01)["curves"]
    assert threads["setting"] == "n_threads"
    assert {point["n_ubatch"] for point in threads["points"]} == {64}


def test_curves_cover_all_sizes_and_all_threads(run, tiny, clock):
    clock(lambda *_: 0.1)
    found = tuned(run, tiny("bert-mean"))
    sizes, threads = found["curves"]
    assert values(sizes) == list(SIZES)
    assert values(threads) == list(range(1, N_CPUS + 1))
    assert sizes["left_out"] == threads["left_out"] == ""
    assert found["texts"]["n_tokens"] >= SIZES[-1]
    memory = [point["memory_bytes"] for point in sizes["points"]]
    assert memory[-1] > 8 * memory[0]
    assert sizes["best"] == SIZES[0]  # all are as fast: the smallest will do
    assert threads["best"] == 1


def test_settings_that_are_faster_are_arguments_for_embedder(run, tiny, clock):
    clock(lambda n_ubatch, n_threads, _: 1.0 / min(n_ubatch, 2048) / min(n_threads, 3))
    found = tuned(run, tiny("bert-mean"))
    sizes, threads = found["curves"]
    assert (sizes["best"], threads["best"]) == (2048, 3)
    assert found["arguments"]["n_ubatch"] == 2048
    assert found["comparison"]["gain"] > 1
    assert found["comparison"]["more_than_noise"]
    assert len(found["comparison"]["best"]["seconds"]) == 5
    with Embedder(tiny("bert-mean"), **found["arguments"]) as embedder:
        assert embedder.info().n_ubatch == 2048

    status, out, _ = run("bench", tiny("bert-mean"), "--tune", "--device", "cpu")
    lines = out.decode().splitlines()
    assert status == 0
    marked = {line.split()[0]: line for line in lines if line.endswith(("default", "best"))}
    assert marked["512"].endswith("default")
    assert marked["2,048"].endswith("best")
    assert lines[-1].endswith("n_threads=3)") or found["settings"]["n_threads"] == 3
    assert "Embedder(..., n_ubatch=2048" in lines[-1]


def test_a_gain_within_the_noise_gives_no_arguments(run, tiny, clock):
    def seconds(n_ubatch, _, i_call):
        return (0.9 if n_ubatch == 1024 else 1.0) * (1.3 if i_call == 5 else 1.0)

    clock(seconds)
    found = tuned(run, tiny("bert-mean"), "--threads", 1)
    assert found["curves"][0]["best"] == 1024
    assert found["comparison"]["gain"] > 1.1
    assert not found["comparison"]["more_than_noise"]
    assert found["arguments"] == {}


def test_the_default_needs_no_comparison_when_it_is_best(run, tiny, clock):
    clock(lambda n_ubatch, *_: 1.0 if n_ubatch == 512 else 2.0)
    assert tuned(run, tiny("bert-mean"), "--threads", 1)["comparison"] is None
    _, out, _ = run("bench", tiny("bert-mean"), "--tune", "--device", "cpu", "--threads", 1)
    assert out.decode().splitlines()[-1] == "the default settings are as fast as any, within 2%"


def test_points_that_take_too_long_are_left_out_and_named(run, tiny, clock):
    clock(lambda *_: 0.1, rate=1000.0)  # 400 tokens in 0.4 s, the limit of 0.1 s calls
    with Embedder(tiny("bert-mean")) as embedder:
        default = embedder.info().n_ubatch
    found = tuned(run, tiny("bert-mean"), "--threads", 3)
    assert values(found["curves"][0]) == [64, 128, 256, default]
    assert found["curves"][0]["left_out"] == (
        "n_ubatch from 1024 on, where a call would take 1.0 s: the limit is 0.4 s"
    )
    clock(lambda *_: 0.1, rate=100.0)
    threads = tuned(run, tiny("bert-mean"), "--ubatch", 64)["curves"][0]
    assert threads["left_out"].startswith("n_threads up to ")
    assert 1 not in values(threads)


def test_points_that_need_too_much_memory_are_left_out_and_named(run, tiny, clock, monkeypatch):
    clock(lambda *_: 0.1)
    everything = tuned(run, tiny("bert-mean"), "--threads", 1)["curves"][0]["points"]
    first_three = sum(point["memory_bytes"] for point in everything[:3])
    monkeypatch.setattr(_bench_tune, "available_memory", lambda: 2 * first_three)
    found = tuned(run, tiny("bert-mean"), "--threads", 1)
    assert values(found["curves"][0]) == list(SIZES[:3])
    assert found["limits"]["memory_bytes"] == first_three
    assert found["curves"][0]["left_out"].startswith("n_ubatch from 512 on, where all points")


def test_threads_whose_engines_need_too_much_memory_are_left_out(run, tiny, clock, monkeypatch):
    clock(lambda *_: 0.1)
    everything = tuned(run, tiny("bert-mean"), "--ubatch", 512)["curves"][0]["points"]
    first_two = sum(point["memory_bytes"] for point in everything[:2])
    monkeypatch.setattr(_bench_tune, "available_memory", lambda: 2 * first_two)
    (threads,) = tuned(run, tiny("bert-mean"), "--ubatch", 512)["curves"]
    assert values(threads) == [1, 2]
    assert threads["left_out"].startswith("n_threads from 3 on, where all points")


def test_without_a_point_there_is_no_verdict(run, tiny, clock, monkeypatch):
    clock(lambda *_: 0.1)
    monkeypatch.setattr(_bench_tune, "available_memory", lambda: 0)
    status, out, _ = run("bench", tiny("bert-mean"), "--tune", "--device", "cpu")
    assert status == 0
    assert out.decode().splitlines()[-1] == "not every curve has a point: there is no best setting"


@pytest.mark.parametrize("error", [OutOfMemoryError, InternalError])
def test_a_point_that_fails_is_named_and_the_others_go_on(run, tiny, clock, error):
    def seconds(n_ubatch, *_):
        if n_ubatch == 4096:
            raise error("no 4096 today")
        return 0.1

    clock(seconds)
    sizes = tuned(run, tiny("bert-mean"), "--threads", 1)["curves"][0]
    assert values(sizes) == [size for size in SIZES if size != 4096]
    assert sizes["failures"] == {"4096": "no 4096 today"}
    _, out, _ = run("bench", tiny("bert-mean"), "--tune", "--device", "cpu", "--threads", 1)
    assert any(
        line.split() == ["4,096", "no", "4096", "today"] for line in out.decode().split("\n")
    )


def test_a_comparison_without_memory_is_no_comparison(run, tiny, clock):
    def seconds(n_ubatch, _, i_call):
        if (n_ubatch, i_call) == (2048, _bench.ROUNDS + 1):
            raise OutOfMemoryError("no more 2048")
        return 1.0 / min(n_ubatch, 2048)

    argv = ("bench", tiny("bert-mean"), "--tune", "--device", "cpu", "--threads", 1)
    clock(seconds)
    status, out, _ = run(*argv)
    assert status == 0
    assert out.decode().splitlines()[-1].endswith("with the default ones: no more 2048")
    clock(seconds)
    status, out, _ = run(*argv, "--json")
    assert json.loads(out)["arguments"] == {}


def test_after_ctrl_c_the_figures_so_far_are_printed(run, tiny, clock):
    def seconds(n_ubatch, _, i_call):
        if (n_ubatch, i_call) == (256, 2):
            raise KeyboardInterrupt
        return 0.1

    clock(seconds)
    found = tuned(run, tiny("bert-mean"), "--threads", 1, status=130)
    assert found["interrupted"]
    assert len(found["curves"][0]["points"]) == len(SIZES)
    assert found["comparison"] is None
    clock(seconds)
    status, out, _ = run("bench", tiny("bert-mean"), "--tune", "--device", "cpu", "--threads", 1)
    assert status == 130
    assert out.decode().splitlines()[-1].startswith("interrupted before ")


def test_ctrl_c_ends_a_running_measurement(tiny):
    argv = command("bench", tiny("bert-mean"), "--case", "single", "--seconds", 60)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline().startswith(b"model ")
        assert interrupt(process) == 130
