"""Contenders of a case in processes of their own, which take turns: A B C A B C ...

The other side of the pipes is serve.py.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


class UnableError(Exception):
    """A contender cannot do the input, and says why."""


class Worker:
    """A contender in a process of its own, loaded."""

    def __init__(self, python: str, script: str, job: dict[str, Any]) -> None:
        path = Path(__file__).parent / script
        self._process = subprocess.Popen(
            [python, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ended_peak = 0
        try:
            hello = self.ask(json.dumps(job))
        except UnableError:
            self.close()
            raise
        self.about: dict[str, Any] = hello["about"]
        self._pids: list[int] = hello["pids"]

    def ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended, and its last line says why
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"exit status {self._process.wait()}"}
        if "error" in answer:
            raise UnableError(answer["error"])
        self._ended_peak = max(self._ended_peak, answer.get("peak_bytes", 0))
        return answer

    def cpu_seconds(self) -> float:
        """Of all its processes, those included that have ended."""
        return sum(_cpu_ticks(pid) for pid in self._pids) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """The most memory that its largest process has had, pages of mapped files included."""
        return max(self._ended_peak, *(_peak_bytes(pid) for pid in self._pids))

    def forget_peak(self) -> None:
        """Has peak_bytes() count from now on."""
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)

    def device_bytes(self) -> int | None:
        """Memory of its processes on GPUs of NVIDIA; None where that cannot be told."""
        query = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory"]
        try:
            done = subprocess.run(
                [*query, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        found = [re.fullmatch(r"(\d+), (\d+)", line) for line in done.stdout.splitlines()]
        own = [int(x[2]) << 20 for x in found if x and int(x[1]) in self._pids]
        return sum(own) if own else None

    def close(self) -> None:
        self._process.communicate()


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _busy_ticks() -> int:
    """Of all cores of the machine since it started."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq)))


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


class Round:
    """The figures of one round of one contender."""

    def __init__(self, worker: Worker) -> None:
        start, busy, own = time.perf_counter(), _busy_ticks(), worker.cpu_seconds()
        answer = worker.ask("encode")
        turn_s = time.perf_counter() - start
        own_cpu_s = worker.cpu_seconds() - own
        all_cpu_s = (_busy_ticks() - busy) / os.sysconf("SC_CLK_TCK")
        self.seconds: float = answer["seconds"]
        self.n_tokens: float | None = answer["n_tokens"]
        self.cpu_s = own_cpu_s * self.seconds / turn_s  # a turn may have more in it than is counted
        self.other_cores = max(0.0, all_cpu_s - own_cpu_s) / turn_s


Start = Callable[[], Worker]  # loads a contender and has it encode an input


@dataclass
class Entry:
    """What is known of one contender."""

    start: Start
    worker: Worker | None = None
    rounds: list[Round] = field(default_factory=list)
    rows: np.ndarray | None = None
    found: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def figures(self) -> dict[str, Any]:
        """Of all rounds, or why there are none."""
        if self.error:
            return {"error": self.error}
        seconds = [x.seconds for x in self.rounds]
        return {
            "seconds": seconds,
            "median_s": statistics.median(seconds),
            "least_s": min(seconds),
            "most_s": max(seconds),
            "cpu_s": statistics.median(x.cpu_s for x in self.rounds),
            "other_cores": statistics.median(x.other_cores for x in self.rounds),
            "n_tokens": self.rounds[-1].n_tokens,
            **self.found,
        }


class Match:
    """The contenders of one case. One that fails leaves, and the others go on."""

    def __init__(self, label: str, starts: dict[str, Start], *, together: bool = True) -> None:
        self._label = label
        self._together = together
        self.entries = {name: Entry(start) for name, start in starts.items()}

    def play(self, n_rounds: int) -> None:
        """Plays the rounds; all contenders stay loaded meanwhile if they are `together`."""
        try:
            if self._together:
                for name, entry in self.entries.items():
                    with self._turn(name):
                        entry.worker = entry.start()
            for i in range(n_rounds):
                for name, entry in self.entries.items():
                    if not entry.error:
                        with self._turn(name):
                            self._round(entry, is_last=i == n_rounds - 1)
        finally:
            for entry in self.entries.values():
                if entry.worker:
                    entry.worker.close()

    def _round(self, entry: Entry, *, is_last: bool) -> None:
        worker = entry.worker or entry.start()
        try:
            entry.rounds.append(Round(worker))
            if is_last:
                _finish(entry, worker)
        finally:
            if not entry.worker:
                worker.close()

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        print(f"{self._label} {name} ...", file=sys.stderr, flush=True)
        try:
            yield
        except UnableError as error:
            entry = self.entries[name]
            entry.error = str(error)
            if entry.worker:
                entry.worker.close()
                entry.worker = None


def _finish(entry: Entry, worker: Worker) -> None:
    """Takes the rows of the last round, and what is only known at the end."""
    entry.found = {"peak_mb": worker.peak_bytes() / 1e6, "about": worker.about}
    device_bytes = worker.device_bytes()
    if device_bytes is not None:
        entry.found["device_mb"] = device_bytes / 1e6
    with tempfile.TemporaryDirectory() as folder:
        worker.ask(f"save {folder}/rows.npy")
        entry.rows = np.load(f"{folder}/rows.npy")
    entry.found["parts"] = worker.ask("parts")
