"""Devices: what there is, which one is taken and why, layers on several, and lack of memory."""

from __future__ import annotations

import json
import re
import sys

import fake_gpus
import pytest
from ggembed import DeviceError, Embedder, devices, estimate


@pytest.fixture
def on_gpus(internals, tiny):
    """Runs a program in a process with GPUs that are none."""

    def run(program, *, model="qwen3-last", **options):
        return fake_gpus.run(internals, program, model=tiny(model), **options)

    return run


def test_the_cpu_is_the_last_device_and_has_no_compute_capability():
    cpu = devices()[-1]
    assert (cpu.name, cpu.kind, cpu.index, cpu.compute_capability) == ("cpu", "cpu", 0, None)
    assert 0 < cpu.memory_free < cpu.memory_total


def test_gpus_are_listed_with_their_memory(on_gpus):
    (line,) = on_gpus(
        "print(json.dumps([(d.name, d.kind, d.index, d.memory_total >> 20) for d in devices()]))",
        sizes=(512, 256),
    )
    *gpus, cpu = json.loads(line)
    assert gpus == [["cuda:0", "cuda", 0, 512], ["cuda:1", "cuda", 1, 256]]
    assert cpu[0] == "cpu"


def test_auto_says_what_it_took_and_why(on_gpus, tiny):
    with Embedder(tiny("bert-mean"), n_threads=1) as embedder:
        info = embedder.info()
    assert (info.device, info.device_reason) == ("cpu", "auto: no GPU is usable by this build")
    program = """
with Embedder(MODEL, n_threads=1) as embedder:
    print(embedder.info().device, embedder.info().device_reason)
"""
    assert on_gpus(program) == ["cuda:0 auto: the first GPU of 2"]
    assert on_gpus(program, sizes=(512,)) == ["cuda:0 auto: the first GPU"]


def test_a_missing_device_lists_what_there_is(on_gpus, tiny):
    for use in (Embedder, estimate):
        with pytest.raises(DeviceError, match=r'"cuda:1" is not available, there is cpu$'):
            use(tiny("bert-mean"), device="cuda:1")
    found = on_gpus('print(outcome(lambda: Embedder(MODEL, device="metal")))')
    wanted = 'DeviceError: device "metal" is not available, there is cuda:0, cuda:1, cpu'
    assert found == [wanted]


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        (1, TypeError, "device must be a str or a sequence of them, got 1"),
        (["cuda:0", 1], TypeError, "device must be a str or a sequence of them"),
        ([], ValueError, r"device must name a device, got \[\]"),
        ("", ValueError, "device must name a device, got ''"),
        (["cpu", "cpu"], ValueError, 'device "cpu" stands alone'),
    ],
)
def test_what_is_no_device_is_an_error(device, error, message, tiny):
    for use in (Embedder, estimate):
        with pytest.raises(error, match=message):
            use(tiny("bert-mean"), device=device)


def test_an_unknown_split_is_an_error(tiny):
    for use in (Embedder, estimate):
        with pytest.raises(
            ValueError, match="split must be one of 'layer', 'copies', 'none', got 'row'"
        ):
            use(tiny("bert-mean"), split="row")


def test_cpu_means_that_no_gpu_is_touched(on_gpus):
    """Not even with as many tokens as llama.cpp would send to a GPU from the host's memory."""
    (line,) = on_gpus("""
with Embedder(MODEL, device="cpu", n_threads=1, n_ubatch=512) as embedder:
    embedder.encode(["the question " * 40] * 16)
print(json.dumps(internals.gpus()))
""")
    for gpu in json.loads(line):
        assert set(gpu.values()) == {0}


def test_only_the_gpu_that_was_asked_for_is_touched(on_gpus):
    (line,) = on_gpus("""
with Embedder(MODEL, device="cuda:1", n_threads=1) as embedder:
    embedder.encode("a")
    assert internals.gpus()[1]["used"] > 0
print(json.dumps(internals.gpus()))
""")
    first, second = json.loads(line)
    assert set(first.values()) == {0}
    assert second["n_graphs"] > 0
    assert second["used"] == 0  # after close()


@pytest.mark.parametrize("model", ["qwen3-last", "lfm2-mean"])
def test_layers_are_shared_out_among_gpus(model, on_gpus):
    (line,) = on_gpus(
        """
import numpy as np
texts = ["the question", "an answer " * 30, "a"]
with Embedder(MODEL, device="cpu", n_threads=1) as embedder:
    expected = embedder.encode(texts)
found = {}
for device, split in ((["cuda:0", "cuda:1"], None), ("cuda:1,cuda:0", "layer"), ("cuda", "layer")):
    with Embedder(MODEL, device=device, split=split, n_threads=1) as embedder:
        rows, info = embedder.encode(texts), embedder.info()
        used = [gpu["used"] > 0 for gpu in internals.gpus()]
        found[info.device] = [info.device_reason, used, float((rows * expected).sum(1).min())]
print(json.dumps(found))
""",
        model=model,
    )
    found = json.loads(line)
    assert list(found) == ["cuda:0,cuda:1", "cuda:1,cuda:0", "cuda:0"]
    for device, (reason, used, cosine) in found.items():
        shared = "," in device
        assert reason == "asked for" + ", layers shared out by free memory" * shared
        assert used == [True, shared]
        assert cosine > 1 - 1e-5


def test_several_devices_without_a_split_say_what_is_possible(on_gpus):
    (found,) = on_gpus("""
print(outcome(lambda: Embedder(MODEL, device=["cuda:0", "cuda:1"], split="none")))
""")
    assert found == (
        'UnsupportedError: split "none" puts a model on one device, "cuda:0,cuda:1" names 2: split '
        '"layer" shares the layers out among them, "copies" puts a copy on each'
    )


@pytest.mark.parametrize("model", ["bert-mean", "qwen3-last", "lfm2-mean"])
def test_copies_on_all_gpus_give_the_rows_of_one(model, on_gpus):
    (line,) = on_gpus(
        """
import numpy as np
texts = ["the question " * (i % 40) + str(i) for i in range(400)]
found = {}
with Embedder(MODEL, device="cuda:0", n_threads=1, n_ubatch=128) as embedder:
    expected = embedder.encode(texts)
for device in ("auto", "cuda", ["cuda:1", "cuda:0"]):
    with Embedder(MODEL, device=device, split="copies", n_threads=1, n_ubatch=128) as embedder:
        before = [gpu["n_graphs"] for gpu in internals.gpus()]
        same = bool((embedder.encode(texts) == expected).all())
        info, stats = embedder.info(), embedder.stats()
        used = [gpu["used"] > 0 for gpu in internals.gpus()]
    work = [gpu["n_graphs"] - n for gpu, n in zip(internals.gpus(), before)]
    found[str(device)] = [info.device, info.device_reason, same, used, min(work), stats.n_texts]
print(json.dumps([found, [gpu["used"] for gpu in internals.gpus()]]))
""",
        model=model,
    )
    found, used_in_the_end = json.loads(line)
    for device, (names, reason, same, used, least_work, n_texts) in found.items():
        assert sorted(names.split(",")) == ["cuda:0", "cuda:1"]
        assert reason.endswith("a copy on each")
        assert reason.startswith("auto" if device == "auto" else "asked for")
        assert same
        assert used == [True, True]
        assert least_work > 0
        assert n_texts == 400
    assert used_in_the_end == [0, 0]


def test_where_there_is_one_device_there_is_one_copy(on_gpus, tiny):
    with Embedder(tiny("bert-mean"), split="copies", n_threads=1) as embedder:
        assert embedder.info().device == "cpu"
    program = """
for device in ("auto", "cuda:0", "cpu"):
    with Embedder(MODEL, device=device, split="copies", n_threads=1) as embedder:
        print(embedder.info().device, embedder.info().device_reason, embedder.encode("a").shape[0])
"""
    names = [line.rsplit(maxsplit=1)[0] for line in on_gpus(program, sizes=(512,))]
    assert names == ["cuda:0 auto: the first GPU", "cuda:0 asked for", "cpu asked for"]


def test_copies_need_gpus_and_layers_on_them(on_gpus):
    found = on_gpus("""
for options in ({"device": "cuda:0,cpu"}, {"device": ["cuda:0", "cuda:0"]}, {"device": "metal"},
                {"device": "cuda", "n_gpu_layers": 0}):
    print(outcome(lambda: Embedder(MODEL, split="copies", **options)))
    print(outcome(lambda: estimate(MODEL, split="copies", **options)))
""")
    for line, what in zip(
        found[::2],
        (
            'InvalidInputError: device "cpu" stands alone',
            'InvalidInputError: device "cuda:0" is named twice',
            'DeviceError: device "metal" is not available',
            'InvalidInputError: split "copies" is for layers on GPUs',
        ),
        strict=True,
    ):
        assert line.startswith(what)
    assert found[::2] == found[1::2]


def test_the_estimate_of_copies_is_that_of_each_together(on_gpus):
    (line,) = on_gpus("""
import dataclasses
needs = [estimate(MODEL, device=device, split="copies") for device in ("cuda:0", "cuda", "auto")]
print(json.dumps([dataclasses.asdict(n) for n in needs]))
""")
    one, both, every = json.loads(line)
    assert one["weights_device"] > 0
    assert one.pop("weights") == both.pop("weights") == every.pop("weights") != []
    assert both == every == {name: 2 * size for name, size in one.items()}


def test_progress_of_copies_is_that_of_one_load(on_gpus):
    (line,) = on_gpus("""
seen = []
Embedder(MODEL, device="cuda", split="copies", progress=lambda *now: seen.append(now)).close()
print(json.dumps(seen))
""")
    seen = json.loads(line)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


def test_a_copy_that_does_not_fit_is_an_error_that_names_its_device(on_gpus):
    (found,) = on_gpus(
        'print(outcome(lambda: Embedder(MODEL, device="cuda", split="copies", n_threads=1)))',
        model="qwen3-wide-last",
        sizes=(64, 1),
    )
    assert found.startswith("OutOfMemoryError: ")
    assert "cuda:1" in found
    assert "cuda:0" not in found


def test_requests_of_coroutines_find_their_rows_on_any_copy(on_gpus):
    (line,) = on_gpus("""
import asyncio
texts = ["the question " * (i % 9) + str(i) for i in range(64)]
async def all_of(embedder):
    return await asyncio.gather(*(embedder.aencode(text) for text in texts))
with Embedder(MODEL, device="cuda", split="copies", n_threads=1) as embedder:
    rows = asyncio.run(all_of(embedder))
    print(min(float(row @ embedder.encode(text)) for row, text in zip(rows, texts)))
""")
    assert float(line) > 1 - 1e-5


def test_layers_that_stay_on_the_cpu_are_counted(on_gpus):
    counts = on_gpus("""
for n in (0, 1, None):
    with Embedder(MODEL, device="cuda", n_gpu_layers=n, n_threads=1) as embedder:
        print(embedder.info().n_gpu_layers, embedder.encode("a").shape)
""")
    (_, _), (_, _), (n_all, _) = (line.split(maxsplit=1) for line in counts)
    assert [line.split(maxsplit=1)[0] for line in counts] == ["0", "1", n_all]
    assert int(n_all) > 1


# ------------------------------------------------------------------ memory


def test_a_model_that_does_not_fit_a_gpu_is_an_error_with_numbers(on_gpus):
    """And no layer is silently left on the CPU."""
    (found,) = on_gpus(
        'print(outcome(lambda: Embedder(MODEL, device="cuda", n_threads=1)))',
        model="qwen3-wide-last",
        sizes=(1,),
    )
    assert found.startswith("OutOfMemoryError: ")
    numbers = re.search(
        r"the weights take ([\d.]+) MiB on cuda:0 and [\d.]+ MiB on the host; "
        r"free are 1.0 MiB on cuda:0$",
        found,
    )
    assert float(numbers[1]) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_model_that_does_not_fit_the_host_is_an_error_with_numbers(run_python, minilm):
    done = run_python(
        """
import resource, sys
from ggembed import Embedder, OutOfMemoryError, estimate
estimate(sys.argv[1], device="cpu")
used = 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if "VmData" in line))
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**24, used + 2**24))
try:
    Embedder(sys.argv[1], device="cpu", n_threads=1, mmap=False)
except OutOfMemoryError as err:
    print(err)
""",
        minilm,
    )
    # an estimate may lack memory as well
    numbers = r"the (weights take|file has) 4\d\.\d MiB.*; free are [\d.]+ [MG]iB on cpu$"
    assert re.search(numbers, done.stdout.strip()), done.stdout + done.stderr


def test_micro_batches_shrink_to_the_memory_of_a_gpu(on_gpus):
    """And say so in the log, with numbers."""
    (held,) = on_gpus("""
found = []
for n in (2048, 64):
    with Embedder(MODEL, device="cuda", n_threads=1, n_ubatch=n) as embedder:
        found.append(internals.gpus()[0]["used"])
print(found)
""")
    large, least = json.loads(held)
    program = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level=logging.WARNING)
def use():
    with Embedder(MODEL, device="cuda", n_threads=1, n_ubatch=2048) as embedder:
        return embedder.info().n_ubatch, embedder.encode(["the question " * 20] * 40).shape
print(outcome(use))
"""
    *lines, found = on_gpus(program, sizes=((least + (large - least) // 3) / 2**20,))
    warnings = [line for line in lines if "no memory for micro-batches" in line]
    assert warnings[0].startswith("WARNING no memory for micro-batches of 2048 tokens, trying half")
    assert re.search(r"buffer of size \d+.*; free are [\d.]+ MiB on cuda:0", warnings[0])
    n_ubatch = 2048 >> len(warnings)
    assert found == f"({n_ubatch}, (40, 48))"
    assert 64 <= n_ubatch < 2048


# ------------------------------------------------------------------ fork


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this platform has no fork")
def test_gpus_do_not_survive_a_fork(on_gpus):
    told, listed, on_cpu, status = on_gpus("""
devices()
pid = os.fork()
if pid == 0:
    print(outcome(lambda: Embedder(MODEL)), flush=True)
    print([(d.name, d.memory_total) for d in devices()][:2], flush=True)
    print(Embedder(MODEL, device="cpu", n_threads=1).encode("a").shape, flush=True)
    os._exit(0)
print(os.waitpid(pid, 0)[1])
""")
    assert re.match(
        r"DeviceError: cuda:0 cannot be used here: its driver was started in process \d+, of which "
        r"this one is a forked child; start processes with spawn, or look for devices only after",
        told,
    )
    assert listed == "[('cuda:0', 0), ('cuda:1', 0)]"
    assert (on_cpu, status) == ("(48,)", "0")
