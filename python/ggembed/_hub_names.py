"""Which of a repository's GGUF files are the model that was asked for. Names only, no I/O.

Names follow no standard. The rules here cover what publishers of GGUF files do: llama.cpp's own
scripts, ggml-org, Jina, Unsloth, bartowski, mradermacher and Nomic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

from .errors import InvalidInputError, ModelFileError

Modality = Literal["text", "vision", "audio", "omni"]

DEFAULT_QUANT = "Q4_K_M"

_ROLES: dict[str, tuple[str, ...]] = {
    "text": (),
    "vision": ("vision",),
    "audio": ("audio",),
    "omni": ("vision", "audio"),
}
_ROLE_WORDS = {
    "vision": "vision",
    "visual": "vision",
    "image": "vision",
    "audio": "audio",
    "speech": "audio",
}
# Projectors are small and lose more by rounding than they save, so the published F16 comes first.
_MMPROJ_QUANTS = ("F16", "BF16", "F32", "Q8_0")
_ADAPTER_WORDS = {"lora", "loras", "adapter", "adapters"}
_EMPTY_WORDS = {"model", "ggml", "gguf", "mmproj", "projector", "mm", "i1", "ud", "imat"}

_PART = re.compile(r"-(?P<part>\d{5})-of-(?P<n_parts>\d{5})$")
_QUANT = re.compile(
    r"(?<![a-z0-9])(?P<dynamic>ud[-_])?"
    r"(?P<level>(?:i?q|tq)\d(?:_(?:k|xxs|xs|xxl|xl|nl|[sml0-9]))+|mxfp4(?:_moe)?|nvfp4|bf16|fp?16|fp?32)"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
_MAX_LISTED = 20


@dataclass(frozen=True)
class Choice:
    """Files of one model: its parts in order, and the projectors beside it."""

    model: tuple[str, ...]
    mmproj: tuple[str, ...]


def choose(
    names: Iterable[str], where: str, file: str | None, quant: str | None, modality: Modality
) -> Choice:
    """The files of the one model that `file` or `quant` means; `where` is for messages."""
    roles = roles_of(modality)
    present = _gguf_files(names)
    models = _models(name for name in present if _kind(name) == "model")
    if file is not None:
        matches = _by_pattern(models, present, where, file, quant)
    else:
        matches = _by_quant(models, present, where, quant or DEFAULT_QUANT)
    if len(matches) > 1:
        raise ModelFileError(
            f"{_asked(file, quant)} means {len(matches)} models of {where}: "
            f"{listed(model.name for model in matches)}; name one of them as the file"
        )
    model = matches[0]
    if missing := model.missing_parts():
        raise ModelFileError(
            f"{where} has {model.name}, one of {model.n_parts} parts, but lacks {listed(missing)}"
        )
    return Choice(model.parts, _projectors(model, models, present, roles, where))


def projectors(names: Iterable[str], model: str, where: str, modality: Modality) -> tuple[str, ...]:
    """The projectors among `names` that a model needs: vision before audio, one for both once."""
    roles = roles_of(modality)
    present = _gguf_files(names)
    models = _models(name for name in present if _kind(name) == "model")
    return _projectors(_Model((model,), 1), models, present, roles, where)


def roles_of(modality: str) -> tuple[str, ...]:
    """What kinds of projectors a modality needs."""
    if not isinstance(modality, str) or modality not in _ROLES:
        known = ", ".join(map(repr, _ROLES))
        raise InvalidInputError(f"modality must be one of {known}, got {modality!r}")
    return _ROLES[modality]


def role_of(name: str) -> str | None:
    """The kind that a projector's name states; None if it states none, or both."""
    roles = {_ROLE_WORDS[word] for word in _words(_stem(name)) if word in _ROLE_WORDS}
    return roles.pop() if len(roles) == 1 else None


def quant_of(name: str) -> str | None:
    """The level that a file's name states, or else that of the folder it lies in."""
    for part in reversed(PurePosixPath(name).parts):
        if found := list(_QUANT.finditer(part)):
            return _label(found[-1])
    return None


@dataclass(frozen=True)
class _Model:
    """One model of a repository: its parts that are there, and how many there should be."""

    parts: tuple[str, ...]
    n_parts: int

    @property
    def name(self) -> str:
        return self.parts[0]

    def missing_parts(self) -> list[str]:
        if self.n_parts == 1:
            return []
        stem = _PART.sub("", _stem(self.name))
        folder = PurePosixPath(self.name).parent
        expected = (f"{stem}-{i + 1:05}-of-{self.n_parts:05}" for i in range(self.n_parts))
        present = {_stem(part) for part in self.parts}
        return [str(folder / f"{part}.gguf") for part in expected if part not in present]


def _models(names: Iterable[str]) -> list[_Model]:
    """Names grouped by model, in the order of their first parts."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name in names:
        found = _PART.search(_stem(name))
        n_parts = int(found["n_parts"]) if found else 1
        whole = str(PurePosixPath(name).parent / _PART.sub("", _stem(name))) if found else name
        groups.setdefault((whole, n_parts), []).append(name)
    return [_Model(tuple(parts), n_parts) for (_, n_parts), parts in groups.items()]


def _by_pattern(
    models: Sequence[_Model], present: Sequence[str], where: str, file: str, quant: str | None
) -> list[_Model]:
    # A plain name may hold characters that mean something in a pattern.
    matches = [model for model in models if file in model.parts]
    matches = matches or [m for m in models if any(_fits(part, file) for part in m.parts)]
    if len(matches) > 1 and quant is not None:
        matches = _with_quant(matches, quant) or matches
    if matches:
        return matches
    for name in present:
        if _fits(name, file):
            what = {"mmproj": "a projector", "imatrix": "an importance matrix"}
            kind = what.get(_kind(name), "a LoRA adapter")
            raise ModelFileError(f"{name} of {where} is {kind} by its name, not a model")
    raise ModelFileError(
        f"no GGUF file of {where} matches {file!r}; "
        f"models present: {listed(model.name for model in models)}"
    )


def _by_quant(
    models: Sequence[_Model], present: Sequence[str], where: str, quant: str
) -> list[_Model]:
    if matches := _with_quant(models, quant):
        return matches
    if not models:
        others = f" that is a model; GGUF files present: {listed(present)}" if present else ""
        raise ModelFileError(f"{where} has no GGUF file{others}")
    levels = sorted({level for model in models if (level := quant_of(model.name))})
    unlabelled = [model.name for model in models if quant_of(model.name) is None]
    raise ModelFileError(f"{where} has no {quant} model; present: {listed(levels + unlabelled)}")


def _with_quant(models: Sequence[_Model], quant: str) -> list[_Model]:
    """Models of a level; Unsloth's dynamic one of that name only where there is no plain one."""
    known = _QUANT.fullmatch(quant)
    wanted = _label(known) if known else quant
    plain = [model for model in models if quant_of(model.name) == wanted]
    return plain or [model for model in models if quant_of(model.name) == f"UD-{wanted}"]


def _gguf_files(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(".gguf"))


def _projectors(
    model: _Model,
    models: Sequence[_Model],
    present: Sequence[str],
    roles: Iterable[str],
    where: str,
) -> tuple[str, ...]:
    found = [name for name in present if _kind(name) == "mmproj"]
    return tuple(dict.fromkeys(_projector(model, models, found, role, where) for role in roles))


def _projector(
    model: _Model, models: Sequence[_Model], projectors: Sequence[str], role: str, where: str
) -> str:
    """The projector of a role nearest to the model; never that of another model's."""
    for folder in (PurePosixPath(model.name).parent, *PurePosixPath(model.name).parent.parents):
        beside = [name for name in projectors if PurePosixPath(name).parent == folder]
        own = _own_projectors(model, models, beside)
        found = [name for name in own if role_of(name) == role]
        found = found or [name for name in own if role_of(name) is None]
        if not found:
            continue
        best = min(map(_mmproj_rank, found))
        found = [name for name in found if _mmproj_rank(name) == best]
        if len(found) > 1:
            raise ModelFileError(
                f"{where} has {len(found)} {role} projectors for {model.name}: {listed(found)}"
            )
        return found[0]
    stem = _QUANT.sub("", _PART.sub("", _stem(model.name))).rstrip("-_.")
    raise ModelFileError(
        f"{where} has no {role} projector for {model.name}, such as "
        f"{stem}-{role}-mmproj-F16.gguf; projectors present: {listed(projectors)}"
    )


def _own_projectors(
    model: _Model, models: Sequence[_Model], projectors: Sequence[str]
) -> list[str]:
    """Projectors that carry the model's name; else unnamed ones; else all if it is the only one."""
    own = _base(model.name)
    for base in (own, ()):
        if found := [name for name in projectors if _base(name) == base]:
            return found
    return list(projectors) if all(_base(other.name) == own for other in models) else []


def _kind(name: str) -> Literal["model", "mmproj", "imatrix", "adapter"]:
    path = PurePosixPath(name.lower())
    if "mmproj" in str(path) or "projector" in _words(str(path)):
        return "mmproj"
    # In the middle it tells how the model was quantised.
    words = _words(path.stem)
    if "imatrix" in (words[:1] + words[-1:]):
        return "imatrix"
    return "adapter" if _ADAPTER_WORDS.intersection(_words(str(path))) else "model"


def _base(name: str) -> tuple[str, ...]:
    """What a file's name says about which model it is: no level, part, role or kind."""
    stem = _QUANT.sub(" ", _PART.sub("", _stem(name)))
    dropped = _EMPTY_WORDS | _ROLE_WORDS.keys()
    return tuple(word for word in _words(stem) if word not in dropped)


def _mmproj_rank(name: str) -> int:
    quant = quant_of(name)
    return _MMPROJ_QUANTS.index(quant) if quant in _MMPROJ_QUANTS else len(_MMPROJ_QUANTS)


def _label(match: re.Match[str]) -> str:
    level = match["level"].upper()
    level = {"FP16": "F16", "FP32": "F32"}.get(level, level)
    return f"UD-{level}" if match["dynamic"] else level


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(PurePosixPath(name).name, pattern)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _asked(file: str | None, quant: str | None) -> str:
    return repr(file) if file is not None else quant or DEFAULT_QUANT


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first of them if there are many."""
    items = list(names)
    more = [f"and {len(items) - _MAX_LISTED} more"] if len(items) > _MAX_LISTED else []
    return ", ".join(items[:_MAX_LISTED] + more) or "none"
