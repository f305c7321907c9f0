"""A small real corpus that every machine has: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ModelFileError

# Everyday modules, written in Python, that all supported versions have.
_MODULES = (
    "argparse base64 bisect bz2 calendar cmd codecs collections colorsys configparser contextlib "
    "copy csv dataclasses datetime decimal difflib dis email enum filecmp fileinput fnmatch "
    "fractions ftplib functools getpass gettext glob graphlib gzip hashlib heapq hmac html http "
    "imaplib inspect ipaddress json keyword linecache locale logging lzma mailbox mimetypes "
    "multiprocessing netrc ntpath numbers operator optparse os pathlib pdb pickle pkgutil platform "
    "plistlib poplib posixpath pprint profile pstats queue quopri random re reprlib runpy sched "
    "secrets selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat "
    "statistics string stringprep subprocess sysconfig tarfile tempfile textwrap threading timeit "
    "token tokenize trace traceback types typing unittest urllib uuid warnings wave weakref "
    "webbrowser wsgiref xml zipapp zipfile"
).split()

_MIN_CHARS, _MAX_CHARS = 60, 1500


@dataclass(frozen=True)
class Document:
    """A docstring.

    Attributes
    ----------
    name : str
        Dotted name of what it describes, such as ``"shutil.copytree"``.
    text : str
        The name and the docstring.
    """

    name: str
    text: str

    @property
    def first_line(self) -> str:
        """First line of the docstring."""
        return self.text.partition(": ")[2].partition("\n")[0].strip()


def stdlib_docstrings(n_documents: int = 600) -> list[Document]:
    """Docstrings of public modules, classes, functions and methods.

    Parameters
    ----------
    n_documents : int, optional
        How many at most. They are taken evenly from all modules, always the same ones for one
        version of Python.

    Returns
    -------
    list of Document
        In the order of the modules and of their lines.

    Raises
    ------
    ModelFileError
        This Python comes without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = [document for module in _MODULES for document in _of_module(root, module)]
    if not found:
        raise ModelFileError(f"no sources of Python's standard library in {root}")
    step = max(1.0, len(found) / n_documents)
    return [found[int(i * step)] for i in range(min(n_documents, len(found)))]


def _of_module(root: Path, module: str) -> Iterator[Document]:
    for file in (root / f"{module}.py", root / module / "__init__.py"):
        if file.is_file():
            tree = ast.parse(file.read_bytes())
            yield from _of_node(tree, module)
            return


def _of_node(node: ast.Module | ast.ClassDef | ast.AST, name: str) -> Iterator[Document]:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    docstring = ast.get_docstring(node, clean=False)
    text = inspect.cleandoc(docstring) if docstring else ""
    if _MIN_CHARS <= len(text) <= _MAX_CHARS:
        yield Document(name, f"{name}: {text}")
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in node.body:
            child_name = getattr(child, "name", "_")
            if not child_name.startswith("_"):
                yield from _of_node(child, f"{name}.{child_name}")
