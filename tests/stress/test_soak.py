"""A short soak; `make stress` runs it for ten minutes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")
# In so short a time memory is not flat yet: the allocator's pools still fill.
GROWTH = 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")
def test_mixed_load_leaves_no_thread_no_file_and_little_memory(tiny, figures):
    models = [tiny("bert-mean"), tiny("qwen3-last")]
    done = subprocess.run(
        [sys.executable, SOAK, *models, "--seconds", "20", "--limit", str(GROWTH)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    figures(re.findall(r"^soak: .*$", done.stdout, re.MULTILINE)[-1])
