"""llama-server as a process, and its embeddings over HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import upstream


def device_options(job: dict[str, Any]) -> list[str]:
    """Threads and device, as the programs of upstream are told."""
    threads = ["-t", str(job["n_threads"])] if job["n_threads"] else []
    return [*threads, "-ngl", "0" if job.get("device", "cpu") == "cpu" else "999"]


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running llama-server. Connections stay open, and rows come in base64, not in decimals."""

    def __init__(
        self, job: dict[str, Any], options: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self._cuda = job.get("device", "cpu") != "cpu"
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self._port = free_port()
        self._command = [job["program"], "--embeddings", "--no-ui", "-m", job["model"]]
        self._command += [*options, *device_options(job)]
        self._process = subprocess.Popen(
            [*self._command, "--host", "127.0.0.1", "--port", str(self._port)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        self._connections = threading.local()
        while not self._is_ready():
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"llama-server ended: {self._last_error()}")
        try:
            self._ask("GET", "/health")
        except (OSError, RuntimeError):
            return False
        return True

    def _last_error(self) -> str:
        lines = Path(self._log.name).read_text("utf-8", "replace").splitlines()
        errors = [line for line in lines if re.match(r"[\d.]+ E |.*(error|ABORT|ASSERT)", line)]
        return (errors or lines or [""])[-1].strip()

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        if not hasattr(self._connections, "own"):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1800)
            self._connections.own = connection
        body = None if content is None else json.dumps(content).encode()
        try:
            status, text = self._exchange(method, path, body)
        except (ConnectionError, http.client.RemoteDisconnected):
            # The server closes a connection that was idle for long, or had its number of requests.
            status, text = self._exchange(method, path, body)
        if status != http.client.OK:
            raise RuntimeError(f"{json.loads(text)['error']['message']}: {self._last_error()}")
        return json.loads(text)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self._connections.own
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            raise

    def _request(self, inputs: list[Any]) -> tuple[list[np.ndarray], int]:
        content = {"input": inputs, "encoding_format": "base64"}
        try:
            answer = self._ask("POST", "/v1/embeddings", content)
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeError(f"{error}: {self._last_error()}") from None
        found = sorted(answer["data"], key=lambda item: item["index"])
        rows = [np.frombuffer(base64.b64decode(x["embedding"]), "<f4") for x in found]
        return rows, answer["usage"]["prompt_tokens"]

    def embed(self, inputs: list[Any], in_flight: int = 1) -> tuple[np.ndarray, int]:
        """Unit rows and the number of tokens; one request, or four for each that is in flight."""
        if in_flight == 1:
            answers = [self._request(inputs)]
        else:
            size = -(-len(inputs) // (4 * in_flight))
            pieces = [inputs[i : i + size] for i in range(0, len(inputs), size)]
            with ThreadPoolExecutor(in_flight) as pool:
                answers = list(pool.map(self._request, pieces))
        rows = np.stack([row for rows, _ in answers for row in rows])
        n_tokens = sum(n for _, n in answers)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), n_tokens

    def describe(self) -> dict[str, Any]:
        return {
            "version": self._ask("GET", "/props").get("build_info", ""),
            "commit": upstream.pin()["COMMIT"],
            "command": shown(self._command),
            "build": upstream.options(cuda=self._cuda),
        }

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for an ffmpeg that waits for it
            self._process.kill()
            self._process.wait()


def shown(command: list[str]) -> str:
    """A command without the folders of this machine."""
    return shlex.join(Path(word).name if "/" in word else word for word in command)
