"""What is known about models, devices and the build, as the values of ``types``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import _native, profiles
from ._prompts import Prompts
from .errors import EmbedError
from .profiles import MediaRules
from .types import Attention, DeviceInfo, EngineStats, ModelInfo, Pooling, TowerInfo, Weights

# Fields that ModelInfo takes from gge_model_info under the same name.
_SAME = (
    *("name", "architecture", "quantization", "tokenizer", "n_layer", "n_vocab", "n_ctx_train"),
    *(
        "n_cls_out",
        "n_adapters",
        "n_params",
        "tensor_bytes",
        "file_bytes",
        "device",
        "device_reason",
        "cpu_kernels",
        "n_gpu_layers",
    ),
)
_TOKENS = ("token_bos", "token_eos", "token_sep", "token_pad")
_ENGINE = ("n_ctx", "n_room", "n_threads", "n_ubatch", "n_seq_max")


def describe(
    path: str,
    model: _native.Model,
    *,
    prompts: Mapping[str, str] | None = None,
    pooling: Pooling | None = None,
    attention: Attention | None = None,
    task: str | None = None,
    default_prompt_name: str | None = None,
    mmproj: Sequence[str] = (),
) -> tuple[ModelInfo, Prompts, MediaRules]:
    """A loaded model with the overrides of an Embedder; the numbers of its engine are still 0."""
    found, metadata = model.info(), model.metadata()
    names = found["name"], metadata.get("general.basename", ""), Path(path).name
    profile = profiles.find(found["architecture"], *names)
    merged_task = None if profile is None else profile.task_in(*names)
    known = Prompts.of(
        prompts, metadata, profile, merged_task, task=task, default_name=default_prompt_name
    )
    media = MediaRules() if profile is None else profile.media
    info = ModelInfo(
        path=path,
        mmproj=tuple(mmproj),
        towers=tuple(towers(model)),
        media_template=media.template,
        truncate_dim=None,
        prompts=known.by_name,
        prompts_source=known.source,
        default_prompt_name=default_prompt_name,
        tasks=tuple(known.tasks),
        task=known.task,
        warnings=(),
        version=_native.version(),
        build=_native.build_info(),
        metadata=metadata,
        **_of_file(found),
        **_rules(found, pooling, attention, profile),
        **_of_profile(profile, metadata),
    )
    if profile is not None:
        if _lacks_end(info, profile) and _has_token(model, profile):
            info = replace(info, end_token=profile.end_id, add_eos=True, add_eos_source="profile")
        info = replace(info, warnings=tuple(_contradictions(info, profile)))
        _log_once(path, info.warnings)
    return info, known, media


def towers(model: _native.Model) -> list[TowerInfo]:
    """The encoders for media of a loaded model."""
    names = TowerInfo.__dataclass_fields__
    return [TowerInfo(**{name: found[name] for name in names}) for found in model.towers()]


def describe_engine(engine: _native.Engine) -> dict[str, Any]:
    """The fields of ModelInfo that an engine decides."""
    found = engine.info()
    return {
        **{name: found[name] for name in _ENGINE},
        "cuda_graphs": (None, True, False)[found["cuda_graphs"]],
        "cuda_graphs_reason": found["cuda_graphs_reason"],
        "memory_limit": found["memory_limit"] or None,
    }


def engine_stats(engine: _native.Engine) -> EngineStats:
    """The counters of an engine."""
    found = engine.stats()
    return EngineStats(**{name: found[name] for name in EngineStats.__dataclass_fields__})


def _of_file(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ModelInfo that the file decides."""
    facts: dict[str, Any] = {name: found[name] for name in _SAME}
    facts["weights"] = tuple(Weights(**weights) for weights in found["weights"])
    facts.update({name: None if found[name] < 0 else found[name] for name in _TOKENS})
    facts.update(
        dict.fromkeys(_ENGINE, 0), cuda_graphs=None, cuda_graphs_reason="", memory_limit=None
    )
    supplied = found["add_eos"] and not found["add_eos_in_file"]
    return {
        "dim": found["n_embd"],
        "add_bos": bool(found["add_bos"]),
        "add_eos": bool(found["add_eos"]),
        "add_eos_source": "ggembed" if supplied else "file",
        "end_token": None,
        **facts,
    }


def _rules(
    found: Mapping[str, Any],
    pooling: Pooling | None,
    attention: Attention | None,
    profile: profiles.Profile | None,
) -> dict[str, Any]:
    """Pooling and attention in use, and where they come from."""
    name_of = _native.library().name
    if pooling is not None:
        pooling_source = "argument"
    elif profile is not None and not found["pooling_in_file"]:
        pooling, pooling_source = profile.pooling, "profile"
    else:
        pooling = Pooling(name_of("GGE_POOLING_", found["pooling"]))
        pooling_source = "file" if found["pooling_in_file"] else "attention"
    attention_source = "file" if attention is None else "argument"
    attention = attention or Attention(name_of("GGE_ATTENTION_", found["attention"]))
    return {
        "pooling": pooling,
        "pooling_source": pooling_source,
        "attention": attention,
        "attention_source": attention_source,
    }


def _of_profile(profile: profiles.Profile | None, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields of ModelInfo that a profile decides."""
    if profile is None:
        nothing: dict[str, Any] = dict.fromkeys(("profile", "dim_min", "n_ctx_advised"))
        return {**nothing, "dims": (), "licence": metadata.get("general.license")}
    return {
        "profile": profile.name,
        "dims": profile.dims,
        "dim_min": profile.dim_min,
        "n_ctx_advised": profile.n_ctx,
        "licence": profile.licence,
    }


def _lacks_end(info: ModelInfo, profile: profiles.Profile) -> bool:
    """Whether texts do not get the closing token that the model was trained with."""
    return profile.end_id is not None and not (info.add_eos and info.token_eos == profile.end_id)


def _has_token(model: _native.Model, profile: profiles.Profile) -> bool:
    """Whether the closing token is in the vocabulary under the profile's number."""
    name = profile.ends_with.encode()
    bounds = np.array([0, len(name)], np.int64)
    try:
        tokens = _native.Tokens(model, name, bounds, add_special=False, parse_special=True)
    except EmbedError:  # no tokenizer
        return False
    return bool(tokens.ids().tolist() == [profile.end_id])


def _contradictions(info: ModelInfo, profile: profiles.Profile) -> Iterator[str]:
    """Where a file does not fit its profile, each with the remedy."""
    again = "fetch or convert the file again"
    if info.pooling_source == "file" and info.pooling is not profile.pooling:
        yield (
            f"the file says pooling {info.pooling}, {profile.name} was trained with "
            f"{profile.pooling}; pass pooling={profile.pooling.value!r}"
        )
    if info.attention_source == "file" and info.attention is not profile.attention:
        yield (
            f"the file says {info.attention} attention, {profile.name} was trained with "
            f"{profile.attention}; pass attention={profile.attention.value!r}"
        )
    for adds, token, place in (
        (info.add_bos, profile.begins_with, "in front of"),
        (info.add_eos, profile.ends_with, "behind"),
    ):
        if adds != bool(token):
            puts = "a token" if adds else "no token"
            yield (
                f"the file puts {puts} {place} a text, {profile.name} needs {token or 'none'}; "
                f"{again}"
            )
    if info.add_eos and info.end_token is None and _lacks_end(info, profile):
        yield (
            f"the file puts token {info.token_eos} behind a text, {profile.name} needs "
            f"{profile.end_id}, {profile.ends_with}; {again}"
        )
    if info.n_ctx_train < profile.n_ctx:
        yield (
            f"the file takes {info.n_ctx_train} tokens, {profile.name} takes {profile.n_ctx}; "
            f"{again}, or keep texts that short"
        )
    if profile.caveat is not None:
        yield profile.caveat


_logged: set[tuple[str, str]] = set()


def _log_once(path: str, warnings: Iterable[str]) -> None:
    """Logs what was not yet logged of a file in this process."""
    for warning in warnings:
        if (path, warning) not in _logged:
            _logged.add((path, warning))
            _native.log.warning("%s: %s", path, warning)


def devices() -> list[DeviceInfo]:
    """Devices that can run models here, the CPU last.

    Returns
    -------
    list of DeviceInfo
        Asking starts the drivers, and takes some memory of each GPU.

    Examples
    --------
    >>> from ggembed import devices
    >>> devices()[-1].name
    'cpu'
    """
    return [_device(found) for found in _native.devices()]


def _device(found: Mapping[str, Any]) -> DeviceInfo:
    same = ("name", "kind", "index", "description", "memory_total", "memory_free")
    capability = found["compute_major"], found["compute_minor"]
    return DeviceInfo(
        **{name: found[name] for name in same},
        compute_capability=None if capability == (0, 0) else capability,
    )


def build_info() -> dict[str, Any]:
    """How ggembed was built: versions, llama.cpp commit, compiler, back ends, CPU level.

    Returns
    -------
    dict
        The version of the package and of the native library, and the library's own facts.

    Examples
    --------
    >>> from ggembed import build_info
    >>> build_info()["package_version"] == build_info()["native_version"]
    True
    """
    return {
        "package_version": _native.__version__,
        "native_version": _native.version(),
        "library": _native.library().path,
        **_native.build_info(),
    }
