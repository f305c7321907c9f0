from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from typing import TYPE_CHECKING

from fixtures import (  # noqa: F401
    build_dir,
    figures,
    internals,
    minilm,
    pytest_terminal_summary,
    tiny,
)

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "parity: needs torch and transformers")
