"""Writes csrc/unicode_tables.inc: python scripts/make_unicode_tables.py [FILE].

Normalisation comes from Python's unicodedata, the facts of BERT's normaliser and pre-tokenizer from
what Hugging Face's package tokenizers does with every code point.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers import normalizers, pre_tokenizers

OUT = Path(__file__).parents[1] / "csrc" / "unicode_tables.inc"
EVERY = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]

HEADER = """\
// Written by scripts/make_unicode_tables.py; every table is sorted.
// decompositions (one step; 0 = no second half), combining_classes and the nfc_ tables are those of
// Unicode {}, from Python's unicodedata. The bert_ tables and lower_case say what BertNormalizer
// and BertPreTokenizer of Hugging Face's tokenizers {} do with each code point, found by trying:
// they mix several versions of Unicode.
"""


def normalizer(**on: bool) -> Callable[[str], str]:
    off = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    return normalizers.BertNormalizer(**{**off, **on}).normalize_str


CLEAN = normalizer(clean_text=True)
STRIP = normalizer(strip_accents=True)
LOWER = normalizer(lowercase=True)
CHINESE = normalizer(handle_chinese_chars=True)
SPLIT = pre_tokenizers.BertPreTokenizer()


def pieces(c: int) -> list[str]:
    return [text for text, _ in SPLIT.pre_tokenize_str(f"a{chr(c)}a")]


def rows(items: list[str]) -> list[str]:
    """Lines of at most 120 characters."""
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) > 118:
            lines.append("")
        lines[-1] += item + ","
    return lines


def table(kind: str, name: str, items: list[str]) -> list[str]:
    return [f"constexpr {kind} {name}[] = {{", *rows(items), "};"]


def ranges(points: Iterable[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1] = (out[-1][0], c)
        else:
            out.append((c, c))
    return out


def range_table(name: str, points: Iterable[int]) -> list[str]:
    return table("Range", name, [f"{{{a:#X},{b:#X}}}".replace("X", "x") for a, b in ranges(points)])


def decompositions() -> dict[int, list[int]]:
    """One step of the canonical decomposition of each code point but the Hangul syllables."""
    out = {}
    for c in EVERY:
        text = unicodedata.decomposition(chr(c))
        if text and not text.startswith("<"):
            out[c] = [int(x, 16) for x in text.split()]
    assert not any(d[1] in out for d in out.values() if d[1:])
    return out


def class_table() -> list[str]:
    classes = {c: unicodedata.combining(chr(c)) for c in EVERY}
    runs: list[list[int]] = []
    for c, k in classes.items():
        if k == 0:
            continue
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == k:
            runs[-1][1] = c
        else:
            runs.append([c, c, k])
    return table(
        "ClassRange", "combining_classes", [f"{{0x{a:x},0x{b:x},{k}}}" for a, b, k in runs]
    )


def lower_table() -> list[str]:
    lower = {c: LOWER(chr(c)) for c in EVERY}
    assert [c for c, s in lower.items() if len(s) != 1] == [0x130]
    assert lower[0x130] == "i\u0307"
    runs: list[list[int]] = []  # first, last, step, delta
    for c, s in lower.items():
        delta = ord(s[0]) - c
        if delta == 0:
            continue
        last = runs[-1] if runs else [0, -9, 0, 0]
        step = c - last[1]
        if last[3] == delta and step in (1, 2) and last[2] in (0, step):
            last[1:3] = [c, step]
        else:
            runs.append([c, c, 0, delta])
    return table(
        "CaseRun", "lower_case", [f"{{0x{a:x},0x{b:x},{s or 1},{d}}}" for a, b, s, d in runs]
    )


def check(marks: set[int]) -> None:
    """csrc/unicode.cpp strips accents by decomposing and dropping marks: that must agree."""
    newer = []  # than the package's tables
    for c in EVERY:
        nfd = unicodedata.normalize("NFD", chr(c))
        if STRIP(chr(c)) != "".join(x for x in nfd if ord(x) not in marks):
            newer.append(c)
    assert newer == [0x11938], [*map(hex, newer)]
    assert STRIP("\U00011938") == "\U00011938"
    draw = random.Random(7)
    odd = [c for c in EVERY if unicodedata.normalize("NFC", chr(c)) != chr(c)]
    some = [*odd, *(c for c in EVERY if unicodedata.combining(chr(c))), *range(0x1100, 0x1200)]
    some = [c for c in some if unicodedata.category(chr(c)) != "Cn"]
    different = set()
    for _ in range(100_000):
        s = "".join(chr(draw.choice(some)) for _ in range(4))
        if unicodedata.normalize("NFC", s) != normalizers.NFC().normalize_str(s):
            different.add(s)
    print(
        f"NFC of unicodedata and of tokenizers differ in {len(different)} of 100000 random strings"
    )


def main() -> None:
    steps = decompositions()
    changed = {c for c in EVERY if unicodedata.normalize("NFC", chr(c)) != chr(c)}
    seconds = {d[1] for c, d in steps.items() if len(d) == 2 and c not in changed}
    seconds |= {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    marks = {c for c in EVERY if STRIP(chr(c)) == ""}
    check(marks)
    lines = [
        "// clang-format off",
        *HEADER.format(unicodedata.unidata_version, tokenizers.__version__).splitlines(),
        f'constexpr char unicode_tables_version[] = "{unicodedata.unidata_version}";',
        *table(
            "Decomposition",
            "decompositions",
            [f"{{0x{c:x},0x{d[0]:x},{f'0x{d[1]:x}' if d[1:] else 0}}}" for c, d in steps.items()],
        ),
        *class_table(),
        "// NFC changes these even alone",
        *range_table("nfc_changes", changed),
        "// NFC may join these to what stands before",
        *range_table("nfc_joins", seconds),
        *range_table("bert_removed", (c for c in EVERY if CLEAN(chr(c)) == "")),
        *range_table("bert_spaces", (c for c in EVERY if CLEAN(chr(c)) == " ")),
        *range_table("bert_chinese", (c for c in EVERY if CHINESE(chr(c)) == f" {chr(c)} ")),
        "// strip_accents drops these",
        *range_table("bert_marks", marks),
        *range_table("bert_punctuation", (c for c in EVERY if pieces(c) == ["a", chr(c), "a"])),
        "// without U+0130, which becomes two",
        *lower_table(),
        "// clang-format on",
    ]
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
