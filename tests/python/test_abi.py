"""The layout of structs that cffi works out against a C compiler's, and the version check."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import ggembed
import pytest
from ggembed import LibraryLoadError, _native

STRUCTS = (
    *("gge_error", "gge_device_info", "gge_model_options", "gge_model_info"),
    *("gge_tokenize_options", "gge_engine_options", "gge_engine_info", "gge_encode_options"),
    *("gge_quantize_options", "gge_memory", "gge_tower_info", "gge_media_options", "gge_part"),
    *("gge_engine_stats", "gge_weights"),
)


def test_structs_have_the_layout_of_the_compiler(build_dir):
    program = build_dir / "tests" / "abi_layout"
    printed = subprocess.run([program], capture_output=True, encoding="ascii", check=True).stdout
    expected = {tuple(line.split()) for line in printed.splitlines()}
    ffi, found = _native.library().ffi, set()
    for name in STRUCTS:
        found.add((name, "-", "0", str(ffi.sizeof(name))))
        for field, info in ffi.typeof(name).fields:
            found.add((name, field, str(info.offset), str(ffi.sizeof(info.type))))
    assert found == expected


def test_header_in_the_package_is_the_one_of_the_sources():
    installed = resources.files("ggembed").joinpath("ggembed.h").read_bytes()
    source = Path(__file__).parents[2] / "csrc" / "include" / "ggembed.h"
    assert installed == source.read_bytes()


def test_versions_agree():
    lib = _native.library()
    assert lib.string(lib.lib.gge_version()) == ggembed.__version__
    assert lib.lib.gge_abi_oldest() <= _native.ABI_VERSION <= lib.lib.gge_abi_version()
    info = ggembed.build_info()
    assert info["package_version"] == info["native_version"] == ggembed.__version__
    assert Path(info["library"]).name == _native.LIBRARY_NAME


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("ABI_VERSION", 99, "wants version {0} with ABI 99, found version {0} with ABI 5 "),
        ("__version__", "7.8.9", "ggembed 7.8.9 wants version 7.8.9 .* found version {0} "),
    ],
)
def test_mismatch_tells_versions_and_file(monkeypatch, name, value, found):
    lib = _native.library()
    version = ggembed.__version__
    monkeypatch.setattr(_native, name, value)
    with pytest.raises(LibraryLoadError, match=found.format(version)) as caught:
        _native.Library()
    assert lib.path in str(caught.value)


def test_header_of_another_version_is_a_mismatch(monkeypatch):
    path, header = _native._find()
    other = header.replace("#define GGE_ABI_VERSION 5\n", "#define GGE_ABI_VERSION 6\n")
    assert other != header
    monkeypatch.setattr(_native, "_find", lambda: (path, other))
    with pytest.raises(LibraryLoadError, match="header 6"):
        _native.Library()


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(_native, "LIBRARY_NAME", "libnothere.so")
    with pytest.raises(LibraryLoadError, match=r"libnothere.so or ggembed.h is missing"):
        _native.Library()


def test_broken_library_is_named(monkeypatch, tmp_path):
    path = tmp_path / "libbroken.so"
    path.write_bytes(b"not a library")
    _, header = _native._find()
    monkeypatch.setattr(_native, "_find", lambda: (str(path), header))
    with pytest.raises(LibraryLoadError, match=r"cannot load the native library: .*libbroken"):
        _native.Library()


def test_import_loads_no_library_and_starts_no_thread(run_python):
    program = """
import sys, threading
import ggembed
from ggembed import _native
assert _native._library is None
assert "cffi" not in sys.modules
assert threading.active_count() == 1
print("ok")
"""
    done = run_python(program)
    assert done.stdout == "ok\n", done.stderr


def test_library_loads_once_under_threads(run_python):
    program = """
import threading
from ggembed import _native
found = []
threads = [threading.Thread(target=lambda: found.append(_native.library())) for _ in range(16)]
for t in threads: t.start()
for t in threads: t.join()
print(len(found), len(set(map(id, found))))
"""
    done = run_python(program)
    assert done.stdout == "16 1\n", done.stderr


def test_every_exported_function_is_declared():
    tool = shutil.which("nm")
    if tool is None or not sys.platform.startswith("linux"):
        pytest.skip("needs nm and ELF")
    lib = _native.library()
    printed = subprocess.run(
        [tool, "-D", "--defined-only", lib.path], capture_output=True, encoding="utf-8", check=True
    ).stdout
    exported = {line.split()[-1].partition("@")[0] for line in printed.splitlines()}
    functions = {name for name in dir(lib.lib) if name.startswith("gge_")}
    assert {name for name in exported if name.startswith("gge_")} == functions
    assert {name for name in exported if not name.startswith("gge_")} <= {"GGEMBED_1", "GGEMBED"}
