"""Real text of wanted lengths: docstrings and sources that every Python installation has."""

from __future__ import annotations

import ast
import importlib.util
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

SEED = 1

CountTokens = Callable[[Sequence[str]], Sequence[int]]

# Prose and code about many things, in every supported Python.
_MODULES = """argparse ast asyncio.base_events base64 calendar codecs collections configparser csv
datetime decimal difflib doctest email.message fractions gettext heapq html.parser http.client
http.cookiejar imaplib inspect json.decoder locale logging mailbox mimetypes multiprocessing.pool
optparse os pathlib pdb pickle pickletools plistlib pprint pydoc random sched shlex shutil smtplib
socket ssl statistics string subprocess tarfile tempfile textwrap threading timeit tokenize trace
traceback turtle types typing unittest.case unittest.mock urllib.parse urllib.request uuid warnings
wave weakref xml.dom.minidom xml.etree.ElementTree zipfile""".split()  # noqa: SIM905


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    return Path(spec.origin).read_text("utf-8")


@cache
def words() -> tuple[str, ...]:
    """Words of all docstrings, module by module, then of some sources."""
    prose: list[str] = []
    code: list[str] = []
    for module in _MODULES:
        source = _source(module)
        if not source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                prose += (ast.get_docstring(node) or "").split()
        code += source.split()[:400]
    return tuple(prose + code)


def lengths(case: dict[str, float], n: int, limit: int) -> list[int]:
    """Wanted lengths in tokens, the same for the same case."""
    if "tokens" in case:
        return [min(int(case["tokens"]), limit)] * n
    draw = random.Random(SEED)
    low, high = int(case["min"]), min(int(case["max"]), limit)
    wanted = [round(case["median"] * draw.lognormvariate(0.0, case["sigma"])) for _ in range(n)]
    return [min(max(length, low), high) for length in wanted]


def texts(wanted: Sequence[int], count_tokens: CountTokens) -> list[str]:
    """One text per wanted length: as many words as fit, found by bisection for all at once."""
    source = words()
    draw = random.Random(SEED)
    starts = [draw.randrange(len(source)) for _ in wanted]

    def cut(i: int, n_words: int) -> str:
        place = starts[i]
        return " ".join(source[(place + k) % len(source)] for k in range(n_words))

    low, high = [1] * len(wanted), [length + 1 for length in wanted]
    while any(b - a > 1 for a, b in zip(low, high, strict=True)):
        middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
        counts = count_tokens([cut(i, m) for i, m in enumerate(middle)])
        for i, (m, count, length) in enumerate(zip(middle, counts, wanted, strict=True)):
            if count <= length:
                low[i] = m
            else:
                high[i] = max(m, low[i] + 1)
    return [cut(i, n_words) for i, n_words in enumerate(low)]
