"""Calls on one short text that want no more than its row: what services do most.

They do what the steps of `_text_calls` do, with all that depends on their options prepared and in
one call of the library: around a small model every microsecond of Python counts twice, since a
thread that computes waits for the core meanwhile.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _buffers, _native, _requests
from ._calls import Call, warn_truncated

if TYPE_CHECKING:
    from typing import TypeGuard

# Characters. Tokenising that many leaves an event loop waiting for some 100 microseconds.
_LONGEST = 1 << 12


def is_short_text(inputs: object) -> TypeGuard[str]:
    """Whether these classes are for an argument."""
    return isinstance(inputs, str) and len(inputs) <= _LONGEST


class SingleTexts:
    """Calls with the same options, each on one text."""

    def __init__(self, call: Call, engine: _native.Engine) -> None:
        self._call = call
        self._engine = engine
        prompt = _buffers.encode_text(call.prompt, "prompt")
        self._native = _native.TextCall(engine, call.cutting(prompt), call.settings)
        self._width, self._dtype = call.computed

    @staticmethod
    def serve(call: Call) -> bool:
        """Whether calls with these options want rows alone."""
        wants_more = call.by_token or call.in_floats or call.collects or call.reports
        return not wants_more and not call.shows_bar and call.progress is None

    def encode(self, text: str, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """The row of a text."""
        data, row, flag = self._arguments(text, out)
        self._native.encode(data, row, flag)
        self._warn(flag)
        return row

    async def aencode(self, text: str, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """The row of a text, for a coroutine."""
        data, row, flag = self._arguments(text, out)
        await _requests.compute(self._engine, partial(self._native.submit, data, row, flag))
        self._warn(flag)
        return row

    def _arguments(
        self, text: str, out: npt.NDArray[Any] | None
    ) -> tuple[bytes, npt.NDArray[Any], Any]:
        """The text, its row, and what says whether the text was cut."""
        data = _buffers.encode_text(text, "text 0", 0)
        if out is None:
            row = np.empty(self._width, self._dtype)
        else:
            row = _buffers.check_out(out, (self._width,), self._dtype)
        return data, row, self._native.flag()

    def _warn(self, flag: Any) -> None:
        if flag is not None and flag[0]:
            warn_truncated(np.ones(1, np.bool_), self._call)
