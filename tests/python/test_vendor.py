"""Unpacking the vendored source: idempotent, and one clear sentence where it cannot go on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

VENDOR = Path(__file__).parents[2] / "vendor" / "llama.cpp"
PATCH = """Why: a test.

--- a/src/a.txt
+++ b/src/a.txt
@@ -1,1 +1,1 @@
-one
+two
"""


@pytest.fixture
def vendor(tmp_path):
    """The unpacking step with a series of one patch, and a small tree to unpack."""
    folder = tmp_path / "vendor"
    (folder / "patches").mkdir(parents=True)
    for name in ("unpack.cmake", "upstream.cmake"):
        shutil.copy(VENDOR / name, folder)
    (folder / "patches" / "series").write_text("0001-a.patch\n")
    (folder / "patches" / "0001-a.patch").write_text(PATCH)
    tree = tmp_path / "tree"
    for name in ("include/llama.h", "ggml/CMakeLists.txt", "docs/left-out.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("text\n")
    (tree / "src").mkdir()
    (tree / "src" / "a.txt").write_text("one\n")
    return folder


def unpack(vendor: Path, **env: object) -> subprocess.CompletedProcess[str]:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    return subprocess.run(
        [cmake, "-P", str(vendor / "unpack.cmake")],
        env={**os.environ, **{key: str(value) for key, value in env.items()}},
        capture_output=True,
        text=True,
        check=False,
    )


def message(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert done.stderr.count("CMake Error") == 1
    return re.sub(r"\s+", " ", done.stderr)


def test_needed_parts_are_unpacked_and_patched_once(vendor):
    source = vendor.parent / "tree"
    done = unpack(vendor, GGEMBED_LLAMA_CPP_SOURCE=source)
    assert done.returncode == 0, done.stderr
    assert "not the pinned archive" in re.sub(r"\s+", " ", done.stderr)
    unpacked = vendor / "source" / "src" / "a.txt"
    assert unpacked.read_text() == "two\n"
    assert not (vendor / "source" / "docs").exists()
    shutil.rmtree(source)  # the stamp matches, so it is not looked at again
    before = unpacked.stat().st_mtime_ns
    again = unpack(vendor)
    assert again.returncode == 0, again.stderr
    assert unpacked.stat().st_mtime_ns == before


def test_changed_patch_unpacks_again(vendor):
    source = vendor.parent / "tree"
    unpack(vendor, GGEMBED_LLAMA_CPP_SOURCE=source)
    (vendor / "patches" / "0001-a.patch").write_text(PATCH.replace("+two", "+three"))
    done = unpack(vendor, GGEMBED_LLAMA_CPP_SOURCE=source)
    assert done.returncode == 0, done.stderr
    assert (vendor / "source" / "src" / "a.txt").read_text() == "three\n"


def test_patch_that_does_not_apply_is_named(vendor):
    source = vendor.parent / "tree"
    (source / "src" / "a.txt").write_text("something else\n")
    text = message(unpack(vendor, GGEMBED_LLAMA_CPP_SOURCE=source))
    assert "0001-a.patch does not apply" in text
    assert not (vendor / "source" / ".stamp").exists()


def test_missing_source_is_named(vendor):
    text = message(unpack(vendor, GGEMBED_LLAMA_CPP_SOURCE=vendor / "nowhere"))
    assert "nowhere, which does not exist" in text


def test_no_network_says_what_to_do(vendor):
    text = message(unpack(vendor, PIP_NO_INDEX=1, PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL=""))
    assert "pip could not fetch" in text
    assert "GGEMBED_LLAMA_CPP_SOURCE" in text


def test_wrong_hash_is_told_with_both_hashes(vendor):
    pin = (vendor / "upstream.cmake").read_text()
    archive = re.search(r'LLAMA_CPP_ARCHIVE\s+"(.+)"', pin)[1]
    offered = vendor.parent / "index"
    offered.mkdir()
    (offered / archive).write_bytes(b"not the archive")
    text = message(unpack(vendor, PIP_NO_INDEX=1, PIP_FIND_LINKS=offered, PIP_EXTRA_INDEX_URL=""))
    assert "where the pin wants" in text
    assert len(re.findall(r"\b[0-9a-f]{64}\b", text)) >= 2


def test_every_patch_says_why_and_when_it_can_go():
    names = (VENDOR / "patches" / "series").read_text().split()
    assert sorted(names) == sorted(p.name for p in (VENDOR / "patches").glob("*.patch"))
    assert len(names) <= 8
    for name in names:
        opening = (VENDOR / "patches" / name).read_text().split("--- a/")[0]
        assert re.search(r"^Why: .+", opening, re.MULTILINE), name
        assert re.search(r"^Upstream: .+", opening, re.MULTILINE), name
        assert re.search(r"^Drop when: .+", opening, re.MULTILINE), name


def test_only_one_family_of_files_sees_upstream():
    csrc = VENDOR.parents[1] / "csrc"
    seen = {
        path.name
        for path in [*csrc.glob("*.cpp"), *csrc.glob("*.h")]
        if re.search(r"#include <(llama|mtmd|ggml-backend)", path.read_text("utf-8"))
    }
    assert seen
    assert all(name.startswith(("backend_llama", "internals_")) for name in seen), seen
