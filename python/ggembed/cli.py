"""The command line: ``ggembed demo | embed | info | devices | tokenize | doctor | ...``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from . import __version__, _bench_command, _embed_command, _model_commands, demo_model, hub
from ._embed_command import UsageError
from ._info import devices
from .embedder import Embedder
from .errors import EmbedError
from .tables import lines
from .types import DeviceInfo

_CHUNK_TEXTS = 512  # texts that are held in memory at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit status: 0, 1 after an error, 130 after Ctrl-C, 141 if the reader of standard output
        went away. Wrong usage raises SystemExit with status 2.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], None] = args.command
    try:
        command(args)
        sys.stdout.flush()
        return 0
    except UsageError as err:
        parser.error(str(err))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes standard output once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (EmbedError, OSError, ValueError, MemoryError) as err:
        print(f"ggembed: error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ggembed", description="Text embeddings from GGUF models, without a server."
    )
    parser.add_argument("--version", action="version", version=f"ggembed {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("-m", "--model", help="GGUF file (default: the demo model)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, metal, ...")
    model.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    texts = argparse.ArgumentParser(add_help=False)
    texts.add_argument("-f", "--file", help="read one text per line from a file, - for stdin")
    texts.add_argument("--prompt-name", metavar="NAME", help="put a prompt of the model in front")
    texts.add_argument("--prompt", metavar="TEXT", help="put this in front of every text")

    demo = commands.add_parser(
        "demo", parents=[model], help="embed Python's docstrings and answer questions from them"
    )
    demo.add_argument("questions", nargs="*", metavar="QUESTION", help="what to ask instead")
    demo.add_argument(
        "--omni",
        action="store_true",
        help="embed media instead, made on the spot, with a tiny model of random weights",
    )
    demo.set_defaults(command=_demo)

    embed = commands.add_parser(
        "embed", parents=[model, texts], help="print rows of texts and files"
    )
    _embed_command.add_arguments(embed)
    embed.set_defaults(command=partial(_embed_command.run, open_embedder=_embedder))

    info = commands.add_parser("info", help="describe a model")
    info.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file (default: demo model)")
    info.add_argument(
        "--mmproj", action="append", metavar="FILE", help="projector file; may be repeated"
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(command=_info)

    listing = commands.add_parser("devices", help="list the devices that can run models")
    listing.add_argument("--json", action="store_true", help="print one JSON array")
    listing.set_defaults(command=_devices)

    tokenize = commands.add_parser("tokenize", parents=[model, texts], help="print token ids")
    tokenize.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts (default: lines of stdin)"
    )
    tokenize.add_argument("--count", action="store_true", help="print the number of tokens only")
    tokenize.set_defaults(command=_tokenize)
    _model_commands.add(commands, _model, _print_table)
    _bench_command.add(commands, _model, _print_table)
    return parser


def _demo(args: argparse.Namespace) -> None:
    from . import demo

    if args.omni:
        if args.questions or args.model is not None:
            raise UsageError("--omni has a model and inputs of its own")
        demo.run_omni(device=args.device, n_threads=args.threads)
        return
    questions = args.questions or demo.QUESTIONS
    demo.run(_model(args.model), questions, device=args.device, n_threads=args.threads)


def _tokenize(args: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        source = _texts(args, stack)
        embedder = stack.enter_context(_embedder(args))
        _check_prompt(args, embedder)
        while chunk := list(islice(source, _CHUNK_TEXTS)):
            for ids in embedder.tokenize(chunk, prompt=args.prompt, prompt_name=args.prompt_name):
                print(len(ids) if args.count else " ".join(map(str, ids)))
            sys.stdout.flush()


def _info(args: argparse.Namespace) -> None:
    with Embedder(_model(args.model), mmproj=args.mmproj) as embedder:
        info = embedder.info()
    facts = dataclasses.asdict(info)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if name == "towers":
            for tower in value:
                known = {key: item for key, item in tower.items() if item}
                _print_fields(f"{known.pop('modality')} tower", known)
        elif name == "weights":
            _print_table(_model_commands.weights_rows(info.weights))
        elif isinstance(value, dict) and value:
            _print_fields(name, value)
        else:
            print(f"{name}: {'-' if value in (None, {}, '') else value}")


def _print_fields(name: str, fields: Mapping[str, Any]) -> None:
    print(f"{name}:")
    _print_table([f"  {key}", " ".join(f"{item}".split())] for key, item in fields.items())


def _devices(args: argparse.Namespace) -> None:
    found = devices()
    if args.json:
        print(json.dumps([dataclasses.asdict(device) for device in found], indent=2))
        return
    _print_table(map(_device_row, found))


def _device_row(device: DeviceInfo) -> list[str]:
    free, total = device.memory_free / 2**30, device.memory_total / 2**30
    row = [device.name, f"{free:.1f} of {total:.1f} GiB free", device.description]
    if device.compute_capability is not None:
        row[-1] += ", compute capability {}.{}".format(*device.compute_capability)
    return row


def _print_table(rows: Iterable[list[str]]) -> None:
    """Columns as wide as their widest cell."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _embedder(args: argparse.Namespace, **options: Any) -> Embedder:
    model = _model(None) if args.model is None else args.model
    return Embedder(model, device=args.device, n_threads=args.threads, **options)


def _model(given: str | None) -> str | os.PathLike[str]:
    """The model of a command; a fetch of the demo model shows on standard error."""
    if given is not None:
        return hub.resolve(given).model if given.startswith(hub.PREFIX) else given
    return demo_model.path(report=lambda line: print(line, file=sys.stderr))


def _check_prompt(args: argparse.Namespace, embedder: Embedder) -> None:
    """Finds a wrong prompt before anything is read or written."""
    if args.prompt is not None and args.prompt_name is not None:
        raise UsageError("--prompt and --prompt-name exclude each other")
    embedder.count_tokens([], prompt_name=args.prompt_name)


def _texts(args: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[str]:
    """The texts of a command, read as they are needed."""
    if args.texts:
        if args.file is not None:
            raise UsageError("texts and --file exclude each other")
        return iter(args.texts)
    if args.file not in (None, "-"):
        return lines(stack.enter_context(Path(args.file).open("rb")), args.file)
    if args.file is None and sys.stdin.isatty():
        raise UsageError("no texts: give them as arguments, with -f FILE, or on standard input")
    return lines(sys.stdin.buffer, "standard input")
