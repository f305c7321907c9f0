"""Profiles: what is known about published models, kept as data in ``profiles/*.toml``."""

from __future__ import annotations

import functools
import importlib.resources
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# There is no upstream rule for prompts in GGUF files. These keys carry the names of the "prompts"
# table of a Sentence Transformers configuration; a file that has them knows better than a profile.
_PROMPT_KEY = "sentence_transformers.prompts."


@dataclass(frozen=True)
class Profile:
    """Facts about one model or model family.

    Attributes
    ----------
    name : str
        Name shown in ``info()``.
    match : str
        Regular expression, searched in the normalised model name and file name.
    architectures : tuple of str
        Values of ``general.architecture`` that the model comes in.
    prompts : mapping of str to str
        Prompts by name; empty if the model takes its text as it is.
    """

    name: str
    match: str
    architectures: tuple[str, ...]
    prompts: Mapping[str, str]


@functools.cache
def load_all() -> tuple[Profile, ...]:
    """All profiles of the package, in the order of their files and of the entries in them."""
    folder = importlib.resources.files("ggembed").joinpath("profiles")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return tuple(
        Profile(p["name"], p["match"], tuple(p["architectures"]), dict(p["prompts"]))
        for file in files
        for p in tomllib.loads(file.read_text("utf-8"))["profile"]
    )


def find(architecture: str, model_name: str, file_name: str) -> Profile | None:
    """The profile of a model, by its GGUF metadata first and by its file name second.

    Parameters
    ----------
    architecture, model_name : str
        ``general.architecture`` and ``general.name`` of the file.
    file_name : str
        Name of the file without its folder.
    """
    for name in (model_name, file_name):
        text = re.sub(r"[\s_]+", "-", name.lower())
        for profile in load_all():
            if architecture in profile.architectures and re.search(profile.match, text):
                return profile
    return None


def prompts_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """Prompts by name that a file carries in its own metadata."""
    return {
        key[len(_PROMPT_KEY) :]: value
        for key, value in metadata.items()
        if key.startswith(_PROMPT_KEY)
    }
