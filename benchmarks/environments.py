"""What peers need: environments of their own below build/peers, made when they are first wanted.

    python benchmarks/environments.py              # makes all of them
    python benchmarks/environments.py onnx

Sentence Transformers is not among them: it is that of the Python which --torch names.
"""

from __future__ import annotations

import os
import subprocess
import sys

import upstream

FOLDER = upstream.ROOT / "build" / "peers"

# llama-cpp-python comes without a llama.cpp of its own: it loads the libraries that upstream.py
# builds out of the same archive.
_ENVIRONMENT = {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}
PACKAGES = {
    "llama-cpp-python": ("numpy", str(upstream.archive())),
    "onnx": ("numpy", "onnx>=1.17", "onnxruntime>=1.20", "safetensors", "sympy", "tokenizers"),
    "plot": ("matplotlib>=3.8",),
}


class UnavailableError(Exception):
    """An environment or a program cannot be had here; the message is the reason."""


def python(name: str) -> str:
    """The interpreter of an environment, made when it is not there yet."""
    folder = FOLDER / name
    program = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / "complete").exists():
        return str(program)
    print(f"making {folder.relative_to(upstream.ROOT)} ...", file=sys.stderr, flush=True)
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(program), "-m", "pip", "install", "--quiet", *PACKAGES[name]],
    )
    for command in commands:
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **_ENVIRONMENT},
                stdout=sys.stderr,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        except OSError as error:
            raise UnavailableError(f"{command[0]}: {error}") from None
        if done.returncode:
            lines = [x for x in done.stderr.splitlines() if x.strip()]
            reason = next((x for x in lines if x.startswith("ERROR")), (lines or ["failed"])[-1])
            raise UnavailableError(f"{' '.join(command[1:4])}: {reason.strip()}")
    (folder / "complete").touch()
    return str(program)


def main() -> None:
    for name in sys.argv[1:] or PACKAGES:
        print(python(name))


if __name__ == "__main__":
    main()
