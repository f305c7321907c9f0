"""Who is measured on media: ggembed, upstream's server, transformers.

Run as a program it is one of them in a process of its own: it loads, and then answers one line of
JSON for each line that it reads: `warm` embeds the first input, `encode` all of them, `save PATH`
keeps the rows of these.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Part = dict[str, str]


class MediaContender(Protocol):
    """A program that turns inputs made of parts into rows."""

    n_tokens: list[float]  # of each input of the last call; empty if it cannot tell

    def encode(self, inputs: list[list[Part]]) -> np.ndarray:
        """Unit rows, [n_inputs, dim]; decoding the files is part of it."""

    def describe(self) -> dict[str, Any]:
        """Version, threads and whatever else explains the figures."""

    def pids(self) -> list[int]:
        """Its processes beside this one."""

    def close(self) -> None:
        """Ends it."""


class GGEmbed:
    """This project, through its Python interface and with its defaults."""

    def __init__(self, job: dict[str, Any]) -> None:
        from ggembed import Embedder

        self._embedder = Embedder(job["model"], mmproj=[job["mmproj"]], n_threads=job["n_threads"])
        self.n_tokens: list[float] = []

    def encode(self, inputs: list[list[Part]]) -> np.ndarray:
        made = [[_ggembed_part(part) for part in parts] for parts in inputs]
        return self._embedder.encode([x[0] if len(x) == 1 else x for x in made])

    def describe(self) -> dict[str, Any]:
        import contenders

        return contenders.describe_embedder(self._embedder)

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        self._embedder.close()


def _ggembed_part(part: Part) -> Any:
    import ggembed

    if part["kind"] == "text":
        return part["text"]
    kinds = {"image": "Image", "audio": "Audio", "video": "Video", "pdf": "Pdf"}
    return getattr(ggembed, kinds[part["kind"]])(part["path"])


class LlamaServer:
    """llama-server's embeddings over HTTP, one request for all inputs of a call.

    It reads JPEG, PNG and WAV itself, video through an ffmpeg in PATH. The pages of a PDF are
    rendered here, as its client would have to. The limits of an image are those of the model.
    """

    _MARKER = "<__media__>"

    def __init__(self, job: dict[str, Any]) -> None:
        import llama_server

        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self._options = ["-b", "2048", "-ub", "2048", "-c", "8192", "-np", "1", "--no-ui"]
        self._options += ["--image-min-tokens", "256", "--image-max-tokens", "1280"]
        if job["n_threads"]:
            self._options += ["-t", str(job["n_threads"])]
        port = str(llama_server.free_port())
        self._url = f"http://127.0.0.1:{port}"
        command = [str(llama_server.PROGRAM), "--embeddings", "--host", "127.0.0.1", "--port", port]
        command += ["-m", job["model"], "--mmproj", job["mmproj"], *self._options]
        marker = {"LLAMA_MEDIA_MARKER": self._MARKER}
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env={**os.environ, **marker}
        )
        self.n_tokens: list[float] = []
        while not self._is_ready():
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"llama-server ended: {self._last_error()}")
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                return True
        except OSError:
            return False

    def _last_error(self) -> str:
        lines = Path(self._log.name).read_text("utf-8", "replace").splitlines()
        errors = [line for line in lines if re.match(r"[\d.]+ E |.*(error|ABORT|ASSERT)", line)]
        return (errors or lines or [""])[-1].strip()

    def encode(self, inputs: list[list[Part]]) -> np.ndarray:
        body = json.dumps({"input": [self._input(parts) for parts in inputs]}).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/v1/embeddings", body, head)
        try:
            with urllib.request.urlopen(request) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise RuntimeError(
                f"{json.load(error)['error']['message']}: {self._last_error()}"
            ) from None
        except OSError as error:
            raise RuntimeError(f"{error}: {self._last_error()}") from None
        self.n_tokens = [answer["usage"]["prompt_tokens"] / len(inputs)] * len(inputs)
        rows = np.array([item["embedding"] for item in answer["data"]], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _input(self, parts: list[Part]) -> dict[str, Any]:
        prompt, files = "", []
        for part in parts:
            made = [] if part["kind"] == "text" else _file_bytes(part)
            prompt += part.get("text", "") + self._MARKER * len(made)
            files += [base64.b64encode(content).decode() for content in made]
        return {"prompt_string": prompt, "multimodal_data": files}

    def describe(self) -> dict[str, Any]:
        import llama_server

        with urllib.request.urlopen(f"{self._url}/props") as response:
            props = json.load(response)
        return {
            "version": props.get("build_info", ""),
            "commit": llama_server.pin()["COMMIT"],
            "options": " ".join(self._options),
            "build": llama_server.OPTIONS,
            "client": "one HTTP request for all inputs, base64 in JSON",
        }

    def pids(self) -> list[int]:
        return [self._process.pid]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def _file_bytes(part: Part) -> list[bytes]:
    """What is sent of a part: the file itself, of a PDF its pages."""
    if part["kind"] != "pdf":
        return [Path(part["path"]).read_bytes()]
    import io

    import pypdfium2

    pages = []
    with pypdfium2.PdfDocument(part["path"]) as file:
        for page in file:
            stream = io.BytesIO()
            page.render(scale=150 / 72).to_pil().save(stream, "png", compress_level=1)
            pages.append(stream.getvalue())
    return pages


def make(job: dict[str, Any]) -> MediaContender:
    """The contender that the job names."""
    if job["contender"].startswith("transformers"):
        import media_torch

        return media_torch.Transformers(job)
    return {"ggembed": GGEmbed, "llama-server": LlamaServer}[job["contender"]](job)


class _Worker:
    """Answers the lines of one contender."""

    def __init__(self, contender: MediaContender, inputs: list[list[Part]]) -> None:
        self._contender = contender
        self._inputs = inputs
        self._rows = np.empty((0, 0), np.float32)

    def answer(self, line: str) -> dict[str, Any]:
        command, _, path = line.strip().partition(" ")
        if command == "save":
            np.save(path, self._rows)
            return {}
        if command == "warm":
            self._contender.encode(self._inputs[:1])
            return {}
        start = time.perf_counter()
        self._rows = self._contender.encode(self._inputs)
        seconds = time.perf_counter() - start
        counts = self._contender.n_tokens
        return {"seconds": seconds, "n_tokens": sum(counts) / len(counts) if counts else None}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    job = json.loads(sys.argv[1])
    contender: MediaContender | None = None
    try:
        contender = make(job)
        pids = [os.getpid(), *contender.pids()]
        print(json.dumps({"about": contender.describe(), "pids": pids}), file=answers)
        worker = _Worker(contender, job["inputs"])
        for line in sys.stdin:
            print(json.dumps(worker.answer(line)), file=answers)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answers)
    finally:
        if contender:
            contender.close()


if __name__ == "__main__":
    main()
