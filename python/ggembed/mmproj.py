"""Projector files: which ones belong to a model, as far as names and kinds tell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ._hub_names import Modality, projectors, role_of, roles_of
from .errors import InvalidInputError, ModelFileError

PathLike = str | os.PathLike[str]

# What a projector shares with its model. Files of one task, size or family may fit the model of
# another by their shapes, but give wrong rows.
_TELLS: Mapping[str, Mapping[str, str]] = {
    "family": {f"jina-embeddings-{v}": f"jina-embeddings-{v}" for v in ("v4", "v5")},
    "task": {
        "retrieval": "retrieval",
        "text-matching": "(text-)?matching",
        "clustering": "clustering",
        "classification": "classification",
        "code": "code",
    },
    "size": {"small": "small", "nano": "nano"},
}


def files(given: PathLike | Iterable[PathLike] | None) -> list[str]:
    """The files of an argument, which may be one path or several.

    Examples
    --------
    >>> from ggembed import mmproj
    >>> mmproj.files("vision.gguf"), mmproj.files(["vision.gguf", "audio.gguf"])
    (['vision.gguf'], ['vision.gguf', 'audio.gguf'])
    """
    if given is None:
        return []
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    if not isinstance(given, Iterable):
        raise TypeError(f"mmproj must be a path or several, got {type(given).__name__}")
    paths = []
    for path in given:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"mmproj must be paths, got {type(path).__name__}")
        paths.append(os.fspath(path))
    if len(paths) > 2:
        raise InvalidInputError(
            f"mmproj holds {len(paths)} files, a model takes one for vision and one for audio"
        )
    return paths


def beside(model: PathLike, modality: Modality) -> list[str]:
    """The projectors in the folder of a model that it needs for a modality, by their names.

    Parameters
    ----------
    model : str or path-like
        The GGUF file of the model.
    modality : {"text", "vision", "audio", "omni"}
        What the model will be given.

    Returns
    -------
    list of str
        Vision before audio: files that carry the model's name, else those without a name, F16
        before other levels. One file that serves both comes once.

    Raises
    ------
    ModelFileError
        There is none, or more than one; the message lists what was found.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from ggembed import mmproj
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("m-Q4_K_M.gguf", "m-vision-mmproj-F16.gguf", "m-audio-mmproj-F16.gguf"):
    ...         Path(folder, name).touch()
    ...     [Path(file).name for file in mmproj.beside(f"{folder}/m-Q4_K_M.gguf", "omni")]
    ['m-vision-mmproj-F16.gguf', 'm-audio-mmproj-F16.gguf']
    """
    if not roles_of(modality):
        return []
    path = Path(model)
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError as err:
        raise ModelFileError(f"cannot list the folder of {path}: {err}") from None
    chosen = projectors(names, path.name, f"the folder {path.parent}", modality)
    return [str(path.parent / name) for name in chosen]


def check_names(model: Sequence[str], mmproj: Iterable[str], modality: str | None = None) -> None:
    """Refuses projectors whose names say that they belong to another model, or are not asked for.

    Parameters
    ----------
    model : sequence of str
        Names of the model; the first that tells its task, size or family decides.
    mmproj : iterable of str
        Names of the projectors.
    modality : str, optional
        What the model will be given, if the caller said so.

    Examples
    --------
    >>> from ggembed import mmproj
    >>> mmproj.check_names(["v5-omni-nano-retrieval.gguf"], ["v5-omni-nano-clustering-mmproj.gguf"])
    Traceback (most recent call last):
    ...
    ggembed.errors.InvalidInputError: the projector v5-omni-nano-clustering-mmproj.gguf is for \
clustering, the model v5-omni-nano-retrieval.gguf for retrieval
    """
    roles = None if modality is None else roles_of(modality)
    for name in mmproj:
        if roles is not None and (role := role_of(name)) is not None and role not in roles:
            raise InvalidInputError(
                f"{name} is {_with_article(role)} projector by its name, which modality "
                f"{modality!r} does not take"
            )
        for words in _TELLS.values():
            wanted, other = _told(model, words), _told([name], words)
            if wanted is not None and other is not None and wanted[0] != other[0]:
                raise InvalidInputError(
                    f"the projector {name} is for {other[0]}, the model {wanted[1]} for {wanted[0]}"
                )


def check_kinds(modality: str, kinds: Sequence[str], mmproj: Sequence[str]) -> None:
    """Refuses loaded projectors that are not what a modality needs.

    Parameters
    ----------
    modality : str
        What the model will be given.
    kinds : sequence of str
        What was loaded: ``"vision"``, ``"audio"`` or both.
    mmproj : sequence of str
        The files, for messages.

    Examples
    --------
    >>> from ggembed import mmproj
    >>> mmproj.check_kinds("vision", ["vision"], ["v.gguf"])
    >>> mmproj.check_kinds("omni", ["vision"], ["v.gguf"])
    Traceback (most recent call last):
    ...
    ggembed.errors.InvalidInputError: modality 'omni' needs an audio projector; v.gguf holds vision
    """
    roles = roles_of(modality)
    for role in roles:
        if role not in kinds:
            found = f"{' and '.join(mmproj)} holds {' and '.join(kinds)}" if mmproj else "got none"
            raise InvalidInputError(
                f"modality {modality!r} needs {_with_article(role)} projector; {found}"
            )
    if len(mmproj) > len(roles):
        raise InvalidInputError(
            f"modality {modality!r} takes at most {len(roles)} projectors, got {len(mmproj)}: "
            f"{', '.join(mmproj)}"
        )


def _with_article(role: str) -> str:
    return f"an {role}" if role == "audio" else f"a {role}"


def _told(names: Iterable[str], words: Mapping[str, str]) -> tuple[str, str] | None:
    """Which of some words the first of the names that tells holds, and that name."""
    for name in names:
        plain = "-".join(re.findall("[a-z0-9]+", name.lower()))
        found = [w for w, pattern in words.items() if re.search(rf"(?<!\w){pattern}(?!\w)", plain)]
        if len(found) == 1:
            return found[0], name
    return None
