"""The command ``ggembed embed``: a table of texts in, or files, their rows out."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from . import __version__, _media_options, stream, tables
from ._embed_inputs import TEXT, InOrder, InputFile, Inputs, as_folders
from ._media_options import Decoding, positive
from ._output import FileOutput, Output, StreamOutput
from ._writers import WRITERS, Part, Rows, Writer
from .embedder import Embedder
from .errors import (
    EmbedError,
    EmbedWarning,
    InvalidInputError,
    TruncationWarning,
    UnsupportedError,
    moved,
)
from .quantization import DTYPES
from .results import Encoded
from .tables import Batch, Table
from .types import Pooling

_N_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


class UsageError(Exception):
    """Arguments that do not go together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``embed`` has beside model, lines of texts and prompts."""
    parser.add_argument(
        "given",
        nargs="*",
        action=InOrder,
        const=TEXT,
        default=(),
        metavar="TEXT",
        help="texts, or folders: what looks like a path (default: lines of stdin)",
    )
    _media_options.add_arguments(parser.add_argument_group("media"))
    source = parser.add_argument_group("input")
    source.add_argument(
        "--input-format",
        choices=tables.INPUT_FORMATS,
        help="default: by the name of -f, or one text per line",
    )
    source.add_argument(
        "--column", default="text", metavar="NAME", help='column of texts (default: "text")'
    )
    source.add_argument(
        "--keep",
        metavar="NAMES",
        help="columns to write beside the rows, with commas between them, or all (default: the "
        "texts in jsonl and parquet; the paths of files); npy puts them into NAME.npy.jsonl",
    )
    source.add_argument(
        "--batch-size",
        type=positive,
        default=stream.BATCH_SIZE,
        metavar="N",
        help=f"most inputs that are read together (default: {stream.BATCH_SIZE})",
    )
    sink = parser.add_argument_group("output")
    sink.add_argument("-o", "--output", help="write to a file instead of standard output")
    sink.add_argument(
        "--format", choices=tuple(WRITERS), help="default: by the name of -o, or jsonl"
    )
    sink.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run of the same command from what -o has in NAME.partial",
    )
    parser.add_argument(
        "--memory-limit", metavar="SIZE", help="most memory to hold on the device, 2GiB, 500MB, ..."
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument("--task", metavar="NAME", help="what the rows are for, see `ggembed info`")
    rows.add_argument("--adapter", metavar="FILE", help="use a LoRA adapter, a GGUF file")
    rows.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of a text")
    rows.add_argument(
        "--overflow",
        choices=("error", "truncate", "truncate_start"),
        help="refuse longer texts, or cut their end or start (default: error)",
    )
    rows.add_argument("--truncate-dim", type=int, metavar="N", help="cut rows to N values")
    rows.add_argument("--no-normalize", action="store_true", help="keep the length of rows")
    rows.add_argument(
        "--precision", choices=tuple(DTYPES), default="float32", help="default: float32"
    )
    rows.add_argument(
        "--ranges",
        metavar="FILE",
        help="npy file of minima and maxima for int8 and uint8, (2, dim)",
    )
    rows.add_argument(
        "--on-error",
        choices=("raise", "collect"),
        default="raise",
        help="stop at a text that fails, or leave its row empty and go on (default: raise)",
    )


def encode_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of ``Embedder.encode`` for a run."""
    if args.prompt is not None and args.prompt_name is not None:
        raise UsageError("--prompt and --prompt-name exclude each other")
    if args.precision in ("int8", "uint8") and args.ranges is None:
        # Without them, every batch would have ranges of its own.
        raise UsageError(f"--precision {args.precision} needs --ranges")
    return {
        "prompt": args.prompt,
        "prompt_name": args.prompt_name,
        "task": args.task,
        "adapter": args.adapter,
        "max_tokens": args.max_tokens,
        "overflow": args.overflow,
        "truncate_dim": args.truncate_dim,
        "normalize_embeddings": not args.no_normalize,
        "precision": args.precision,
        "ranges": None if args.ranges is None else _ranges(args.ranges),
        "on_error": args.on_error,
        **_media_options.encode_options(args),
    }


def _ranges(path: str) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (ValueError, EOFError, TypeError) as err:
        raise InvalidInputError(f"{path} is not a NumPy file of ranges: {err}") from None


def run(args: argparse.Namespace, open_embedder: Callable[..., Embedder]) -> None:
    """Runs the command; `open_embedder` takes its arguments and adapters for the Embedder."""
    form = args.format or tables.format_of(args.output, "jsonl")
    form = form if form in WRITERS else "jsonl"
    _check_usage(args, form)
    options = encode_options(args)
    inputs = _inputs(args)
    with contextlib.ExitStack() as stack:
        table = _table(args, inputs, _keep(args, form, inputs), stack)
        adapters = {} if args.adapter is None else {args.adapter: args.adapter}
        wanted = _media_options.embedder_options(args, inputs)
        if args.model is None and wanted.get("modality", "text") != "text":
            raise UsageError("the demo model takes texts only: name a model with -m")
        embedder = stack.enter_context(
            open_embedder(args, adapters=adapters, memory_limit=args.memory_limit, **wanted)
        )
        if embedder.info().pooling is Pooling.NONE:
            raise UnsupportedError("this model has one row per token, which embed does not write")
        encoder = _Encoder(
            embedder, options, Decoding.of(args), "texts" if inputs is None else "inputs"
        )
        nothing = encoder.encode(Batch([], {}), 0)  # finds wrong options before we write
        may_fail = args.on_error == "collect"
        writer = WRITERS[form](table.columns, nothing.rows, may_fail=may_fail)
        output = _output(args, writer, embedder, options, stack)
        left = stream.ahead(output.remaining(table.batches), 1)
        stack.callback(left.close)
        n_before = output.n_rows
        try:
            for batch in left:
                output.write(encoder.encode(batch, output.n_rows))
            output.finish()
        except BaseException:
            if isinstance(output, FileOutput) and output.n_rows > n_before:
                _say(f"{output.n_rows} rows are in {output.stage_path}; --resume continues")
            raise
        finally:
            encoder.report()


def _check_usage(args: argparse.Namespace, form: str) -> None:
    what = "texts" if all(one.kind == TEXT for one in args.given) else "files"
    if args.given and args.file is not None:
        raise UsageError(f"{what} and --file exclude each other")
    if args.given and args.input_format is not None:
        raise UsageError(f"{what} and --input-format exclude each other")
    if args.glob and not any(one.kind == TEXT for one in args.given):
        raise UsageError("--glob needs a folder")
    if form in ("npy", "parquet") and args.output is None and sys.stdout.isatty():
        raise UsageError(f"{form} is binary: name a file with -o, or send it down a pipe")
    if form == "npy" and args.keep is not None and not _to_file(args):
        raise UsageError("npy holds rows only: --keep needs a file, or another format")
    if args.resume and args.output is None:
        raise UsageError("--resume needs a file: name it with -o")


def _to_file(args: argparse.Namespace) -> bool:
    """Whether the rows go to a file rather than down a pipe."""
    return args.output is not None and (
        Path(args.output).is_file() or not Path(args.output).exists()
    )


def _inputs(args: argparse.Namespace) -> Inputs | None:
    """The inputs of a run that has other than texts."""
    given = as_folders(args.given, all_texts=bool(args.glob), say=_say)
    if all(one.kind == TEXT for one in given):
        return None
    on_error = _skip if args.on_error == "collect" else _raise
    return Inputs(given, args.glob, on_error=on_error, say=_say)


def _skip(error: OSError) -> None:
    _say(f"warning: {error.filename} is left out: {error.strerror}")


def _raise(error: OSError) -> None:
    raise error


def _keep(args: argparse.Namespace, form: str, inputs: Inputs | None) -> tuple[str, ...] | None:
    """Names of the columns to keep, None for all."""
    if args.keep is None and inputs is not None:
        return inputs.main_columns(args.column) if form != "npy" or _to_file(args) else ()
    if args.keep is None:
        return (args.column,) if form in ("jsonl", "parquet") else ()
    return None if args.keep == "all" else tuple(filter(None, args.keep.split(",")))


def _table(
    args: argparse.Namespace,
    inputs: Inputs | None,
    keep: tuple[str, ...] | None,
    stack: contextlib.ExitStack,
) -> Table:
    """The input of a run."""
    if inputs is not None:
        return inputs.table(args.column, keep, args.batch_size)
    if args.given:
        texts = [one.value for one in args.given]
        records, columns = tables.from_texts(texts, args.column, keep, "the command line")
        return Table(columns, tables.batches(records, columns, args.batch_size))
    from_stdin = args.file in (None, "-")
    form = args.input_format or tables.format_of(None if from_stdin else args.file, "lines")
    by_path = form in ("parquet", "npy")
    source: BinaryIO | Path
    if not from_stdin:
        path = Path(args.file)
        source = path if by_path else stack.enter_context(path.open("rb"))
    elif by_path:
        raise UsageError(f"{form} cannot be read from standard input: name a file with -f")
    elif args.file is None and sys.stdin.isatty():
        raise UsageError("no texts: give them as arguments, with -f FILE, or on standard input")
    else:
        source = _stdin()
    return tables.read(
        source,
        form,
        name="standard input" if from_stdin else args.file,
        column=args.column,
        keep=keep,
        batch_size=args.batch_size,
    )


def _stdin() -> BinaryIO:
    """Standard input by a reader of its own.

    At its end, Python waits for the lock of sys.stdin and dies if another thread is reading there.
    """
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # replaced by something that is no file
        return sys.stdin.buffer
    return open(descriptor, "rb", closefd=False)


def _output(
    args: argparse.Namespace,
    writer: Writer,
    embedder: Embedder,
    options: Mapping[str, Any],
    stack: contextlib.ExitStack,
) -> Output:
    if args.output is None:
        return stack.enter_context(StreamOutput(sys.stdout.buffer, writer))
    path = Path(args.output)
    if args.file is not None and path.exists() and path.samefile(args.file):
        raise UsageError(f"-o would overwrite the input {path}")
    if not _to_file(args):  # but to a device or a named pipe
        if args.resume:
            raise UsageError(f"--resume needs a file, {path} is none")
        return stack.enter_context(StreamOutput(stack.enter_context(path.open("wb")), writer))
    origin = _origin(args, writer, embedder, options)
    return stack.enter_context(FileOutput(path, writer, origin, resume=args.resume))


def _origin(
    args: argparse.Namespace, writer: Writer, embedder: Embedder, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the rows of a run depend on beside its input."""
    info = embedder.info()
    plain = {name: value for name, value in options.items() if value is not None}
    if not isinstance(writer, WRITERS["parquet"]):  # there it decides the type of the column
        plain.pop("on_error")
    if args.ranges is not None:
        plain["ranges"] = _file_digest(args.ranges)
    if args.adapter is not None:
        plain["adapter"] = _file_digest(args.adapter)
    if media := _media_options.origin(args):
        plain["media"] = media
    if info.mmproj:
        plain["mmproj"] = list(map(_file_digest, info.mmproj))
    return {
        "the version of ggembed": __version__,
        "the model": f"{_file_digest(info.path)} of {info.file_bytes} bytes",
        "the options": plain,
        "the output format": type(writer).__name__,
        "the column": args.column,
        "the kept columns": list(writer.columns),
    }


def _file_digest(path: str) -> str:
    """A digest of samples from all of a file: weights that differ at all differ everywhere."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        step = max(n_bytes // _N_SAMPLES, _SAMPLE_BYTES)
        for start in (*range(0, n_bytes, step), max(n_bytes - _SAMPLE_BYTES, 0)):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


class _Encoder:
    """Encodes batches, and says on standard error what became of inputs."""

    def __init__(
        self, embedder: Embedder, options: dict[str, Any], decoding: Decoding, noun: str
    ) -> None:
        self._embedder = embedder
        self._options = options
        self._decoding = decoding
        self._noun = noun
        self._said: set[str] = set()
        self._n_texts = self._n_failed = self._n_cut = 0

    def encode(self, batch: Batch, first: int) -> Part:
        """Computes the rows of a batch that begins with text `first`."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", EmbedWarning)
                rows, errors = self._rows(batch)
        except EmbedError as err:
            moved(err, first)
            raise
        for warning in caught:
            self._note(warning.message)
        for error in errors.values():
            _say(str(moved(error, first)))
        self._n_failed += len(errors)
        self._n_texts += len(batch)
        return Part(batch, rows, errors)

    def _rows(self, batch: Batch) -> tuple[Rows, dict[int, EmbedError]]:
        texts, missing = self._inputs_of(batch)
        if missing and self._options["on_error"] == "raise":
            raise next(iter(missing.values()))
        found = self._embedder.encode(texts, **self._options)
        if not isinstance(found, Encoded):
            return found, {}
        if not missing:
            return found.rows, dict(found.errors)
        places = [i for i in range(len(batch)) if i not in missing]
        empty = np.nan if found.rows.dtype.kind == "f" else 0
        rows = np.full((len(batch), found.rows.shape[1]), empty, found.rows.dtype)
        rows[places] = found.rows
        for i, error in found.errors.items():
            moved(error, places[i] - i)
        errors = {places[i]: error for i, error in found.errors.items()}
        return rows, dict(sorted((missing | errors).items()))

    def _note(self, warning: Warning | str) -> None:
        if isinstance(warning, TruncationWarning):
            self._n_cut += warning.n_truncated
        elif str(warning) not in self._said:
            self._said.add(str(warning))
            _say(f"warning: {warning}")

    def report(self) -> None:
        """Says how many texts were cut or have no row."""
        if self._n_cut:
            _say(f"warning: {self._n_cut} of {self._n_texts} {self._noun} were cut")
        if self._n_failed:
            _say(f"warning: {self._n_failed} of {self._n_texts} {self._noun} have no row")

    def _inputs_of(self, batch: Batch) -> tuple[Any, dict[int, EmbedError]]:
        """The inputs that there are, and the errors of the others."""
        texts = batch.texts
        if not isinstance(texts, list):
            if not texts.null_count:
                return texts, {}
            texts = tables.plain(texts)
        found: list[Any] = []
        missing: dict[int, EmbedError] = {}
        for i, text in enumerate(texts):
            if isinstance(text, InputFile):
                try:
                    found.append(self._decoding.load(text))
                except EmbedError as err:
                    missing[i] = InvalidInputError(f"input {i}: {err}", input_index=i)
            elif isinstance(text, str):
                found.append(text)
            else:
                kind = "missing" if text is None else f"{type(text).__name__}, not a string"
                missing[i] = InvalidInputError(f"text {i} is {kind}", input_index=i)
        return found, missing


def _say(message: str) -> None:
    print(f"ggembed: {' '.join(message.split())}", file=sys.stderr)
