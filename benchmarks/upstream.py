"""Upstream's programs and libraries out of the pinned archive, as they are: none of our patches.

    python benchmarks/upstream.py              # builds them below build/peers, prints their paths

benchmarks/CMakeLists.txt says how they are built.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = ("llama-server", "llama-embedding")
_WANTED = "CMAKE_BUILD_TYPE|CMAKE_C_COMPILER|GGML_NATIVE|GGML_OPENMP|GGML_CUDA"


def pin() -> dict[str, str]:
    """The values of vendor/llama.cpp/upstream.cmake."""
    text = (ROOT / "vendor" / "llama.cpp" / "upstream.cmake").read_text("utf-8")
    return dict(re.findall(r'set\(LLAMA_CPP_(\w+)\s+"([^"]*)"\)', text))


def archive() -> Path:
    """The pinned archive, which building ggembed fetches."""
    return ROOT / "vendor" / "llama.cpp" / "archive" / pin()["ARCHIVE"]


def _folder(*, cuda: bool) -> Path:
    return ROOT / "build" / "peers" / ("upstream-cuda" if cuda else "upstream")


def program(name: str, *, cuda: bool = False) -> Path:
    """The path of a program, built when it is not there yet."""
    folder = _folder(cuda=cuda)
    path = folder / "programs" / "bin" / name
    if not path.exists():
        print(f"building upstream's {' and '.join(PROGRAMS)} ...", file=sys.stderr, flush=True)
        source = str(Path(__file__).parent)
        define = f"-DGGEMBED_CUDA={'ON' if cuda else 'OFF'}"
        target = ["--target", "upstream-programs"]
        for command in (
            ["cmake", "-S", source, "-B", str(folder), define],
            ["cmake", "--build", str(folder), *target],
        ):
            subprocess.run(command, check=True, stdout=sys.stderr)
    return path


def options(*, cuda: bool = False) -> dict[str, str]:
    """What explains the speed of a build."""
    cache = (_folder(cuda=cuda) / "programs" / "CMakeCache.txt").read_text("utf-8")
    return dict(re.findall(rf"^({_WANTED}):\w+=(.*)$", cache, re.MULTILINE))


if __name__ == "__main__":
    for name in PROGRAMS:
        print(program(name))
