from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "parity")]

from fixtures import build_dir  # noqa: E402, F401
