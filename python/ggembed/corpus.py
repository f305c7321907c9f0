"""A small real corpus that every machine has: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ModelFileError

# Everyday modules, written in Python, that all supported versions have.
_MODULES = (
    *("argparse", "base64", "bisect", "calendar", "collections", "contextlib", "copy", "csv"),
    *("difflib", "fileinput", "fnmatch", "fractions", "functools", "getpass", "glob", "graphlib"),
    *("gzip", "hashlib", "heapq", "hmac", "ipaddress", "json", "locale", "os", "pickle", "pprint"),
    *("queue", "random", "re", "sched", "secrets", "selectors", "shelve", "shlex", "shutil"),
    *("socket", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap"),
    *("threading", "timeit", "traceback", "uuid", "webbrowser", "zipfile"),
)

_MIN_CHARS, _MAX_CHARS = 40, 1000


@dataclass(frozen=True)
class Document:
    """A docstring.

    Attributes
    ----------
    name : str
        Dotted name of what it describes, such as ``"shutil.copytree"``.
    text : str
        The name and the first paragraphs of the docstring, 1000 characters of it at most.
    """

    name: str
    text: str

    @property
    def first_line(self) -> str:
        """First line of the docstring."""
        return self.text.partition(": ")[2].partition("\n")[0].strip()


def stdlib_docstrings() -> list[Document]:
    """Docstrings of public modules, classes, functions and methods of everyday modules.

    Returns
    -------
    list of Document
        A few hundred in a fixed order, always the same ones for one version of Python.

    Raises
    ------
    ModelFileError
        This Python comes without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = [document for module in _MODULES for document in _of_module(root, module)]
    if not found:
        raise ModelFileError(f"no sources of Python's standard library in {root}")
    return found


def _of_module(root: Path, module: str) -> Iterator[Document]:
    for file in (root / f"{module}.py", root / module / "__init__.py"):
        if file.is_file():
            tree = ast.parse(file.read_bytes())
            yield from _of_node(tree, module)
            return


def _of_node(node: ast.Module | ast.ClassDef | ast.AST, name: str) -> Iterator[Document]:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    docstring = ast.get_docstring(node)
    if docstring is not None and len(docstring) >= _MIN_CHARS:
        yield Document(name, f"{name}: {_opening(docstring)}")
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in node.body:
            child_name = getattr(child, "name", "_")
            if not child_name.startswith("_"):
                yield from _of_node(child, f"{name}.{child_name}")


def _opening(docstring: str) -> str:
    """The first paragraphs, as many as fit."""
    if len(docstring) <= _MAX_CHARS:
        return docstring
    return docstring[:_MAX_CHARS].rpartition("\n\n")[0] or docstring[:_MAX_CHARS]
