"""Reference rows for LoRA adapters: transformers (torch) with the adapters merged into the weights.

python reference_adapters.py                  # data/adapters.npz
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import golden
import make_tiny_adapters
import make_tiny_models
import numpy as np
import reference
import torch


def load(path: Path, adapter: make_tiny_adapters.TinyAdapter, scale: float) -> reference.Hidden:
    """`reference.load` of a base with an adapter, merged in float64."""

    def merge(g: reference.Gguf) -> None:
        for name in adapter.pairs:
            g.tensors[name] = g.tensors[name] + torch.tensor(adapter.delta(name, scale))

    return reference.load(path, merge)


def write(folder: Path) -> Path:
    """Golden rows of every base with every adapter and scale, for fixed ids."""
    data: dict[str, np.ndarray] = {"versions": np.array(reference.versions())}
    with tempfile.TemporaryDirectory() as scratch:
        for name in golden.ADAPTER_BASES:
            base = make_tiny_models.build(name)
            path = make_tiny_models.write(base, Path(scratch) / "model.gguf")
            data[f"{name}/content_sha256"] = np.array(base.content_sha256())
            for adapter in make_tiny_adapters.NAMES:
                for scale in golden.ADAPTER_SCALES:
                    hidden = load(path, make_tiny_adapters.build(base, adapter), scale)
                    rows = np.stack(
                        [
                            golden.pool(hidden(ids), golden.own_pooling(name))
                            for ids in golden.tiny_ids(base)
                        ]
                    )
                    packed = golden.pack(rows)
                    data |= {f"{name}/{adapter}/{scale}/{k}": v for k, v in packed.items()}
                    print(f"{name} {adapter} {scale}: {golden.spread(rows)}")
    out = folder / "adapters.npz"
    np.savez_compressed(out, **data)
    return out


def main() -> None:
    torch.set_num_threads(1)
    golden.run(write, __doc__)


if __name__ == "__main__":
    main()
