"""Maintain the patch series: `begin`, `refresh`, `check`.

python patch.py begin 0002-topic.patch     # scratch/a: the tree before it, scratch/b: with it
... edit scratch/b ...
python patch.py refresh 0002-topic.patch   # write the difference, keep the opening text
python patch.py check                      # unpack elsewhere and apply the whole series
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATCHES = HERE / "patches"
SERIES = PATCHES / "series"
SCRATCH = HERE / "scratch"
OPENING = "Why: \nUpstream: not offered yet.\nDrop when: \n\n"


def series() -> list[str]:
    return SERIES.read_text().split()


def unpack(to: Path, before: str) -> None:
    """Unpack into `to` with the patches that come before `before` (`all` for every one)."""
    command = ["cmake", f"-DTO={to}", f"-DBEFORE={before}", "-P", str(HERE / "unpack.cmake")]
    if subprocess.run(command).returncode != 0:
        sys.exit(1)


def begin(patch: str) -> None:
    names = series()
    if patch not in names:
        (PATCHES / patch).write_text(OPENING)
        names.append(patch)
        SERIES.write_text("\n".join(names) + "\n")
        unpack(SCRATCH / "a", patch)
        shutil.rmtree(SCRATCH / "b", ignore_errors=True)
        shutil.copytree(SCRATCH / "a", SCRATCH / "b")
    else:
        following = names[names.index(patch) + 1 :]
        unpack(SCRATCH / "a", patch)
        unpack(SCRATCH / "b", following[0] if following else "all")
    print(f"edit {SCRATCH / 'b'}, then: patch.py refresh {patch}")


def refresh(patch: str) -> None:
    diff = subprocess.run(
        ["git", "-c", "core.quotePath=false", "diff", "--no-index", "--no-renames", "--no-color",
         "--no-ext-diff", "-U1", "a", "b"],
        cwd=SCRATCH, capture_output=True, text=True,
    ).stdout  # fmt: skip
    if not diff:
        sys.exit("scratch/a and scratch/b do not differ")
    # Only what applying needs: no index lines, no modes, no section headings after @@.
    headings = "diff|index|old mode|new mode|new file|deleted file"
    diff = re.sub(rf"^({headings}) .*\n", "", diff, flags=re.M)
    diff = re.sub(r"^(@@ [^@]* @@).*$", r"\1", diff, flags=re.M)
    diff = re.sub(r"^(---|\+\+\+) ([ab])/[ab]/", r"\1 \2/", diff, flags=re.M)
    path = PATCHES / patch
    opening = re.split(r"^--- ", path.read_text(), maxsplit=1, flags=re.M)[0]
    path.write_text(opening + diff)


def check() -> None:
    with tempfile.TemporaryDirectory() as folder:
        unpack(Path(folder) / "source", "all")
    print(f"{len(series())} patches apply")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=["begin", "refresh", "check"])
    parser.add_argument("patch", nargs="?")
    args = parser.parse_args()
    if args.verb == "check":
        check()
    elif not re.fullmatch(r"\d{4}-[a-z0-9-]+\.patch", args.patch or ""):
        parser.error("a patch is named NNNN-topic.patch")
    elif args.verb == "begin":
        begin(args.patch)
    else:
        refresh(args.patch)


if __name__ == "__main__":
    main()
