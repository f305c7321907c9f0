"""Who is measured on media: ggembed, upstream's server, transformers.

Run as a program it is one of them in a process of its own, which answers as serve.py says.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import serve
from llama_server import Server

Part = dict[str, str]


class GGEmbed(serve.Plain):
    """This project, through its Python interface and with its defaults."""

    def __init__(self, job: dict[str, Any]) -> None:
        from ggembed import Embedder

        self._embedder = Embedder(job["model"], mmproj=[job["mmproj"]], n_threads=job["n_threads"])

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


class LlamaServer(serve.Plain):
    """llama-server's embeddings over HTTP, one request for all inputs of a call.

    It reads JPEG, PNG and WAV itself, video through an ffmpeg in PATH. The pages of a PDF are
    rendered here, as its client would have to. Images are limited to the model's 1280 rows.
    """

    _MARKER = "<__media__>"

    def __init__(self, job: dict[str, Any]) -> None:
        options = ["-b", "2048", "-ub", "2048", "-c", "8192", "-np", "1"]
        options += ["--mmproj", job["mmproj"], "--image-max-tokens", "1280"]
        self._server = Server(job, options, {"LLAMA_MEDIA_MARKER": self._MARKER})

    def encode(self, inputs: list[list[Part]]) -> np.ndarray:
        rows, n_tokens = self._server.embed([self._input(parts) for parts in inputs])
        self.n_tokens = [n_tokens / len(inputs)] * len(inputs)
        return rows

    def _input(self, parts: list[Part]) -> dict[str, Any]:
        prompt, files = "", []
        for part in parts:
            made = [] if part["kind"] == "text" else _file_bytes(part)
            prompt += part.get("text", "") + self._MARKER * len(made)
            files += [base64.b64encode(content).decode() for content in made]
        return {"prompt_string": prompt, "multimodal_data": files}

    def describe(self) -> dict[str, Any]:
        return {**self._server.describe(), "client": "one request for all inputs, media in base64"}

    def pids(self) -> list[int]:
        return [self._server.pid]

    def close(self) -> None:
        self._server.close()


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


def make(job: dict[str, Any]) -> serve.Contender:
    """The contender that the job names."""
    if job["contender"].startswith("transformers"):
        import media_torch

        return media_torch.Transformers(job)
    return {"ggembed": GGEmbed, "llama-server": LlamaServer}[job["contender"]](job)


if __name__ == "__main__":
    serve.run(make)
