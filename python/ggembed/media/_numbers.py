"""Checks of the numbers among the options of media."""

from __future__ import annotations

import math
import operator
import sys
from numbers import Real
from typing import Any

from ..errors import InvalidInputError

_MAX_COUNT = 2**63 - 1  # of the native library


def check_count(name: str, value: Any) -> None:
    """Raises unless the value is a positive whole number."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    _check_range(name, number, _MAX_COUNT)


def check_quantity(name: str, value: Any) -> None:
    """Raises unless the value is a positive number."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    _check_range(name, number, sys.float_info.max)


def _check_range(name: str, number: float, highest: float) -> None:
    if not number > 0:  # NaN fails it too
        raise InvalidInputError(f"{name} must be positive, got {number:g}")
    if number > highest:
        raise InvalidInputError(f"{name} must be at most {highest:g}, got {number:g}")
