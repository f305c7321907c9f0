"""Looks at the machine and at a model for what makes embeddings fail, slow or wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import _info
from . import mmproj as mmproj_files
from ._arguments import device_names
from ._buffers import FloatArray, as_list
from ._machine import GIB, available_memory, check_machine
from .embedder import Embedder
from .errors import (
    DeviceError,
    EmbedError,
    InvalidInputError,
    ModelFileError,
    ModelFormatError,
    OutOfMemoryError,
)
from .files import MemoryEstimate, estimate, quantize_levels
from .findings import Finding, Report, Similarity
from .types import ModelInfo, TowerInfo

_BUCKETS = ((4, "up to 4 tokens"), (16, "5 to 16"), (128, "17 to 128"), (None, "over 128"))

# Lowest cosine with the full precision for very short, short and medium texts, measured on a model
# of 0.6 B parameters. Source: card of jina-embeddings-v5-omni-small-clustering-GGUF.
_LOWEST = {
    "F16": (0.9999, 1.0, 1.0),
    "Q8_0": (0.9986, 0.9998, 0.9997),
    "Q6_K": (0.9951, 0.9990, 0.9984),
    "Q5_K_M": (0.9938, 0.9985, 0.9976),
    "Q5_K_S": (0.9910, 0.9979, 0.9971),
    "Q4_K_M": (0.9856, 0.9960, 0.9936),
    "IQ4_NL": (0.9833, 0.9932, 0.9897),
    "IQ4_XS": (0.9802, 0.9924, 0.9887),
    "Q3_K_M": (0.9686, 0.9896, 0.9858),
    "Q2_K": (0.8212, 0.9575, 0.9375),
    "IQ2_M": (0.8144, 0.9532, 0.9334),
    "IQ2_XXS": (0.7750, 0.8553, 0.8160),
    "IQ1_M": (0.3100, 0.7767, 0.6790),
    "IQ1_S": (0.5355, 0.7312, 0.3854),
}
_RENAMED = {"IQ3_S mix": "IQ3_M", "MXFP4 MoE": "MXFP4_MOE"}  # by llama.cpp

_REMEDIES: dict[type[EmbedError], str] = {
    DeviceError: "take one that `ggembed devices` lists",
    ModelFileError: "look at the path and its permissions",
    ModelFormatError: "fetch or convert the file again",
    OutOfMemoryError: "take a file of a lower level, or free memory",
}

_LAST_GOOD = "Q5_K_M"  # below it, short texts lose visibly
_LAST_OF_3_BITS = "IQ3_XXS"  # below it, retrieval falls off. Source: card of jina-embeddings-v4
_FULL_PRECISION = 0.998  # lowest cosine between full precisions of two implementations


def doctor(
    model: str | os.PathLike[str] | None = None,
    *,
    mmproj: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    compare: str | os.PathLike[str] | npt.ArrayLike | None = None,
    texts: Iterable[str] | None = None,
    device: str | Sequence[str] = "auto",
) -> Report:
    """Looks at the machine and, if one is named, at a model.

    Parameters
    ----------
    model : str or path-like, optional
        A GGUF file. It is loaded, if its memory suffices.
    mmproj : path-like or sequence of them, optional
        GGUF files of its projectors for media.
    compare : path-like or array-like, optional
        Rows of a reference implementation for `texts`, (n_texts, dim), or an ``.npy`` file of them.
        Rows may be cut to a smaller width that the model supports.
    texts : iterable of str, optional
        Texts that `compare` has rows for. They are embedded as ``encode`` does by default.
    device : str or sequence of str, optional
        As for ``Embedder``.

    Returns
    -------
    Report
        Findings, and with `compare` the cosines of the rows.

    Raises
    ------
    InvalidInputError
        One of `compare` and `texts` without the other or without a model, or rows that do not fit.

    Examples
    --------
    >>> from ggembed import Embedder, demo_model, doctor
    >>> with Embedder() as embedder:
    ...     rows = embedder.encode(["a cat", "a cat sleeps on the mat"])
    >>> report = doctor(demo_model.path(), compare=rows, texts=["a cat", "a cat sleeps on the mat"])
    >>> report.failed, [(s.lengths, s.n_texts) for s in report.similarities]
    (False, [('up to 4 tokens', 1), ('5 to 16', 1)])
    """
    if (compare is None) != (texts is None) or (compare is not None and model is None):
        raise InvalidInputError("compare needs texts, texts need compare, and both need a model")
    findings = list(check_machine())
    if model is None or any(finding.level == "error" for finding in findings):
        return Report(tuple(findings))
    listed = [] if texts is None else as_list(texts)[0]
    reference = None if compare is None else _reference(compare, len(listed))
    similarities: list[Similarity] = []
    try:
        projectors = mmproj_files.files(mmproj)
        findings.append(_memory(model, projectors, device))
        if findings[-1].level != "error":
            with Embedder(model, mmproj=projectors, device=device) as embedder:
                findings.extend(_check_model(embedder))
                if reference is not None:
                    similarities.extend(_compare(embedder, listed, reference))
                    findings.append(_judge(similarities, level_of(embedder.info())))
    except InvalidInputError:
        raise
    except EmbedError as err:
        findings.append(Finding("error", str(err), _REMEDIES.get(type(err), "")))
    return Report(tuple(findings), tuple(similarities))


def _memory(
    model: str | os.PathLike[str], mmproj: list[str], device: str | Sequence[str]
) -> Finding:
    """What the model needs, for texts as long as its context and for short ones."""
    try:
        needs = estimate(model, mmproj=mmproj, device=device)
    except InvalidInputError as err:  # the file names an absurd context
        return Finding("warn", str(err), "pass a smaller n_ctx")
    if (lack := _lack(needs, device)) is None:
        sizes = f"{needs.total_host / GIB:.2f} GiB on the host"
        if needs.total_device:
            sizes += f", {needs.total_device / GIB:.2f} GiB on the device"
        return Finding("ok", f"the model needs {sizes}, for texts as long as its context")
    if _lack(estimate(model, mmproj=mmproj, device=device, n_ctx=1), device) is None:
        return Finding("warn", f"{lack}, for texts as long as its context", "pass a smaller n_ctx")
    return Finding("error", lack, "take a file of a lower level, or free memory")


def _lack(needs: MemoryEstimate, device: str | Sequence[str]) -> str | None:
    """What the memory falls short of."""
    places: list[tuple[str, int, int | None]] = [("host", needs.total_host, available_memory())]
    if needs.total_device:
        found = _info.devices()
        names = device_names(device).split(",")
        chosen = [d for d in found if d.name in names or d.name.removesuffix(":0") in names]
        chosen = chosen or found[:1]
        free_there = sum(d.memory_free for d in chosen)
        places.append((",".join(d.name for d in chosen), needs.total_device, free_there))
    for place, need, free in places:
        if free is not None and need > free:
            return (
                f"the model needs {need / GIB:.2f} GiB on the {place}, "
                f"{free / GIB:.2f} GiB are available"
            )
    return None


def _check_model(embedder: Embedder) -> Iterator[Finding]:
    info = embedder.info()
    bos, eos = ("yes" if adds else "no" for adds in (info.add_bos, info.add_eos))
    yield Finding(
        "ok",
        f"{info.name or Path(info.path).name}: {info.architecture}, {info.n_params / 1e6:.0f} M "
        f"parameters, {info.dim} dimensions, on {info.device} ({info.device_reason})",
    )
    yield Finding(
        "ok",
        f"pooling {info.pooling} ({info.pooling_source}), attention {info.attention} "
        f"({info.attention_source}), opening token {bos}, closing token {eos}, context "
        f"{info.n_ctx} tokens, prompts {', '.join(info.prompts) or 'none'}",
    )
    if info.cuda_graphs is not None:
        state = "on" if info.cuda_graphs else "off"
        yield Finding("ok", f"CUDA graphs are {state} ({info.cuda_graphs_reason})")
    yield from map(_tower, info.towers)
    yield from _check_profile(info)
    yield from _check_tokenizer(embedder, info)
    yield _check_level(level_of(info))


def _tower(tower: TowerInfo) -> Finding:
    what = (
        f"{tower.modality} tower {tower.projector}: {tower.n_layer} layers, "
        f"{tower.n_params / 1e6:.0f} M parameters"
    )
    if tower.modality == "vision":
        what += f", images of {tower.min_pixels} to {tower.max_pixels} pixels"
    return Finding("ok", what)


def _check_profile(info: ModelInfo) -> Iterator[Finding]:
    for warning in info.warnings:
        what, _, remedy = warning.rpartition("; ")
        yield Finding("warn", what or remedy, remedy if what else "")
    if info.profile is None:
        yield Finding(
            "warn",
            "no profile knows this model: its prompts and its pooling cannot be checked",
            "read the model's card, and compare rows with those of its authors' code",
        )
    elif not info.warnings:
        yield Finding("ok", f"the file fits its profile, {info.profile}")
    if info.pooling_source == "attention":
        yield Finding(
            "warn",
            f"the file names no pooling; {info.pooling} follows from its attention",
            "pass pooling= as the model's card says",
        )
    if info.add_eos_source == "ggembed":
        yield Finding("ok", "the file lacks the rule for the closing token; ggembed supplies it")


def _check_tokenizer(embedder: Embedder, info: ModelInfo) -> Iterator[Finding]:
    if info.tokenizer in ("", "none", "no_vocab"):
        yield Finding("error", "the file has no tokenizer", "convert the model again")
        return
    if info.tokenizer == "gpt2" and info.metadata.get("tokenizer.ggml.pre", "default") == "default":
        yield Finding(
            "warn",
            "the file does not say how texts are split before BPE, token ids may be wrong",
            "convert the model again with a newer converter",
        )
    ids = embedder.tokenize("The quick brown fox jumps over the lazy dog.")
    unknown = info.metadata.get("tokenizer.ggml.unknown_token_id", "")
    n_unknown = int(np.count_nonzero(ids == int(unknown))) if unknown.isdigit() else 0
    if n_unknown * 2 > len(ids):
        yield Finding(
            "warn",
            f"{n_unknown} of {len(ids)} tokens of an English sentence are unknown to the model",
            "if it is meant to read English, convert it again",
        )


def level_of(info: ModelInfo) -> str:
    """The level of a file by the name that ``quantize`` has for it.

    Parameters
    ----------
    info : ModelInfo
        Of the loaded file.

    Returns
    -------
    str
        One of ``quantize_levels()``, or empty if the file names none of them.

    Examples
    --------
    >>> from ggembed import Embedder
    >>> from ggembed.doctor import level_of
    >>> level_of(Embedder().info())
    'F16'
    """
    name = info.quantization.removeprefix("(guessed) ").removeprefix("all ")
    base, _, rest = name.partition(" - ")
    known = quantize_levels()
    suffix = {"Large": "_L", "Medium": "_M", "Small": "_S"}.get(rest, "")
    candidates = (_RENAMED.get(base), base + suffix, base)
    return next((level for level in candidates if level in known), "")


def _check_level(level: str) -> Finding:
    if not level:
        return Finding("ok", "the file does not name its level of quantisation")
    levels = quantize_levels()
    if levels.index(level) <= levels.index(_LAST_GOOD):
        return Finding("ok", f"quantisation {level}")
    what = f"quantisation {level}: levels below {_LAST_GOOD} lose most on short texts"
    if level in _LOWEST:
        cosines = ", ".join(f"{cosine:.3f}" for cosine in _LOWEST[level])
        what += f" (lowest cosines of another model: {cosines} for very short, short, medium)"
    if levels.index(level) > levels.index(_LAST_OF_3_BITS):
        return Finding("warn", f"{what}; below 3 bits retrieval falls off", "take Q4_K_M or better")
    return Finding("warn", what, f"take {_LAST_GOOD} or better for queries of a few words")


def _reference(given: str | os.PathLike[str] | npt.ArrayLike, n_texts: int) -> FloatArray:
    """Rows of a reference, (n_texts, dim)."""
    if isinstance(given, (str, os.PathLike)):
        try:
            given = np.load(given, allow_pickle=False)
        except (OSError, ValueError, EOFError) as err:
            raise InvalidInputError(f"cannot read the reference {given}: {err}") from None
    try:
        rows = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise InvalidInputError("the reference does not hold numbers") from None
    if rows.ndim != 2 or len(rows) != n_texts:
        raise InvalidInputError(
            f"the reference must have shape (n_texts, dim) for {n_texts} texts, got {rows.shape}"
        )
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        raise InvalidInputError(f"row {bad[0]} of the reference is zero or not finite")
    return rows


def _compare(embedder: Embedder, texts: list[str], reference: FloatArray) -> Iterator[Similarity]:
    width = reference.shape[1]
    if width > embedder.dim:
        raise InvalidInputError(
            f"the reference has rows of {width} values, the model's have {embedder.dim}"
        )
    rows = embedder.encode(
        texts, truncate_dim=width, output_value="sentence_embedding", on_error="collect"
    ).rows
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    cosines = np.sum(rows * unit, axis=1)
    counts = np.asarray(embedder.count_tokens(texts))
    low = -1
    for high, lengths in _BUCKETS:
        chosen = cosines[(counts > low) & (counts <= (high or np.inf)) & np.isfinite(cosines)]
        if len(chosen):
            numbers = float(chosen.min()), float(chosen.mean()), float(np.median(chosen))
            yield Similarity(lengths, len(chosen), *numbers)
        low = high or low


def _judge(similarities: list[Similarity], level: str) -> Finding:
    """Whether the distance to the reference is what the level of quantisation explains."""
    if not similarities:
        return Finding("warn", "there are no texts to compare")
    lowest = min(similarity.lowest for similarity in similarities)
    usual = _usual(level)
    what = f"the lowest cosine with the reference is {lowest:.4f}"
    if lowest >= usual:
        return Finding("ok", what)
    if lowest >= 1 - 10 * (1 - usual):
        return Finding(
            "warn",
            f"{what}, usual for {level or 'the file'} is {usual:.4f} or more",
            "compare a file of a higher level",
        )
    return Finding(
        "error",
        f"{what}: more than {level or 'quantisation'} explains",
        "compare pooling, prompts, special tokens and normalisation with the reference's",
    )


def _usual(level: str) -> float:
    """The lowest cosine that is no surprise at a level: its own, or that of the next one below."""
    levels = quantize_levels()
    if level not in levels:
        return _FULL_PRECISION
    below = [cosines for name in levels[levels.index(level) :] if (cosines := _LOWEST.get(name))]
    return min(_FULL_PRECISION, *(below or [_LOWEST["IQ1_S"]])[0])
