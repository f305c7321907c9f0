"""GGUF files: quantised copies, and the memory that a model needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from . import _arguments, _native
from . import mmproj as mmproj_files
from ._calls import CPU_KERNELS, SPLITS, Progress, integer, one_of
from .types import CpuKernels, Split, Weights


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of a model and of an Embedder in bytes. On the CPU all of it is host memory.

    Attributes
    ----------
    weights_device, weights_host : int
        The weights. Those of the host are mapped from the file and shared between processes.
    cache_device, cache_host : int
        Keys and values, for texts of ``n_ctx`` tokens.
    compute_device, compute_host : int
        Buffers of the computation, for ``n_ubatch`` tokens at a time.
    output_host : int
        What llama.cpp keeps of the results.
    weights : tuple of Weights
        What the weights of each type take, of one copy, as ``Embedder.info().weights`` has it.
    """

    weights_device: int
    weights_host: int
    cache_device: int
    cache_host: int
    compute_device: int
    compute_host: int
    output_host: int
    weights: tuple[Weights, ...] = ()

    @property
    def total_device(self) -> int:
        """All memory of the device."""
        return self.weights_device + self.cache_device + self.compute_device

    @property
    def total_host(self) -> int:
        """All memory of the host."""
        return self.weights_host + self.cache_host + self.compute_host + self.output_host

    @property
    def total(self) -> int:
        """All memory."""
        return self.total_device + self.total_host


def estimate(
    model: str | os.PathLike[str],
    *,
    n_ctx: int | None = None,
    n_ubatch: int | None = None,
    n_seq_max: int | None = None,
    n_threads: int | None = None,
    memory_limit: int | str | None = None,
    device: str | Sequence[str] = "auto",
    n_gpu_layers: int | None = None,
    split: Split | None = None,
    cpu_kernels: CpuKernels = "auto",
    adapters: Iterable[str | os.PathLike[str]] = (),
    mmproj: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
) -> MemoryEstimate:
    """Tells what memory an Embedder would need, without loading the weights.

    The numbers are those of llama.cpp's own buffers, after a text of `n_ctx` tokens. The process
    itself, the vocabulary and the stacks of threads come on top.

    Parameters
    ----------
    model : str or path-like
        A GGUF file; a split model is named by its first file.
    n_ctx, n_ubatch, n_threads, device, n_gpu_layers, split, cpu_kernels
        As for ``Embedder``. Of copies, what all of them need together.
    memory_limit : int or str, optional
        As for ``Embedder``: then the numbers are what the model takes of it.
    n_seq_max : int, optional
        Most texts that go through the model together.
    adapters : iterable of path-like, optional
        GGUF files of LoRA adapters that are loaded with the model.
    mmproj : path-like or sequence of them, optional
        GGUF files of projectors for media that are loaded with the model.

    Returns
    -------
    MemoryEstimate
        Bytes, on the device and on the host.

    Raises
    ------
    ModelFileError, ModelFormatError, UnsupportedError, DeviceError
        As for ``Embedder``.
    OutOfMemoryError
        `memory_limit` does not suffice.

    Examples
    --------
    >>> from ggembed import demo_model, estimate
    >>> needs = estimate(demo_model.path(), device="cpu")
    >>> needs.weights_host > 40e6, needs.cache_host, needs.total_device
    (True, 0, 0)
    """
    counts = {"n_ctx": n_ctx, "n_ubatch": n_ubatch, "n_seq_max": n_seq_max, "n_threads": n_threads}
    numbers = {name: integer(name, n, 1) for name, n in counts.items() if n is not None}
    numbers["memory_limit"] = _arguments.n_bytes("memory_limit", memory_limit)
    gpu_layers = 0  # the header's zero is "all", its -1 is "none"
    if n_gpu_layers is not None:
        gpu_layers = integer("n_gpu_layers", n_gpu_layers, 0) or -1
    found = _native.estimate(
        os.fspath(model),
        device=_arguments.device_names(device),
        n_gpu_layers=gpu_layers,
        split="default" if split is None else one_of("split", split, SPLITS),
        cpu_kernels=one_of("cpu_kernels", cpu_kernels, CPU_KERNELS) == "auto",
        adapters=[os.fspath(file) for file in adapters],
        mmproj=mmproj_files.files(mmproj),
        numbers=numbers,
    )
    weights = tuple(Weights(**of_one) for of_one in found["weights"])
    names = (field.name for field in fields(MemoryEstimate))
    return MemoryEstimate(**{**{name: found[name] for name in names}, "weights": weights})


def quantize_levels() -> tuple[str, ...]:
    """Names of the levels that ``quantize`` can make, the most bits per weight first.

    ``IQ3_XS`` and those below, but for ``Q2_K``, need an importance matrix. ``TQ1_0``, ``TQ2_0``,
    ``Q1_0`` and ``Q2_0`` are for models that were trained in them; other models do not survive
    them. ``MXFP4_MOE`` is for mixtures of experts; it makes ``Q8_0`` of what is none.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> from ggembed import quantize_levels
    >>> quantize_levels()[:5], "Q4_K_M" in quantize_levels()
    (('F32', 'BF16', 'F16', 'Q8_0', 'Q6_K'), True)
    """
    return tuple(_native.quantize_levels())


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    level: str,
    *,
    imatrix: str | os.PathLike[str] | None = None,
    token_embedding_type: str | None = None,
    n_threads: int | None = None,
    requantize: bool = False,
    pure: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a quantised copy of a GGUF model with llama.cpp's quantiser.

    Parameters
    ----------
    source : str or path-like
        A GGUF file with F32, F16 or BF16 weights; a split model is named by its first file.
    target : str or path-like
        The file to write. It appears when it is complete; an existing one is replaced.
    level : str
        One of ``quantize_levels()``.
    imatrix : str or path-like, optional
        Importance matrix of the model, as ``llama-imatrix`` writes it: a GGUF file, or one in the
        older format.
    token_embedding_type : str, optional
        Type of the token embeddings, such as ``"q8_0"`` or ``"f16"``; what the level says by
        default.
    n_threads : int, optional
        CPU threads; the physical cores that the process may use by default.
    requantize : bool, optional
        Allow a source that is quantised already. The result is worse than from the original.
    pure : bool, optional
        Give all matrices the same type, instead of more bits to those that matter more.
    progress : callable, optional
        Called with (bytes of the source's tensors done, bytes in all). An exception that it raises
        stops the call, leaves no file and comes out of it.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    InvalidInputError
        An unknown level, a source that is quantised already or the same file as the target, an
        importance matrix that is missing or of another model.
    ModelFileError, ModelFormatError
        A file cannot be read or written, or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from ggembed import Embedder, demo_model, quantize
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = quantize(demo_model.path(), f"{folder}/small.gguf", "Q8_0")
    ...     with Embedder(path) as embedder:
    ...         print(embedder.info().quantization, embedder.encode("a text").shape)
    Q8_0 (384,)
    """
    _native.quantize(
        os.fspath(source),
        os.fspath(target),
        level,
        imatrix=None if imatrix is None else os.fspath(imatrix),
        token_embedding_type=token_embedding_type,
        n_threads=0 if n_threads is None else integer("n_threads", n_threads, 1),
        requantize=requantize,
        pure=pure,
        progress=progress,
    )
    return Path(target)
