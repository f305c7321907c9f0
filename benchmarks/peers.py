"""Where each contender of bench_peers.py comes from: its interpreter, its program, its model."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import models
import turns
import upstream
from environments import UnavailableError

_MODELS = environments.FOLDER / "models"


@dataclass(frozen=True)
class Place:
    """This machine, as far as contenders depend on it."""

    torch: str  # a Python that has sentence-transformers
    device: str

    @property
    def cuda(self) -> bool:
        return self.device != "cpu"


def _made(folder: Path, command: list[str]) -> Path:
    """A folder that a command fills, whose name is the command's last argument."""
    if not folder.exists():
        print(f"making {folder.relative_to(upstream.ROOT)} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=_MODELS, prefix="partial-") as partial:
            target = Path(partial) / "model"
            done = subprocess.run(
                [*command, str(target)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                lines = done.stderr.strip().splitlines()
                raise UnavailableError((lines or [f"exit status {done.returncode}"])[-1])
            target.rename(folder)
    return folder


def key(path: Path) -> str:
    """What tells a model file from others, here."""
    return f"{path.stem}-{path.stat().st_size}"


def _script(name: str) -> str:
    return str(Path(__file__).with_name(name))


def _torch_folder(model: str, path: Path, place: Place) -> Path:
    """The model as Sentence Transformers loads it; MiniLM as it was published."""
    probe = [place.torch, "-c", "import gguf, sentence_transformers"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnavailableError(f"--torch: {error}") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise UnavailableError(f"--torch names no Python that has all it needs: {reason}")
    _MODELS.mkdir(parents=True, exist_ok=True)
    if model in models.MINILM:
        return models.minilm_folder()
    return _made(_MODELS / key(path), [place.torch, _script("torch_text.py"), str(path)])


def _onnx_folder(model: str, place: Place) -> Path:
    if model not in models.MINILM:
        raise UnavailableError("measured with MiniLM only")
    if place.cuda:
        raise UnavailableError("measured on CPUs only")
    _MODELS.mkdir(parents=True, exist_ok=True)
    command = [environments.python("onnx"), _script("onnx_bert.py"), str(models.minilm_folder())]
    return _made(_MODELS / "minilm-onnx", command)


def _program(name: str, place: Place) -> str:
    try:
        return str(upstream.program(name, cuda=place.cuda))
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnavailableError(f"building it failed: {error}") from None


def prepare(contender: str, model: str, path: Path, place: Place) -> dict[str, Any]:
    """Builds and makes what the contender needs; the parts of its job that depend on that."""
    job: dict[str, Any] = {"contender": contender, "model": str(path), "device": place.device}
    if contender == "llama-cpp-python":
        program = _program("llama-server", place)  # whose libraries it loads
        return {**job, "python": environments.python(contender), "program": program}
    if contender.startswith("llama"):
        return {**job, "python": sys.executable, "program": _program(contender, place)}
    if contender.startswith("sentence-transformers"):
        folder = _torch_folder(model, path, place)
        return {**job, "python": place.torch, "folder": str(folder)}
    if contender.startswith("onnxruntime"):
        folder = _onnx_folder(model, place)
        return {**job, "python": environments.python("onnx"), "folder": str(folder)}
    return {**job, "python": sys.executable}


def start(job: dict[str, Any], setting: dict[str, Any]) -> turns.Worker:
    """A contender, loaded and warm."""
    worker = turns.Worker(job["python"], "contenders.py", {**job, "setting": setting["load"]})
    try:
        tune(worker, setting)
    except turns.UnableError:
        worker.close()
        raise
    return worker


def tune(worker: turns.Worker, setting: dict[str, Any]) -> None:
    """Changes what can be changed after loading, and has an input encoded with that."""
    worker.ask(f"tune {json.dumps(setting['call'])}")
    worker.ask("warm")
