"""Profiles: what is known about published models, kept as data in ``profiles/*.toml``."""

from __future__ import annotations

import functools
import importlib.resources
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .types import Attention, ModelInfo, Pooling

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


BARE = "bare"
"""Name of the template that puts nothing around media."""


@dataclass(frozen=True)
class MediaRules:
    """What stands around media in an input.

    Attributes
    ----------
    template : str
        The template of calls that name none.
    templates : mapping of str to (str, str)
        What each template but ``"bare"`` puts in front of an input with media and behind it, where
        special tokens count.
    takes_prompt : bool
        Whether prompts stand in front of media as they do in front of texts.
    unwrapped : tuple of str
        Kinds of media, such as ``"video"``, whose inputs no template is put around.
    """

    template: str = BARE
    templates: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    takes_prompt: bool = True
    unwrapped: tuple[str, ...] = ()

    def around(self, template: str, kinds: Iterable[str]) -> tuple[str, str]:
        """What a template puts in front of an input with some kinds of media, and behind it.

        Examples
        --------
        >>> from ggembed import profiles
        >>> rules = profiles.find("qwen2vl", "jina-embeddings-v4").media
        >>> before, after = rules.around(rules.template, ["image"])
        >>> after.rstrip()
        'Describe the image.<|im_end|>'
        """
        if template == BARE or not set(kinds).isdisjoint(self.unwrapped):
            return "", ""
        return self.templates[template]


@dataclass(frozen=True)
class Profile:
    """Facts about one model or model family.

    Attributes
    ----------
    name : str
        Name shown in ``info()``.
    match : str
        Regular expression, searched in the names of a file: lower case, blanks and underscores read
        as ``-``.
    architectures : tuple of str
        Values of ``general.architecture`` that the model comes in.
    pooling, attention
        How the model was trained.
    begins_with, ends_with : str
        Tokens that the tokenizer puts in front of a text and behind it; empty if none.
    end_id : int or None
        Id of the closing token, where files with a wrong one are known or likely.
    dims : tuple of int
        Widths that Matryoshka training covered.
    dim_min : int or None
        Least width, if the training covered every one from it on.
    n_ctx : int
        Longest text in tokens that the model's authors name.
    licence : str
        Licence of the weights.
    default_task : str
        The task of a call that names none.
    tasks : mapping of str to mapping of str to str
        Prompts by task and role. A task with an empty table takes its text as it is.
    sources : mapping of str to str
        Where each fact comes from.
    merged_task : mapping of str to str
        By task, the regular expression that marks a file with that task merged into its weights.
    default_prompt : str or None
        Role of a call that names none.
    prompts : mapping of str to str
        Prompts by further names.
    caveat : str or None
        What is wrong with every file of this model, and the remedy.
    media : MediaRules
        What stands around media.
    """

    name: str
    match: str
    architectures: tuple[str, ...]
    pooling: Pooling
    attention: Attention
    begins_with: str
    ends_with: str
    dims: tuple[int, ...]
    n_ctx: int
    licence: str
    default_task: str
    tasks: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, str]
    end_id: int | None = None
    dim_min: int | None = None
    merged_task: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    caveat: str | None = None
    media: MediaRules = field(default_factory=MediaRules)

    def task_in(self, *names: str) -> str | None:
        """The task that is merged into a file, by its names; None if the file has all tasks.

        Examples
        --------
        >>> from ggembed import profiles
        >>> profile = profiles.find("qwen3", "v5-small-clustering-Q8_0.gguf")
        >>> profile.name, profile.task_in("v5-small-clustering-Q8_0.gguf")
        ('jina-embeddings-v5-text-small', 'clustering')
        """
        for name in map(_normalized, names):
            for task, pattern in self.merged_task.items():
                if re.search(pattern, name):
                    return task
        return None


_CONVERT: dict[str, Any] = {
    "architectures": tuple,
    "dims": tuple,
    "pooling": Pooling,
    "attention": Attention,
    "merged_task": MappingProxyType,
    "prompts": MappingProxyType,
    "sources": MappingProxyType,
    "media": lambda media: MediaRules(
        **{
            **media,
            "templates": {name: (a, b) for name, (a, b) in media["templates"].items()},
            "unwrapped": tuple(media.get("unwrapped", ())),
        }
    ),
    "tasks": lambda tasks: MappingProxyType({t: MappingProxyType(p) for t, p in tasks.items()}),
}


@functools.cache
def load_all() -> tuple[Profile, ...]:
    """All profiles of the package, in the order of their files and of the entries in them.

    Examples
    --------
    >>> from ggembed import profiles
    >>> "bge-m3" in [profile.name for profile in profiles.load_all()]
    True
    """
    folder = importlib.resources.files("ggembed").joinpath("profiles")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    tables = (table for f in files for table in tomllib.loads(f.read_text("utf-8"))["profile"])
    return tuple(
        Profile(**{key: _CONVERT.get(key, _same)(value) for key, value in table.items()})
        for table in tables
    )


def find(architecture: str, *names: str) -> Profile | None:
    """The profile of a model.

    Parameters
    ----------
    architecture : str
        ``general.architecture`` of the file.
    *names : str
        ``general.name``, the name of the file, or others; the first that is known decides.

    Examples
    --------
    >>> from ggembed import profiles
    >>> profiles.find("bert", "", "bge-m3-Q8_0.gguf").name
    'bge-m3'
    >>> profiles.find("bert", "bge-reranker-v2-m3") is None
    True
    """
    for name in map(_normalized, names):
        for profile in load_all():
            if architecture in profile.architectures and re.search(profile.match, name):
                return profile
    return None


def untrained_dim_warning(info: ModelInfo, dim: int) -> str | None:
    """What to say about rows that are cut to `dim`, or None if the model was trained for that.

    Parameters
    ----------
    info : ModelInfo
        The model; nothing is said about one without a profile.
    dim : int
        Width of the cut rows.

    Examples
    --------
    >>> from ggembed import Embedder, profiles
    >>> profiles.untrained_dim_warning(Embedder().info(), 128)
    'all-MiniLM was trained for rows of 384 values; rows cut to 128 give worse results'
    """
    trained = sorted({*info.dims, info.dim})
    if info.profile is None or dim in trained or dim >= (info.dim_min or info.dim):
        return None
    widths = ", ".join(map(str, trained)) if info.dim_min is None else f"{info.dim_min} or more"
    return (
        f"{info.profile} was trained for rows of {widths} values; rows cut to {dim} give worse "
        "results"
    )


def _normalized(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.lower())


def _same(value: Any) -> Any:
    return value
