"""Processes that compute are killed, forked, closed, interrupted and left at random moments.

    python chaos.py MODEL [--trials 200] [--seed N] [--kind NAME]

Each trial is a process of its own with a deadline. A hang, a crash, a status that is not expected
or anything on its stderr is a fault; it is told with the seed that repeats the trial's choices
(how threads interleave is not repeated). Ends with 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("chaos_child.py")
KINDS = ("kill-worker", "fork", "close", "interrupt", "leave", "terminate")
SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
AGAIN_S = 15  # until a signal is repeated
IGNORED = re.compile(r"Exception ignored .*\nTraceback.*\n(?: .*\n)*\n*KeyboardInterrupt.*\n")
DEADLINE_S = 120  # of a trial that takes a second or two on an idle machine


@dataclass(frozen=True)
class Trial:
    """What came of one."""

    kind: str
    seed: int
    seconds: float
    measured: Any
    fault: str | None


def run_trial(kind: str, seed: int, model: Path) -> Trial:
    """Starts a process, hits it, and waits for its end."""
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", CHILD, kind, str(seed), model],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() gets what the first line leaves
        start_new_session=True,  # so that its own children can be ended with it
    ) as process:
        try:
            first = _first_line(process)
            signals = _hit(process, kind, seed) if kind in SIGNALS and first else []
            out, err = process.communicate(timeout=DEADLINE_S)
            told = _text(err) if len(signals) < 2 else IGNORED.sub("", _text(err))
            fault, measured = _judge(process.returncode, _text(first + out), told)
            if fault is None and kind == "interrupt":
                measured["seconds"] = measured.pop("at") - signals[-1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # its faulthandler tells where the threads are
            try:
                out, err = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                out, err = b"", b"no word of its threads"
            fault, measured = f"hangs\n{_text(out + err)}", None
        finally:
            _end_group(process)
    return Trial(kind, seed, time.monotonic() - start, measured, fault)


def _hit(process: subprocess.Popen[bytes], kind: str, seed: int) -> list[float]:
    """Sends the signal of a trial; returns when.

    Python drops a KeyboardInterrupt that it raises in a finalizer, and says so; a user presses
    Ctrl-C again then.
    """
    draw = random.Random(seed)
    time.sleep(draw.choice((0.0, 0.02, 0.2, 1.0)) * draw.random())
    signals: list[float] = []
    while len(signals) < 3:
        signals.append(time.monotonic())  # the same clock in all processes
        process.send_signal(SIGNALS[kind])
        try:
            process.wait(AGAIN_S)
        except subprocess.TimeoutExpired:
            continue
        break
    return signals


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """What the process says first; nothing if it ends before that."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], DEADLINE_S)[0]:
        raise subprocess.TimeoutExpired(process.args, DEADLINE_S)
    return process.stdout.readline()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what the process may have left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _judge(status: int, out: str, err: str) -> tuple[str | None, Any]:
    """Fault and figures of a process that has ended."""
    told = [line for line in out.splitlines() if line.startswith("done ")]
    if status != 0 or err or not told or not out.startswith("ready\n"):
        return f"status {status}\n{out}{err}", None
    return None, json.loads(told[0].removeprefix("done "))


def run(trials: int, seed: int, model: Path, kinds: tuple[str, ...] = KINDS) -> list[Trial]:
    """Trials of all kinds in turn, two at a time; trial i has seed + i."""
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(run_trial, kinds[i % len(kinds)], seed + i, model) for i in range(trials)
        ]
        return [future.result() for future in futures]


def summary(trials: list[Trial]) -> str:
    """Trials by kind, and how long Ctrl-C took."""
    n_good, n_all = (
        Counter(t.kind for t in trials if t.fault is None),
        Counter(t.kind for t in trials),
    )
    parts = [f"{kind} {n_good[kind]}/{n_all[kind]}" for kind in n_all]
    line = f"chaos: {sum(n_good.values())} of {len(trials)} trials came through: {', '.join(parts)}"
    late = sorted(
        t.measured["seconds"] for t in trials if t.fault is None and "seconds" in t.measured
    )
    if late:
        line += f"; Ctrl-C took {late[len(late) // 2]:.3f} s, at most {late[-1]:.3f} s"
    return line


def main() -> int:
    """Runs them and prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kind", choices=KINDS)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    kinds = KINDS if args.kind is None else (args.kind,)
    start = time.monotonic()
    trials = run(args.trials, args.seed, args.model, kinds)
    for trial in trials:
        if trial.fault is not None:
            print(f"FAULT: --kind {trial.kind} --seed {trial.seed} --trials 1: {trial.fault}\n")
    print(summary(trials), f"({time.monotonic() - start:.0f} s)", sep=" ")
    return int(any(trial.fault is not None for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
