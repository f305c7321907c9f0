from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))

from fixtures import figures, pytest_terminal_summary, tiny  # noqa: F401
