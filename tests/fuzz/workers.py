"""Child processes that try files, so that a crash is a finding and not the end of the run."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

N_WORKERS = 2

FINDINGS = ("crash", "hang", "wrong")


class Worker:
    """A child process that tries files; started again when it has died."""

    def __init__(self, script: str, timeout_s: float, *args: str) -> None:
        self.command = [sys.executable, str(Path(__file__).with_name(script)), *args]
        self.timeout_s = timeout_s
        self.process: subprocess.Popen[str] | None = None

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.stderr: list[str] = []
        process = self.process

        def read_lines() -> None:
            for line in process.stdout:
                self.lines.put(line)
            self.lines.put("")

        def read_errors() -> None:
            self.stderr.extend(process.stderr)

        self.readers = [threading.Thread(target=f, daemon=True) for f in (read_lines, read_errors)]
        for reader in self.readers:
            reader.start()
        if self.lines.get(timeout=60) != "ready\n":
            raise RuntimeError(f"the worker does not start: {self.stop()}")

    def run(self, *request: str) -> tuple[str, str]:
        """How a file ended: "works", the name of our error, or "crash", "hang", "wrong"."""
        if self.process is None:
            self._start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=self.timeout_s)
        except queue.Empty:
            return "hang", f"no answer in {self.timeout_s:.0f} s. {self.stop()}"
        except BrokenPipeError:
            line = ""
        if line:
            end, message = json.loads(line)
            return end, message
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return "crash", f"{name}. {self.stop()}"

    def stop(self) -> str:
        """Ends the process; returns the last of what it wrote to standard error."""
        if self.process is None:
            return ""
        self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process = None
        return " | ".join(line.strip() for line in self.stderr if line.strip())[:300]


class Pool:
    """A few workers, which keep running from one call to the next."""

    def __init__(self, script: str, timeout_s: float, *args: str) -> None:
        self.free: queue.Queue[Worker] = queue.Queue()
        for _ in range(N_WORKERS):
            self.free.put(Worker(script, timeout_s, *args))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_exc: object) -> None:
        while not self.free.empty():
            self.free.get().stop()

    def try_all(self, files: Iterable[tuple[Path, bytes]], *request: str) -> list[tuple[str, str]]:
        """Writes files and has them tried; results in their order. Findings stay on disk."""

        def try_one(file: tuple[Path, bytes]) -> tuple[str, str]:
            path, data = file
            path.write_bytes(data)
            worker = self.free.get()
            try:
                end, message = worker.run(str(path), *request)
            finally:
                self.free.put(worker)
            if end not in FINDINGS:
                path.unlink()
            return end, message

        with ThreadPoolExecutor(N_WORKERS) as threads:
            return list(threads.map(try_one, files))
