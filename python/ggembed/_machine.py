"""The machine as ``doctor`` sees it: build, devices, drivers, limits, optional packages."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _info
from .errors import LibraryLoadError
from .findings import Finding

GIB = 2**30

_PURPOSES = {
    "gguf": "converting models, the demo model",
    "safetensors": "converting models, the demo model, projections",
    "huggingface-hub": "models from the hub",
    "pyarrow": "Arrow columns, Parquet files",
}
_OUR_EXTRAS = {"dev", "parity", "test"}  # for work on ggembed, not with it

# What the levels of the System V ABI add. Source: x86-64 psABI, table 3.1.
_CPU_LEVELS = (
    ("x86-64-v2", {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("x86-64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


def check_machine() -> Iterator[Finding]:
    """Findings about everything but the model."""
    try:
        build = _info.build_info()
    except LibraryLoadError as err:
        yield Finding("error", str(err), "install or build ggembed again")
        return
    backends = [name for name in ("cuda", "metal") if build[name]]
    yield Finding(
        "ok",
        f"ggembed {build['package_version']} with llama.cpp {build['llama_cpp_commit']}, built for "
        f"{build['system']}, CPU {build['cpu']}, {', '.join(backends) or 'no GPU'}",
    )
    yield from check_cpu_level(str(build["cpu"]), _cpu_flags())
    kinds = set()
    for device in _info.devices():
        kinds.add(device.kind)
        if device.kind != "cpu":
            free, total = device.memory_free / GIB, device.memory_total / GIB
            name = f"{device.name}, {device.description}"
            yield Finding("ok", f"{name}: {free:.1f} of {total:.1f} GiB free")
    yield from check_nvidia(_has_nvidia_driver(), bool(build["cuda"]), "cuda" in kinds)
    yield _limits(Path("/"))
    yield from check_packages(importlib.metadata.requires("ggembed") or [])


def check_cpu_level(build: str, flags: set[str]) -> Iterator[Finding]:
    """A build that leaves instructions of this CPU unused."""
    names = ["baseline", *(name for name, _ in _CPU_LEVELS)]
    if build not in names or not flags:
        return
    best = "baseline"
    for name, needed in _CPU_LEVELS:
        if not needed <= flags:
            break
        best = name
    if names.index(best) > names.index(build):
        yield Finding(
            "warn",
            f"the build is for {build} CPUs, this one has the instructions of {best}",
            f"build with -C cmake.define.GGEMBED_CPU={best}, or native",
        )


def check_nvidia(driver: bool, build: bool, device: bool) -> Iterator[Finding]:
    """Driver, build and device of NVIDIA, of which only all or none work."""
    if driver and not build:
        yield Finding(
            "warn",
            "there is an NVIDIA driver, but this build has no CUDA: GPUs are not used",
            "build with -C cmake.define.GGEMBED_CUDA=ON",
        )
    elif build and not driver:
        yield Finding(
            "warn",
            "this build has CUDA, but the NVIDIA driver (libcuda) cannot be loaded",
            "install the driver, or pass the GPU through to the container",
        )
    elif build and not device:
        yield Finding(
            "warn",
            "the NVIDIA driver is there, but it offers no device",
            "look at nvidia-smi and CUDA_VISIBLE_DEVICES; the driver may be too old",
        )


def check_packages(requirements: list[str]) -> Iterator[Finding]:
    """Packages of the optional extras, from the requirements of this package."""
    extras: dict[str, str] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*;.*\bextra == ['\"]([\w-]+)['\"]", requirement)
        if match and match[2] not in _OUR_EXTRAS:
            extras.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])
    for package, extra in sorted(extras.items()):
        purpose = _PURPOSES.get(package, f"the extra {extra}")
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            what = f"{package} is not installed ({purpose})"
            yield Finding("ok", what, f"if needed: pip install 'ggembed[{extra}]'")
        else:
            yield Finding("ok", f"{package} {version} ({purpose})")


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take, or None where nothing tells."""
    available = number_in(root / "proc/meminfo", r"^MemAvailable:\s+(\d+) kB")
    candidates = [] if available is None else [available * 1024]
    for folder in _cgroups(root):
        for most, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = number_in(folder / most, r"^(\d+)$")
            if limit is not None:
                # pages of files count as used, but are given up when memory is short
                cached = number_in(folder / "memory.stat", r"^inactive_file (\d+)$") or 0
                in_use = (number_in(folder / used, r"^(\d+)$") or 0) - cached
                candidates.append(max(0, limit - in_use))
    return min(candidates, default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the cgroups grant, or None without a limit."""
    quotas = []
    for folder in _cgroups(root):
        if match := re.match(r"(\d+) (\d+)", _read(folder / "cpu.max")):
            quotas.append(int(match[1]) / int(match[2]))
        quota = number_in(folder / "cpu.cfs_quota_us", r"^(\d+)$")
        period = number_in(folder / "cpu.cfs_period_us", r"^(\d+)$")
        if quota and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def n_cpus() -> int:
    """CPUs that the process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _limits(root: Path) -> Finding:
    parts = [f"{n_cpus()} CPUs may be used"]
    quota, memory = cpu_quota(root), available_memory(root)
    if quota is not None:
        parts.append(f"a quota of {quota:g} CPUs")
    if memory is not None:
        parts.append(f"{memory / GIB:.1f} GiB of memory available")
    return Finding("ok", ", ".join(parts))


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of the process's cgroups, from the innermost to the root: version 2, then 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "cpu,cpuacct", "cpu", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            inner = top / path.lstrip("/")
            yield inner
            yield from (p for p in inner.parents if p == top or top in p.parents)


def _cpu_flags() -> set[str]:
    match = re.search(r"^flags\s*:(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return set(match[1].split()) if match else set()


def _has_nvidia_driver() -> bool:
    """Whether libcuda can be loaded; nothing in it is called."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver: Any = ctypes.CDLL(name)
    except OSError:
        return False
    return driver is not None


def number_in(path: Path, pattern: str) -> int | None:
    """What a pattern finds in a file of the kernel; None if there is nothing."""
    match = re.search(pattern, _read(path), re.MULTILINE)
    return int(match[1]) if match else None


def _read(path: Path) -> str:
    """A file of the kernel; empty if there is none."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
