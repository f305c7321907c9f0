"""The files that say what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(name: str) -> dict[str, dict[str, Any]]:
    """The cases of a TOML file in this folder."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(Path(__file__).with_name(name).read_text("utf-8"))
