"""The native tests, so that one pytest run shows all levels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from ggembed import demo_omni


@pytest.fixture(scope="module")
def omni(tmp_path_factory) -> str:
    """A small text model with projectors for small images, as the native tests take them."""
    folder = tmp_path_factory.mktemp("omni")
    return ":".join(map(str, demo_omni.write_models(folder, min_pixels=4096, max_pixels=16384)))


@pytest.mark.parametrize("model", ["bert-mean", "qwen3-last", "eurobert-last"])
def test_native_tests_pass(build_dir, tiny, omni, model):
    ctest = shutil.which("ctest")
    if ctest is None:
        pytest.skip("ctest is not installed; it comes with CMake")
    done = subprocess.run(
        [ctest, "--test-dir", build_dir, "--output-on-failure", "--no-tests=error"],
        env={**os.environ, "GGEMBED_TEST_MODEL": str(tiny(model)), "GGEMBED_TEST_OMNI": omni},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    failing = re.findall(r"^\s*\d+ - (\S+) \((?!Skipped)", done.stdout, re.MULTILINE)
    tail = "\n".join((done.stdout + done.stderr).splitlines()[-60:])
    assert done.returncode == 0, f"failing native tests: {', '.join(failing)}\n{tail}"
