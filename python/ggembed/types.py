"""Plain values of the public interface: enums and frozen dataclasses."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

import numpy.typing as npt

if TYPE_CHECKING:
    from .media import MediaLimits, Medium

Part = Union[str, "Medium", Mapping[str, Any], "os.PathLike[str]"]
"""A text, a medium, or a content part in the form of OpenAI's and Elastic's interfaces."""
Input = Part | Sequence[Part]
"""What becomes one row: a part, or several in the caller's order."""
Inputs = Part | Iterable[Input]
MediaTemplate = Literal["bare", "chat"]
Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
Overflow = Literal["error", "truncate", "truncate_start"]
CpuKernels = Literal["auto", "upstream"]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
OnError = Literal["raise", "collect"]
Split = Literal["layer", "copies", "none"]


class EncodeOptions(TypedDict, total=False):
    """Options of ``Embedder.encode`` that do not change what kind of value it returns."""

    prompt: str | None
    prompt_name: str | None
    task: str | None
    adapter: str | None
    adapter_scale: float
    max_tokens: int | None
    overflow: Overflow | None
    truncate_dim: int | None
    normalize_embeddings: bool
    ranges: npt.ArrayLike | None
    batch_size: int | None
    show_progress_bar: bool
    auto: bool
    limits: MediaLimits | None
    media_template: MediaTemplate | None
    out: npt.NDArray[Any] | None
    progress: Callable[[int, int], object] | None


class AllEncodeOptions(EncodeOptions, total=False):
    """Options of ``Embedder.encode``."""

    output_value: OutputValue | None
    precision: Precision
    on_error: OnError
    return_info: bool


class _Name(str, Enum):
    """A string with a fixed set of values."""

    def __str__(self) -> str:
        return str(self.value)


class Pooling(_Name):
    """How the token rows of a text become one row.

    ``NONE`` keeps one row per token. ``RANK`` marks rerankers, see ``Embedder.rank``.
    """

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


class Attention(_Name):
    """Which tokens a token sees: those before it, or all."""

    CAUSAL = "causal"
    BIDIRECTIONAL = "bidirectional"


@dataclass(frozen=True)
class DeviceInfo:
    """A device that can run models.

    Attributes
    ----------
    name : str
        What the ``device`` argument takes: ``"cpu"``, ``"cuda:0"``, ``"metal:0"``.
    kind : str
        ``"cpu"``, ``"cuda"``, ``"metal"`` or ``"other"``.
    index : int
        Number among the devices of its kind, from 0.
    description : str
        The device as its driver calls it.
    memory_total, memory_free : int
        Memory in bytes. That of GPUs is 0 in a process that was forked after their driver had been
        started, where they cannot be used.
    compute_capability : tuple of int or None
        CUDA's, such as ``(9, 0)``; None for other devices.
    """

    name: str
    kind: str
    index: int
    description: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done since it was made, and what waits in its queue.

    Attributes
    ----------
    n_texts : int
        Inputs whose rows are there.
    n_texts_failed : int
        Inputs without a row, of calls that have ended; not those that were aborted or closed.
    n_tokens, n_tokens_offered : int
        Tokens that went through the model, and those that its micro-batches had room for.
    n_microbatches, n_graphs_reused : int
        Micro-batches, and those that ran on the graph of the one before.
    n_calls, n_calls_aborted : int
        Calls that have ended, and those of them that were aborted. A long list is several.
    seconds_waiting, seconds_computing : float
        Time that the worker had nothing to do, and that it had; of several copies, the sum.
    n_calls_queued, n_calls_running : int
        Calls that wait for their first micro-batch now, and those that have begun.
    n_texts_queued, n_tokens_queued : int
        Inputs, and their tokens, that wait for their micro-batch now.
    """

    n_texts: int
    n_texts_failed: int
    n_tokens: int
    n_tokens_offered: int
    n_microbatches: int
    n_graphs_reused: int
    n_calls: int
    n_calls_aborted: int
    seconds_waiting: float
    seconds_computing: float
    n_calls_queued: int
    n_calls_running: int
    n_texts_queued: int
    n_tokens_queued: int

    @property
    def fill_rate(self) -> float:
        """How full the micro-batches were, 0 to 1; NaN before the first."""
        if self.n_tokens_offered == 0:
            return math.nan
        return self.n_tokens / self.n_tokens_offered


@dataclass(frozen=True)
class TowerInfo:
    """An encoder that was loaded from a projector file.

    Attributes
    ----------
    modality : str
        ``"vision"``, for images, video and PDF, or ``"audio"``.
    projector, name : str
        ``clip.projector_type`` and ``general.name`` of the file; the latter may be empty.
    n_layer : int
        Layers.
    patch_size, merge_size : int
        Vision: pixels of a patch's side and patches of a row's side. Sides of images become
        multiples of the product. 0 for audio.
    min_pixels, max_pixels, video_min_pixels, video_max_pixels : int
        Vision: sizes that images, and videos (width x height x frames), are brought to unless
        the `Image`, `Video` or `Pdf` says otherwise. 0 for audio.
    n_mel_bins, n_window : int
        Audio: bins of the spectrogram, and half the frames of a piece that is attended to by
        itself. 0 for vision.
    n_params, tensor_bytes, file_bytes : int
        Parameters, size of all weights, and size of the file.
    """

    modality: str
    projector: str
    name: str
    n_layer: int
    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    video_min_pixels: int
    video_max_pixels: int
    n_mel_bins: int
    n_window: int
    n_params: int
    tensor_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Weights:
    """The weights of a model that have one type and are computed with by one kernel.

    Attributes
    ----------
    type : str
        Type in the file, such as ``"q4_K"`` or ``"f16"``.
    kernel : str
        ggembed's own kernel that they are packed for, such as ``"avx512-vnni"``; empty for those
        that llama.cpp computes with.
    file_bytes, memory_bytes : int
        What they take in the file, and where they are held.
    """

    type: str
    kernel: str
    file_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class ModelInfo:
    """What an Embedder knows about its model and how it runs it.

    Attributes
    ----------
    path : str
        The GGUF file.
    name, architecture, quantization, tokenizer : str
        ``general.name`` (may be empty), ``general.architecture``, llama.cpp's name of the file
        type, and ``tokenizer.ggml.model``.
    dim : int
        Width of a full row.
    truncate_dim : int or None
        Width that rows are cut to by default.
    n_layer, n_vocab : int
        Layers and vocabulary size.
    n_ctx, n_ctx_train : int
        Longest text in tokens that is accepted, and the limit of the file.
    n_cls_out, n_adapters : int
        Outputs of the classification head, 0 without one, and adapters that were loaded.
    n_params, tensor_bytes, file_bytes : int
        Parameters, size of all weights, and size of the file or files.
    pooling, pooling_source
        Pooling in use, and where it comes from: ``"argument"``, ``"file"``, ``"profile"``, or
        ``"attention"`` if neither has a rule and it follows from the attention type.
    attention, attention_source
        Attention in use, and ``"argument"`` or ``"file"``.
    add_bos, add_eos : bool
        Whether a text gets an opening and a closing token.
    add_eos_source : str
        ``"file"``, or where the rule comes from that the file lacks: ``"ggembed"`` for its
        architecture, ``"profile"`` for the model.
    end_token : int or None
        Token that closes every text because the profile says so, in place of the file's rule.
    token_bos, token_eos, token_sep, token_pad : int or None
        Ids of the special tokens.
    mmproj : tuple of str
        Projector files.
    towers : tuple of TowerInfo
        Encoders for media that are in them, vision first.
    media_template : str
        Template of inputs with media in calls that name none, ``"bare"`` or ``"chat"``.
    device, device_reason : str
        Where the weights are, with commas between several devices, and why there.
    n_gpu_layers : int
        Layers on the device.
    cpu_kernels : str
        ggembed's own kernels for matrices that are in use, such as ``"avx512-bf16"``; empty if all
        are llama.cpp's.
    weights : tuple of Weights
        What the weights of each type take, without adapters and encoders; the most first.
    n_threads, n_ubatch, n_seq_max : int
        CPU threads, token budget of a micro-batch, most sequences packed into one.
    cuda_graphs : bool or None
        Whether CUDA graphs are captured; None if no CUDA device is used.
    cuda_graphs_reason : str
        Why, or why not.
    memory_limit : int or None
        Most bytes that model and engine may hold on the device.
    n_room : int
        Longest text in tokens that it leaves room for; ``n_ctx`` without a limit.
    prompts : mapping of str to str
        Prompts by name: those of the default task, then those that belong to no task.
    prompts_source : str or None
        ``"argument"``, ``"file"``, ``"profile"``, or None if there are no rules for this model.
    default_prompt_name : str or None
        The prompt that ``encode`` uses if none is named.
    profile : str or None
        Name of the profile that was recognised: what ggembed knows about the model. Without one,
        `tasks` and `dims` are empty, and `task`, `dim_min` and `n_ctx_advised` are None.
    tasks : tuple of str
        Tasks of the file.
    task : str or None
        The task of a call that names none.
    dims : tuple of int
        Widths that Matryoshka training covered; empty if there was none, or see `dim_min`.
    dim_min : int or None
        Least width, if the training covered every one from it on.
    n_ctx_advised : int or None
        Longest text in tokens that the model's authors name.
    licence : str or None
        Licence of the weights, from the profile or else from the file.
    warnings : tuple of str
        Where the file does not fit its profile, each with the remedy.
    version : str
        Version of the native library.
    build : mapping
        How the native library was built.
    metadata : mapping of str to str
        Scalar metadata of the file; arrays appear shortened.
    """

    path: str
    name: str
    architecture: str
    quantization: str
    tokenizer: str
    dim: int
    truncate_dim: int | None
    n_layer: int
    n_vocab: int
    n_ctx: int
    n_ctx_train: int
    n_cls_out: int
    n_adapters: int
    n_params: int
    tensor_bytes: int
    file_bytes: int
    pooling: Pooling
    pooling_source: str
    attention: Attention
    attention_source: str
    add_bos: bool
    add_eos: bool
    add_eos_source: str
    end_token: int | None
    token_bos: int | None
    token_eos: int | None
    token_sep: int | None
    token_pad: int | None
    mmproj: tuple[str, ...]
    towers: tuple[TowerInfo, ...]
    media_template: str
    device: str
    device_reason: str
    n_gpu_layers: int
    cpu_kernels: str
    weights: tuple[Weights, ...]
    n_threads: int
    n_ubatch: int
    n_seq_max: int
    cuda_graphs: bool | None
    cuda_graphs_reason: str
    memory_limit: int | None
    n_room: int
    prompts: Mapping[str, str]
    prompts_source: str | None
    default_prompt_name: str | None
    profile: str | None
    tasks: tuple[str, ...]
    task: str | None
    dims: tuple[int, ...]
    dim_min: int | None
    n_ctx_advised: int | None
    licence: str | None
    warnings: tuple[str, ...]
    version: str
    build: Mapping[str, object]
    metadata: Mapping[str, str]
