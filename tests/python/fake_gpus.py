"""Programs whose process has GPUs that are none: the internals module's copy of the library."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

# The library of this process is the internals module, with as many GPUs as sizes are given in MiB.
PRELUDE = """
import importlib.util, json, os, sys, warnings
spec = importlib.util.spec_from_file_location("_ggembed_internals", {path!r})
internals = importlib.util.module_from_spec(spec)
spec.loader.exec_module(internals)
internals.add_gpus([int(size * 2**20) for size in {sizes!r}])
from ggembed import *
from ggembed import _native
find = _native._find
_native._find = lambda: (internals.__file__, find()[1])
MODEL = {model!r}

def outcome(use):
    try:
        return repr(use())
    except EmbedError as err:
        return f"{{type(err).__name__}}: {{err}}"
"""


def run(
    internals: ModuleType,
    program: str,
    *,
    sizes: tuple[float, ...] = (1024, 1024),
    model: object = None,
    env: dict[str, str] | None = None,
) -> list[str]:
    """The lines that a program prints."""
    prelude = PRELUDE.format(path=internals.__file__, sizes=list(sizes), model=str(model))
    done = subprocess.run(
        [sys.executable, "-c", prelude + program],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
