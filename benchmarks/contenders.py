"""Who is measured on texts: ggembed and its peers.

Run as a program it is one of them in a process of its own, which answers as serve.py says. Peers
run in environments that know nothing of ggembed, so each class imports what it needs when it is
made.

A job names the model twice: `model` is the GGUF file, `folder` what the peers in question load.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import serve

if TYPE_CHECKING:
    from ggembed import Embedder

Job = dict[str, Any]


def describe_embedder(embedder: Embedder) -> dict[str, Any]:
    """What explains the figures of ggembed."""
    import ggembed

    info = embedder.info()
    build = ggembed.build_info()
    names = ("llama_cpp_commit", "compiler", "build_type", "cpu", "cuda", "metal")
    return {
        "version": ggembed.__version__,
        "device": info.device,
        "n_threads": info.n_threads,
        "n_ubatch": info.n_ubatch,
        "n_ctx": info.n_ctx,
        "n_params": info.n_params,
        "build": {name: build[name] for name in names if name in build},
    }


class GGEmbed(serve.Plain):
    """This project, through its Python interface and with its defaults."""

    def __init__(self, job: Job) -> None:
        from ggembed import Embedder

        self._embedder = Embedder(job["model"], n_threads=job["n_threads"], device=job["device"])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included."""
        return [int(n) for n in self._embedder.count_tokens(list(texts))]

    def encode(self, inputs: list[str]) -> np.ndarray:
        encoded = self._embedder.encode(inputs, return_info=True)
        self.n_tokens = encoded.n_tokens.tolist()
        return encoded.rows

    def describe(self) -> dict[str, Any]:
        return describe_embedder(self._embedder)

    def close(self) -> None:
        self._embedder.close()


class LlamaServer(serve.Plain):
    """llama-server over HTTP, started with the pooling of the model."""

    def __init__(self, job: Job) -> None:
        from llama_server import Server

        options = ["--pooling", job["pooling"], *job["setting"].get("options", [])]
        self._server = Server(job, options)
        self._in_flight = 1

    def tune(self, setting: dict[str, Any]) -> None:
        self._in_flight = setting["in_flight"]

    def encode(self, inputs: list[str]) -> np.ndarray:
        rows, n_tokens = self._server.embed(inputs, self._in_flight)
        self.n_tokens = [n_tokens / len(inputs)] * len(inputs)
        return rows

    def describe(self) -> dict[str, Any]:
        return {**self._server.describe(), "client": "kept connections, rows in base64"}

    def pids(self) -> list[int]:
        return [self._server.pid]

    def close(self) -> None:
        self._server.close()


class LlamaEmbedding(serve.Plain):
    """Upstream's program, run anew for each call.

    What counts is from its line about the second batch to the first row that it prints: neither
    loading nor tokenising is held against it, nor the first batch, in which memory is touched for
    the first time. A list that makes less than three batches is given to it several times over.
    """

    _SEPARATOR = "<#text#>"
    _LEAST_BATCHES = 2.5
    _MOST_TIMES = 16

    def __init__(self, job: Job) -> None:
        if job["per_call"] == 1:
            raise ValueError("loads the model in every run, so one text per call says nothing")
        from llama_server import device_options

        self._command = [job["program"], "-m", job["model"], "--pooling", job["pooling"]]
        self._command += [*device_options(job), "--no-escape", "--embd-output-format", "raw"]
        self._command += ["--embd-separator", self._SEPARATOR]
        self._cuda = job["device"] != "cpu"
        self._n_tokens: int = job["n_tokens"]
        self._options: list[str] = []
        self._n_times = 1

    def tune(self, setting: dict[str, Any]) -> None:
        self._options = setting["options"]
        n_batch = int(self._options[self._options.index("-b") + 1])
        wanted = math.ceil(self._LEAST_BATCHES * n_batch / self._n_tokens)
        self._n_times = min(wanted, self._MOST_TIMES)

    def encode(self, inputs: list[str]) -> np.ndarray:
        n_times = self._n_times if len(inputs) > 1 else 1
        rows, seconds, n_tokens = self._run(inputs, n_times)
        self.seconds = seconds / n_times
        self.n_tokens = [n_tokens / n_times / len(inputs)] * len(inputs)
        return rows

    def _run(self, texts: list[str], n_times: int) -> tuple[np.ndarray, float, int]:
        """Rows of the texts, seconds of computing them n_times, and their tokens."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(self._SEPARATOR.join(texts * n_times))
            file.flush()
            process = subprocess.Popen(
                [*self._command, *self._options, "-f", file.name],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            log = _TimedLines(process.stderr)
            assert process.stdout
            first = process.stdout.read(1)
            end = time.perf_counter()
            lines = [first + process.stdout.readline(), *islice(process.stdout, len(texts) - 1)]
            os.kill(process.pid, signal.SIGKILL)  # the rest are the same rows again
            process.stdout.close()
            usage = os.wait4(process.pid, 0)[2]
            process.returncode = 0
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
        batches = log.found(r"batch_decode: n_tokens = (\d+)")
        if not first or not batches:
            raise RuntimeError(f"llama-embedding ended: {log.last()}")
        n_tokens = [int(match[1]) for _, match in batches]
        counted = batches[1:] or batches
        share = sum(n_tokens[-len(counted) :]) / sum(n_tokens)
        seconds = (end - counted[0][0]) / share
        return np.array([x.split() for x in lines], np.float32), seconds, sum(n_tokens)

    def describe(self) -> dict[str, Any]:
        import upstream
        from llama_server import shown

        return {
            "commit": upstream.pin()["COMMIT"],
            "build": upstream.options(cuda=self._cuda),
            "command": shown(self._command),  # and the options of the setting
            "clock": "from its second batch to its first row",
        }


class _TimedLines:
    """The lines of a stream, and when they came."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.append((time.perf_counter(), line))

    def found(self, pattern: str) -> list[tuple[float, re.Match[str]]]:
        """The lines with a match, once the stream has ended."""
        self._thread.join()
        matches = [(when, re.search(pattern, line)) for when, line in self._lines]
        return [(when, match) for when, match in matches if match]

    def last(self) -> str:
        """What the program said last, errors before all else."""
        self._thread.join()
        lines = [line.strip() for _, line in self._lines if line.strip()]
        errors = [line for line in lines if re.match(r"[\d.]+ E ", line)]
        return (errors or lines or [""])[-1]


class LlamaCppPython(serve.Plain):
    """`Llama(embedding=True).embed(list)`."""

    def __init__(self, job: Job) -> None:
        os.environ["LLAMA_CPP_LIB_PATH"] = str(Path(job["program"]).parent)
        import llama_cpp

        threads = {"n_threads": job["n_threads"], "n_threads_batch": job["n_threads"]}
        self._setting = job["setting"]
        self._llama = llama_cpp.Llama(
            job["model"],
            embedding=True,
            n_gpu_layers=0 if job["device"] == "cpu" else -1,
            verbose=False,
            **threads,
            **self._setting,
        )

    def encode(self, inputs: list[str]) -> np.ndarray:
        rows, n_tokens = self._llama.embed(inputs, normalize=True, return_count=True)
        self.n_tokens = [n_tokens / len(inputs)] * len(inputs)
        return np.array(rows, np.float32)

    def describe(self) -> dict[str, Any]:
        import llama_cpp

        about = {"version": llama_cpp.__version__, "n_threads": self._llama.n_threads_batch}
        return {**about, "system": llama_cpp.llama_print_system_info().decode().strip()}


class SentenceTransformers(serve.Plain):
    """Sentence Transformers on PyTorch, which sorts texts by length and pads each batch."""

    def __init__(self, job: Job) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        if job["n_threads"]:
            torch.set_num_threads(job["n_threads"])
        dtype = torch.bfloat16 if job["contender"].endswith("bf16") else torch.float32
        self._model = SentenceTransformer(
            job["folder"],
            device="cpu" if job["device"] == "cpu" else "cuda",
            model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
        )
        self._model.max_seq_length = job["n_ctx"]
        self._batch_size = 1
        self._inputs: list[str] = []

    @property
    def n_tokens(self) -> list[float]:
        """Counted when it is asked for: encode() does not tell."""
        limit = self._model.max_seq_length
        ids = self._model.tokenizer(self._inputs, truncation=True, max_length=limit)["input_ids"]
        return [len(x) for x in ids]

    def tune(self, setting: dict[str, Any]) -> None:
        self._batch_size = setting["batch_size"]

    def encode(self, inputs: list[str]) -> np.ndarray:
        self._inputs = inputs
        rows = self._model.encode(
            inputs, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(rows, np.float32)

    def describe(self) -> dict[str, Any]:
        import sentence_transformers
        import torch
        import transformers

        parameters = list(self._model.parameters())
        return {
            "version": f"sentence-transformers {sentence_transformers.__version__}",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "n_threads": torch.get_num_threads(),
            "weights_mb": sum(x.numel() * x.element_size() for x in parameters) / 1e6,
        }


class OnnxRuntime(serve.Plain):
    """onnxruntime with its fused operators, and Hugging Face's tokenizers in front of it.

    Texts are sorted by length and each batch is padded. Pooling is part of the graph.
    """

    def __init__(self, job: Job) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        path = Path(job["folder"])
        self._path = path / f"{job['contender'].rpartition('-')[2]}.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["n_threads"] or 0
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle ones sleep
        self._session = onnxruntime.InferenceSession(
            self._path, options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.enable_truncation(job["n_ctx"])
        self._tokenizer.no_padding()
        self._batch_size = 1

    def tune(self, setting: dict[str, Any]) -> None:
        self._batch_size = setting["batch_size"]

    def encode(self, inputs: list[str]) -> np.ndarray:
        ids = [x.ids for x in self._tokenizer.encode_batch_fast(inputs)]
        self.n_tokens = [len(x) for x in ids]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rows: list[np.ndarray] = [np.empty(0)] * len(ids)
        for first in range(0, len(order), self._batch_size):
            places = order[first : first + self._batch_size]
            batch = np.zeros((len(places), len(ids[places[0]])), np.int32)
            for row, place in zip(batch, places, strict=True):
                row[: len(ids[place])] = ids[place]
            lengths = np.array([len(ids[place]) for place in places], np.int32)
            (out,) = self._session.run(None, {"ids": batch, "lengths": lengths})
            for place, row in zip(places, out, strict=True):
                rows[place] = row
        return np.stack(rows)

    def describe(self) -> dict[str, Any]:
        import onnxruntime

        weights = self._path.stat().st_size / 1e6
        return {"version": onnxruntime.__version__, "weights_mb": weights}


CLASSES = {
    "ggembed": GGEmbed,
    "llama-server": LlamaServer,
    "llama-embedding": LlamaEmbedding,
    "llama-cpp-python": LlamaCppPython,
    "sentence-transformers-f32": SentenceTransformers,
    "sentence-transformers-bf16": SentenceTransformers,
    "onnxruntime-f32": OnnxRuntime,
    "onnxruntime-int8": OnnxRuntime,
}


def make(job: Job) -> serve.Contender:
    """The contender that the job names."""
    return CLASSES[job["contender"]](job)


if __name__ == "__main__":
    serve.run(make)
