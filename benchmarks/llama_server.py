"""Builds llama-server out of the pinned archive, as it is upstream: none of our patches.

    python benchmarks/llama_server.py          # builds it below build/llama-server, prints its path

The options are upstream's defaults but for those that leave speed alone: no TLS, no web interface,
static libraries. GGML_NATIVE is on, as in our own builds.
"""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "llama-server"
PROGRAM = FOLDER / "build" / "bin" / "llama-server"
WANTED = ("CMakeLists.txt", "LICENSE", "cmake", "common", "ggml", "include", "licenses", "src")
WANTED += ("scripts", "tools", "vendor")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "GGML_NATIVE": "ON",
}


def pin() -> dict[str, str]:
    """The values of vendor/llama.cpp/upstream.cmake."""
    text = (ROOT / "vendor" / "llama.cpp" / "upstream.cmake").read_text("utf-8")
    return dict(re.findall(r'set\(LLAMA_CPP_(\w+)\s+"([^"]*)"\)', text))


def unpack(target: Path) -> None:
    """Puts the parts of the pinned tree that the server needs into `target`."""
    about = pin()
    archive = ROOT / "vendor" / "llama.cpp" / "archive" / about["ARCHIVE"]
    if not archive.exists():
        sys.exit(f"{archive.relative_to(ROOT)} is missing; building ggembed fetches it: make build")
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != about["SHA256"]:
        sys.exit(f"{archive.relative_to(ROOT)} is not the pinned archive; delete it and make build")
    with tarfile.open(archive) as file:
        for member in file:
            path = member.name.partition("/vendor/llama.cpp/")[2]
            if path.split("/")[0] in WANTED and (member.isfile() or member.isdir()):
                member.name = path
                file.extract(member, target)


def build() -> Path:
    """The program, built when it is not there yet."""
    if PROGRAM.exists():
        return PROGRAM
    source = FOLDER / "source"
    if not (source / "CMakeLists.txt").exists():
        unpack(source)
    defines = {**OPTIONS, "LLAMA_BUILD_COMMIT": pin()["COMMIT"]}
    options = [f"-D{name}={value}" for name, value in defines.items()]
    commands = (
        ["cmake", "-S", str(source), "-B", str(FOLDER / "build"), *options],
        ["cmake", "--build", str(FOLDER / "build"), "--target", "llama-server"],
    )
    for command in commands:
        subprocess.run(command, check=True, stdout=sys.stderr)
    return PROGRAM


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(build())
