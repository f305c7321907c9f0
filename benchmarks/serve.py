"""The other side of turns.py: a contender that answers lines.

Its first line is the job, in JSON; the answer says what it is. Then one line of JSON answers each
line: `tune JSON` changes settings, `warm` encodes the first input, `encode` all of them,
`save PATH` keeps the rows of that, `parts` tells where the time of such a call goes.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Contender(Protocol):
    """A program that turns inputs into rows."""

    n_tokens: list[float]  # of each input of the last call; empty if it cannot tell
    seconds: float | None  # of the last call by its own clock, where ours counts more than the call
    peak_bytes: int  # the most memory of its processes that have ended; 0 without any

    def encode(self, inputs: list[Any]) -> np.ndarray:
        """Unit rows, [n_inputs, dim]; tokenising, or decoding files, is part of it."""

    def tune(self, setting: dict[str, Any]) -> None:
        """Changes what can be changed after loading."""

    def parts(self, inputs: list[Any]) -> dict[str, float]:
        """Seconds of a call by what they are for, where that can be told; else nothing."""

    def describe(self) -> dict[str, Any]:
        """Version, threads and whatever else explains the figures."""

    def pids(self) -> list[int]:
        """Its processes beside this one."""

    def close(self) -> None:
        """Ends it."""


class Plain:
    """What most contenders have in common."""

    n_tokens: list[float] = []  # noqa: RUF012, replaced as a whole
    seconds: float | None = None
    peak_bytes = 0

    def tune(self, setting: dict[str, Any]) -> None:
        if setting:
            raise ValueError(f"{type(self).__name__} has no settings: {setting}")

    def parts(self, inputs: list[Any]) -> dict[str, float]:  # noqa: ARG002
        return {}

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


class _Worker:
    """Answers the lines of one contender."""

    def __init__(self, contender: Contender, inputs: list[Any], per_call: int | None) -> None:
        self._contender = contender
        self._inputs = inputs
        self._per_call = per_call or len(inputs)
        self._rows = np.empty((0, 0), np.float32)

    def answer(self, line: str) -> dict[str, Any]:
        command, _, argument = line.strip().partition(" ")
        if command == "save":
            np.save(argument, self._rows)
            return {}
        if command == "tune":
            self._contender.tune(json.loads(argument))
            return {}
        if command == "warm":
            self._contender.encode(self._inputs[:1])
            return {}
        if command == "parts":
            return self._contender.parts(self._inputs)
        return self._encode()

    def _encode(self) -> dict[str, Any]:
        rows, counts, seconds = [], [], 0.0
        for first in range(0, len(self._inputs), self._per_call):
            inputs = self._inputs[first : first + self._per_call]
            start = time.perf_counter()
            rows.append(self._contender.encode(inputs))
            own = self._contender.seconds
            seconds += time.perf_counter() - start if own is None else own
            counts += self._contender.n_tokens
        self._rows = np.concatenate(rows)
        return {
            "seconds": seconds,
            "n_tokens": sum(counts) if counts else None,
            "peak_bytes": self._contender.peak_bytes,
        }


def run(make: Callable[[dict[str, Any]], Contender]) -> None:
    """Makes the contender of the job on the first line and answers the lines after it."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    warnings.simplefilter("ignore")  # texts are cut on purpose
    contender: Contender | None = None
    try:
        job = json.loads(sys.stdin.readline())
        contender = make(job)
        pids = [os.getpid(), *contender.pids()]
        print(json.dumps({"about": contender.describe(), "pids": pids}), file=answers)
        worker = _Worker(contender, job["inputs"], job.get("per_call"))
        for line in sys.stdin:
            print(json.dumps(worker.answer(line)), file=answers)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answers)
    finally:
        if contender:
            contender.close()
