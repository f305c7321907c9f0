"""What Linux says of the memory of a process."""

from __future__ import annotations

import re
from pathlib import Path


def mapped(pid: int | str, path: Path) -> dict[str, int]:
    """Bytes of a file that a process has mapped, by what kind of pages they are."""
    sizes: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and (found := re.match(r"(\w+):\s+(\d+) kB", line)):
            sizes[found[1]] = sizes.get(found[1], 0) + 1024 * int(found[2])
    return sizes
