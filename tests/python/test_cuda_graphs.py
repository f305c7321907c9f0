"""CUDA graphs: the decision with a driver that is none, and that it reaches the back ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import fake_gpus
import pytest
from ggembed import Embedder, demo_omni

# What CUDA's driver is asked for; CAPABILITIES is a list such as 90, 89. The handle of a device is
# not its number.
DRIVER = """
static const int capabilities[] = {CAPABILITIES};
static int started;
int cuInit(unsigned flags) { started = INIT == 0 && flags == 0; return INIT; }
int cuDeviceGetCount(int *n) { *n = sizeof(capabilities) / sizeof(int); return started ? 0 : 3; }
int cuDeviceGet(int *device, int i) { *device = 7 + i; return started ? 0 : 3; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const int capability = capabilities[device - 7];
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
    return started ? 0 : 3;
}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the driver is found as on Linux")


@pytest.fixture
def driver(tmp_path):
    """Gives the environment of a process that finds a driver with GPUs of these capabilities."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def make(*capabilities, init=0, **variables):
        values = [
            f"-DCAPABILITIES={','.join(map(str, capabilities))}",
            f"-DINIT={init}",
        ]
        library = tmp_path / "libcuda.so.1"
        subprocess.run(
            [compiler, *values, "-xc", "-", "-shared", "-fPIC", "-o", library],
            input=DRIVER,
            encoding="utf-8",
            check=True,
        )
        own = {k: v for k, v in os.environ.items() if k != "GGML_CUDA_DISABLE_GRAPHS"}
        return {**own, "LD_LIBRARY_PATH": str(tmp_path), **variables}

    return make


@pytest.fixture
def graphs_of(internals, tiny):
    """What info() says of an Embedder, once its back ends are seen to follow that."""

    def run(env, *, model=None, **options):
        program = f"""
with Embedder(MODEL, n_threads=1, **{options!r}) as embedder:
    loaded = internals.gpus()
    embedder.encode(["a", "b"])
    embedder.encode(["a", "b"])
    info, used = embedder.info(), internals.gpus()
counts = [[g[k] - l[k] for k in ("n_graphs", "n_captures")] for g, l in zip(used, loaded)]
assert all(gpu["n_captures"] == 0 for gpu in loaded)
print(json.dumps([info.cuda_graphs, info.cuda_graphs_reason, *map(sum, zip(*counts))]))
"""
        (line,) = fake_gpus.run(internals, program, model=model or tiny("qwen3-last"), env=env)
        on, reason, n_graphs, n_captures = json.loads(line)
        assert n_graphs > 0 or on is None
        assert n_captures == (n_graphs if on else 0)
        return on, reason

    return run


def test_the_compute_capability_is_the_drivers(internals, driver):
    program = "print([d.compute_capability for d in devices()])"
    assert fake_gpus.run(internals, program, env=driver(90, 89)) == ["[(9, 0), (8, 9), None]"]
    assert fake_gpus.run(internals, program, env=driver(120)) == ["[(12, 0), None, None]"]


@pytest.mark.parametrize("init", [100, 999])
def test_a_driver_that_does_not_start_tells_nothing(init, internals, driver, graphs_of):
    env = driver(89, init=init)
    program = "print([d.compute_capability for d in devices()])"
    assert fake_gpus.run(internals, program, env=env) == ["[None, None, None]"]
    assert graphs_of(env) == (False, "auto: the compute capability of cuda:0 is unknown")


@pytest.mark.parametrize("capability", [90, 91])
def test_hopper_captures_no_graphs_unless_asked_to(capability, driver, graphs_of):
    env = driver(capability)
    number = f"9.{capability % 10}"
    assert graphs_of(env) == (False, f"auto: cuda:0 has compute capability {number}")
    assert graphs_of(env, cuda_graphs=False) == (False, "asked for")
    assert graphs_of(env, cuda_graphs=True) == (True, "asked for")


def test_others_capture_graphs_unless_asked_not_to(driver, graphs_of):
    env = driver(89, 90)
    assert graphs_of(env) == (True, "auto: cuda:0 has compute capability 8.9")
    assert graphs_of(env, cuda_graphs=False) == (False, "asked for")


def test_of_several_devices_one_hopper_is_enough(driver, graphs_of):
    found = graphs_of(driver(89, 90), device=["cuda:0", "cuda:1"])
    assert found == (False, "auto: cuda:1 has compute capability 9.0")


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_the_variable_of_upstream_is_respected_whatever_its_value(value, driver, graphs_of):
    env = driver(89, GGML_CUDA_DISABLE_GRAPHS=value)
    for options in ({}, {"cuda_graphs": True}, {"cuda_graphs": False}):
        assert graphs_of(env, **options) == (False, "GGML_CUDA_DISABLE_GRAPHS is set")


def test_the_environment_is_not_changed(internals, driver, tiny):
    program = """
before = dict(os.environ)
ctypes = __import__("ctypes")
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
with Embedder(MODEL, n_threads=1) as embedder:
    embedder.encode("a")
print(getenv(b"GGML_CUDA_DISABLE_GRAPHS"), dict(os.environ) == before)
"""
    found = fake_gpus.run(internals, program, model=tiny("qwen3-last"), env=driver(90))
    assert found == ["None True"]


def test_towers_follow_the_choice(internals, driver, tmp_path):
    files = demo_omni.write_models(tmp_path / "omni", min_pixels=4096, max_pixels=16384)
    program = f"""
import numpy as np
found = []
for cuda_graphs in ("auto", True):
    options = dict(mmproj={list(map(str, files[1:]))!r}, n_threads=1, cuda_graphs=cuda_graphs)
    with Embedder(MODEL, **options) as embedder:
        loaded = internals.gpus()[0]
        embedder.encode([["a", Image(np.zeros((64, 64, 3), np.uint8))]])
        used = internals.gpus()[0]
        found.append([used[k] - loaded[k] for k in ("n_graphs", "n_captures")])
print(json.dumps(found))
"""
    (line,) = fake_gpus.run(internals, program, model=files.model, env=driver(90))
    (n_graphs, n_captures), (n_graphs_on, n_captures_on) = json.loads(line)
    assert (n_captures, n_captures_on) == (0, n_graphs_on)
    assert n_graphs == n_graphs_on > 1


def test_on_the_cpu_the_question_does_not_arise(tiny):
    for choice in ("auto", True, False):
        with Embedder(tiny("bert-mean"), n_threads=1, cuda_graphs=choice) as embedder:
            info = embedder.info()
        assert (info.cuda_graphs, info.cuda_graphs_reason) == (None, "no CUDA device is used")


@pytest.mark.parametrize("value", ["on", None, 1, 0])
def test_what_is_no_choice_is_an_error(value, tiny):
    with pytest.raises(ValueError, match="cuda_graphs must be 'auto', True or False, got"):
        Embedder(tiny("bert-mean"), cuda_graphs=value)


def test_doctor_shows_the_choice(internals, driver, tiny):
    program = """
print([f.what for f in doctor(MODEL).findings if "CUDA graphs" in f.what])
"""
    found = fake_gpus.run(internals, program, model=tiny("qwen3-last"), env=driver(90))
    assert found == ["['CUDA graphs are off (auto: cuda:0 has compute capability 9.0)']"]
