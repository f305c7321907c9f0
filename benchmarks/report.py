"""Results as a table on the screen and as a JSON file."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Columns = tuple[tuple[str, str], ...]  # a head, and how a result fills the column

_COLUMNS: Columns = (
    ("contender", "{contender}"),
    ("model", "{model}"),
    ("case", "{case}"),
    ("texts", "{n_texts}"),
    ("tokens", "{n_tokens}"),
    ("tokens/s", "{tokens_per_s:.0f}"),
    ("texts/s", "{texts_per_s:.1f}"),
    ("peak MB", "{peak_mb:.0f}"),
    ("load s", "{load_s:.2f}"),
    ("min cosine", "{min_cosine:.7f}"),
)


def machine() -> dict[str, Any]:
    """What the figures depend on. No names of hosts or users."""
    return {
        "cpu": _cpu_name(),
        "n_cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def commit() -> str:
    """Short hash of the checkout, with a mark when files differ from it; empty without git."""
    folder = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def table(results: list[dict[str, Any]], columns: Columns = _COLUMNS) -> str:
    """Columns aligned, numbers to the right. The first three say what a line is about."""
    cells = [[head for head, _ in columns]]
    for result in results:
        if "error" in result:
            row = [form.format(**result) for _, form in columns[:3]]
            cells.append([*row, f"failed: {result['error']}"])
        else:
            cells.append([form.format(**result) for _, form in columns])
    full = [row for row in cells if len(row) == len(columns)]
    widths = [max(len(row[i]) for row in full) for i in range(len(columns))]
    lines = []
    for row in cells:
        aligned = [
            text.ljust(width) if i < 3 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def markdown(results: list[dict[str, Any]], columns: Columns) -> str:
    """The table in Markdown, with machine, date and commit above it."""
    about, today = machine(), datetime.now(timezone.utc)
    lines = [f"{about['cpu']}, {about['n_cpus']} CPUs, {today:%Y-%m-%d}, commit {commit()}", ""]
    lines += ["| " + " | ".join(head for head, _ in columns) + " |", "|---" * len(columns) + "|"]
    for result in results:
        shown = columns[:3] if "error" in result else columns
        cells = [form.format(**result) for _, form in shown]
        if "error" in result:
            cells += [f"failed: {result['error']}", *[""] * (len(columns) - 4)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save(
    results: list[dict[str, Any]],
    arguments: list[str],
    folder: Path = RESULTS,
    *,
    script: str = "bench.py",
    suffix: str = "",
    path: Path | None = None,
) -> Path:
    """Writes results/<date>-<machine><suffix>.json; a second run of the day gets a number.

    With `path`, the file of an earlier call is written again.
    """
    about = machine()
    now = datetime.now(timezone.utc)
    cpu = re.sub(r"[^a-z0-9]+", "-", about["cpu"].lower()).strip("-")[:40]
    stem = f"{now:%Y-%m-%d}-{cpu}-{about['n_cpus']}cpu{suffix}"
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        path, number = folder / f"{stem}.json", 1
        while path.exists():
            number += 1
            path = folder / f"{stem}-{number}.json"
    content = {
        "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "machine": about,
        "commit": commit(),
        "command": shlex.join(["python", f"benchmarks/{script}", *arguments]),
        "results": results,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return path
