"""Tries one projector file after another as told on standard input; see worker.py."""

from __future__ import annotations

import importlib
import json
import resource
import sys
from types import ModuleType

import numpy as np
from ggembed import EmbedError, _native
from worker import ADDRESS_SPACE, described

# Patches across and down, mel frames: more than one window, and more than one piece.
GRIDS = ((10, 18), (2, 2))
N_FRAMES = (3, 411)


def load(path: str, base: str) -> list[dict[str, object]]:
    """Facts of the towers, which a text model loads and an estimate counts."""
    options = {"device": "cpu", "n_gpu_layers": 0, "adapters": (), "mmproj": [path]}
    error = None
    try:
        _native.estimate(base, numbers={"n_threads": 1}, **options)
    except EmbedError as err:
        error = str(err)
    model = _native.Model(base, mmap=True, progress=None, **options)
    if error is not None:
        raise RuntimeError(f"it loads, but the estimate says: {error}")
    return model.towers()


def compute(internals: ModuleType, path: str, tower: dict[str, object], n_embd: int) -> None:
    """One pass over inputs of several sizes."""
    if tower["n_mel_bins"]:
        ear = internals.Tower(path, n_embd, "audio")
        ear.audio([np.zeros((tower["n_mel_bins"], n), np.float32) for n in N_FRAMES])
        return
    eye, merge = internals.Tower(path, n_embd, "vision"), tower["merge_size"]
    sizes = [(w // 2 * merge, h // 2 * merge) for w, h in GRIDS]
    n_values = 6 * tower["patch_size"] ** 2
    eye.vision([(w, h, np.zeros((w * h, n_values), np.float32)) for w, h in sizes])


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.insert(0, sys.argv[1])
    internals = importlib.import_module("_ggembed_internals")
    print("ready", flush=True)
    for line in sys.stdin:
        path, base, n_embd = json.loads(line)
        try:
            for tower in load(path, base):
                compute(internals, path, tower, int(n_embd))
            end, message = "works", ""
        except EmbedError as err:
            end, message = described(err)
        except Exception as err:  # any other class is a finding
            end, message = "wrong", f"{type(err).__module__}.{type(err).__name__}: {err}"
        print(json.dumps([end, message]), flush=True)


if __name__ == "__main__":
    main()
