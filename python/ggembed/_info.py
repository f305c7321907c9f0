"""What is known about models, devices and the build, as the values of ``types``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _native, profiles
from .types import Attention, DeviceInfo, ModelInfo, Pooling

# Fields that ModelInfo takes from gge_model_info under the same name.
_SAME = (
    *("name", "architecture", "quantization", "tokenizer", "n_layer", "n_vocab", "n_ctx_train"),
    *("n_params", "tensor_bytes", "file_bytes", "device", "device_reason", "n_gpu_layers"),
)
_TOKENS = ("token_bos", "token_eos", "token_sep", "token_pad")
_ENGINE = ("n_ctx", "n_threads", "n_ubatch", "n_seq_max")


def describe(
    path: str,
    model: _native.Model,
    prompts: Mapping[str, str] | None,
    pooling: Pooling | None,
    attention: Attention | None,
) -> ModelInfo:
    """A loaded model with the overrides of an Embedder; the numbers of its engine are still 0."""
    found, metadata, name_of = model.info(), model.metadata(), _native.library().name
    profile = profiles.find(found["architecture"], found["name"], Path(path).name)
    prompts_by_name, source = _prompts(prompts, metadata, profile)
    facts: dict[str, Any] = {name: found[name] for name in _SAME}
    facts.update({name: None if found[name] < 0 else found[name] for name in _TOKENS})
    facts.update(dict.fromkeys(_ENGINE, 0))
    if pooling is None:
        pooling_source = "file" if found["pooling_in_file"] else "attention"
    else:
        pooling_source = "argument"
    return ModelInfo(
        path=path,
        dim=found["n_embd"],
        truncate_dim=None,
        pooling=pooling or Pooling(name_of("GGE_POOLING_", found["pooling"])),
        pooling_source=pooling_source,
        attention=attention or Attention(name_of("GGE_ATTENTION_", found["attention"])),
        attention_source="file" if attention is None else "argument",
        add_bos=bool(found["add_bos"]),
        add_eos=bool(found["add_eos"]),
        add_eos_source="ggembed" if found["add_eos"] and not found["add_eos_in_file"] else "file",
        prompts=prompts_by_name,
        prompts_source=source,
        profile=None if profile is None else profile.name,
        default_prompt_name=None,
        version=_native.version(),
        build=_native.build_info(),
        metadata=metadata,
        **facts,
    )


def describe_engine(engine: _native.Engine) -> dict[str, Any]:
    """The fields of ModelInfo that an engine decides."""
    found = engine.info()
    return {name: found[name] for name in _ENGINE}


def _prompts(
    given: Mapping[str, str] | None, metadata: Mapping[str, str], profile: profiles.Profile | None
) -> tuple[dict[str, str], str | None]:
    """Prompts by name and where they come from."""
    if given is not None:
        for name, prompt in given.items():
            if not isinstance(name, str) or not isinstance(prompt, str):
                raise TypeError(f"prompts must map str to str, got {name!r}: {prompt!r}")
        return dict(given), "argument"
    if in_file := profiles.prompts_in(metadata):
        return in_file, "file"
    if profile is not None:
        return dict(profile.prompts), "profile"
    return {}, None


def devices() -> list[DeviceInfo]:
    """Devices that can run models here, the CPU last.

    Returns
    -------
    list of DeviceInfo
        Asking touches the drivers, but loads nothing.
    """
    names = DeviceInfo.__dataclass_fields__
    return [DeviceInfo(**{name: found[name] for name in names}) for found in _native.devices()]


def build_info() -> dict[str, Any]:
    """How ggembed was built: versions, llama.cpp commit, compiler, back ends, CPU level.

    Returns
    -------
    dict
        The version of the package and of the native library, and the library's own facts.
    """
    return {
        "package_version": _native.__version__,
        "native_version": _native.version(),
        "library": _native.library().path,
        **_native.build_info(),
    }
