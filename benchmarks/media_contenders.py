"""Who is measured on media: ggembed, upstream's server, transformers.

Run as a program it is one of them in a process of its own: it loads, and then answers one line of
JSON for each line that it reads: `warm` embeds the first input, `encode` all of them, `save PATH`
keeps the rows of these, `parts` tells where the time of such a call goes.
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
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Part = dict[str, str]


class MediaContender(Protocol):
    """A program that turns inputs made of parts into rows."""

    n_tokens: list[float]  # of each input of the last call; empty if it cannot tell

    def encode(self, inputs: list[list[Part]]) -> np.ndarray:
        """Unit rows, [n_inputs, dim]; decoding the files is part of it."""

    def parts(self, inputs: list[list[Part]]) -> dict[str, float]:
        """Seconds of a call by what they are for, where that can be told; else nothing."""

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
        encoded = self._embedder.encode(
            [x[0] if len(x) == 1 else x for x in made], return_info=True
        )
        self.n_tokens = encoded.n_tokens.tolist()
        return encoded.rows

    def parts(self, inputs: list[list[Part]]) -> dict[str, float]:
        """Seconds of a call by what they are for. Media are prepared here one after the other."""
        from ggembed import _native, media

        model, _ = self._embedder._live()
        with _stopwatch(_native.Media, ("image", "video", "audio")) as native:
            start = time.perf_counter()
            for part in (part for parts in inputs for part in parts if part["kind"] != "text"):
                media.prepare(_ggembed_part(part), model)
            prepare = time.perf_counter() - start
        with _stopwatch(_native.Engine, ("encode",)) as engine:
            self.encode(inputs)
        with _stopwatch(_native.Engine, ("encode",)) as text:
            for n in {int(n) for n in self.n_tokens}:
                texts = ["one two three " * n] * self.n_tokens.count(n)
                self._embedder.encode(texts, prompt="", max_tokens=n, overflow="truncate")
        return {
            "decode_s": prepare - sum(native),
            "resize_or_mel_s": sum(native),
            "tower_s": sum(engine) - sum(text),
            "text_model_s": sum(text),
        }

    def describe(self) -> dict[str, Any]:
        import contenders

        return contenders.describe_embedder(self._embedder)

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        self._embedder.close()


@contextmanager
def _stopwatch(owner: type, names: tuple[str, ...]) -> Iterator[list[float]]:
    """Seconds of each call of some methods of a class."""
    seconds: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    originals = {name: vars(owner)[name] for name in names}
    for name, original in originals.items():
        is_method = isinstance(original, classmethod)
        changed = classmethod(timed(original.__func__)) if is_method else timed(original)
        setattr(owner, name, changed)
    try:
        yield seconds
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


def _ggembed_part(part: Part) -> Any:
    import ggembed

    if part["kind"] == "text":
        return part["text"]
    kinds = {"image": "Image", "audio": "Audio", "video": "Video", "pdf": "Pdf"}
    return getattr(ggembed, kinds[part["kind"]])(part["path"])


class LlamaServer:
    """llama-server's embeddings over HTTP, one request for all inputs of a call.

    It reads JPEG, PNG and WAV itself, video through an ffmpeg in PATH. The pages of a PDF are
    rendered here, as its client would have to. Images are limited to the model's 1280 rows.
    """

    _MARKER = "<__media__>"

    def __init__(self, job: dict[str, Any]) -> None:
        import llama_server

        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self._options = ["-b", "2048", "-ub", "2048", "-c", "8192", "-np", "1", "--no-ui"]
        self._options += ["--image-max-tokens", "1280"]
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
            with urllib.request.urlopen(request, timeout=1800) as response:
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

    def parts(self, inputs: list[list[Part]]) -> dict[str, float]:  # noqa: ARG002
        return {}

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
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for an ffmpeg that waits for it
            self._process.kill()
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
        if command == "parts":
            return self._contender.parts(self._inputs)
        start = time.perf_counter()
        self._rows = self._contender.encode(self._inputs)
        seconds = time.perf_counter() - start
        counts = self._contender.n_tokens
        return {"seconds": seconds, "n_tokens": sum(counts) / len(counts) if counts else None}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    warnings.simplefilter("ignore")  # texts are cut on purpose
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
