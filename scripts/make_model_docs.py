"""Writes docs/models.md from the profiles of the package: python scripts/make_model_docs.py.

The prompts come from the code that ``encode`` uses, the rest from ``ggembed/profiles/*.toml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ggembed import profiles
from ggembed._prompts import Prompts
from ggembed.profiles import Profile

OUT = Path(__file__).parents[1] / "docs" / "models.md"

HEAD = """\
# Models that ggembed knows

Written by `scripts/make_model_docs.py` from `python/ggembed/profiles/*.toml`, where every fact has
its source.

A model is recognised by `general.architecture` together with `general.name`, `general.basename` or
the name of the file. Any other GGUF of an embedding architecture works too, without the prompts and
facts below. `embedder.info()` shows which profile was found, and in `warnings` where the file does
not fit it.

## What reaches the tokenizer

`{text}` stands for the text as it is given, `\\n` for a line feed. The tokens in the last two
columns are put around it; the same characters inside a text stay text. `encode_query` is the query
side, `encode_document` the document side. `task=` chooses among the tasks, of which the first is
the default; a file with one task merged into its weights has only that one.
"""

PLAIN = """
`encode` without a task, a prompt or its name uses the prompt of the default task if both sides have
the same, and none otherwise; jina-embeddings-v4 takes such texts as queries.
"""

FACTS = """
## Pooling, widths, length, licence

Matryoshka training covered the widths, so rows may be cut to them at little loss. The length is the
longest in tokens that the authors name; the limit of a file may differ.
"""

MEDIA = """
## Media

What stands around images, video, sound and PDF pages: `{media}`, with the tokens that the
vocabulary has for them. `media_template` chooses between the two; the default is in bold.
`{prompt}` is the prompt of the call, where media take one.
"""

NAMED = """
## Further prompts

`prompt_name` also takes `query`, `document`, and `passage` or `corpus` in place of `document`.
"""


def main() -> None:
    OUT.write_text(render(), encoding="utf-8")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


def render() -> str:
    """The whole file."""
    known = profiles.load_all()
    named = [
        [p.name, name, code(text + "{text}")] for p in known for name, text in p.prompts.items()
    ]
    with_media = [profile for profile in known if profile.media.templates]
    return "".join(
        [
            HEAD,
            *table(
                ["model", "task", "query", "document", "in front", "behind"],
                (row for profile in known for row in prompt_rows(profile)),
            ),
            PLAIN,
            FACTS,
            *table(
                ["model", "pooling", "attention", "widths", "length", "licence", "architecture"],
                map(fact_row, known),
            ),
            MEDIA,
            *table(["model", "bare", "chat", "never in chat"], map(media_row, with_media)),
            NAMED,
            *table(["model", "prompt_name", "what reaches the tokenizer"], named),
        ]
    )


def prompt_rows(profile: Profile) -> Iterator[list[str]]:
    """One row per task."""
    prompts = Prompts.of(None, {}, profile)
    for task in sorted(prompts.tasks, key=lambda task: task != prompts.task):
        query, document = (
            code(prompts.text(task=task, role=role) + "{text}") for role in ("query", "document")
        )
        around = code(profile.begins_with), code(profile.ends_with)
        yield [profile.name, task, query, document, *around]


def fact_row(profile: Profile) -> list[str]:
    widths = ", ".join(map(str, profile.dims)) or "full only"
    if profile.dim_min is not None:
        widths = f"{profile.dim_min} and more"
    architectures = ", ".join(map(code, profile.architectures))
    return [
        profile.name,
        profile.pooling.value,
        profile.attention.value,
        widths,
        str(profile.n_ctx),
        profile.licence,
        architectures,
    ]


def media_row(profile: Profile) -> list[str]:
    media = profile.media
    row = [profile.name]
    for name in (profiles.BARE, "chat"):
        before, after = media.around(name, ())
        prompt = "{prompt}" if media.takes_prompt else ""
        text = code(f"{before}{prompt}{{media}}{after}")
        row.append(f"**{text}**" if name == media.template else text)
    return [*row, ", ".join(media.unwrapped)]


def table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "\n"
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |\n"


def code(text: str) -> str:
    """A code span that survives in a table."""
    escaped = text.replace("\n", "\\n").replace("|", "\\|")
    return f"`{escaped}`" if text else ""


if __name__ == "__main__":
    main()
