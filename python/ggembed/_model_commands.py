"""Commands about model files: ``ggembed doctor | estimate | quantize``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .doctor import doctor
from .files import MemoryEstimate, estimate, quantize
from .findings import Finding, Similarity
from .progress import ProgressBar
from .tables import lines
from .types import Weights

ModelOf = Callable[[str | None], str | os.PathLike[str]]
PrintTable = Callable[[Iterable[list[str]]], None]


def add(commands: Any, model_of: ModelOf, print_table: PrintTable) -> None:
    """Adds the commands. `model_of` turns an argument into a file, which may fetch one."""
    check = commands.add_parser("doctor", help="look for what is wrong with the machine or a model")
    check.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file to look at, too")
    check.add_argument("--compare", metavar="REF.npy", help="rows of a reference for the texts")
    check.add_argument("-f", "--file", metavar="TEXTS", help="the texts, one per line")
    check.add_argument(
        "--mmproj", action="append", default=[], metavar="FILE", help="projector file"
    )
    check.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, metal, ...")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(command=lambda args: _doctor(args, model_of, print_table))

    size = commands.add_parser("estimate", help="tell the memory that a model needs")
    size.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file (default: demo model)")
    size.add_argument("--n-ctx", type=int, metavar="N", help="longest text in tokens")
    size.add_argument("--n-ubatch", type=int, metavar="N", help="tokens computed together")
    size.add_argument("--n-seq-max", type=int, metavar="N", help="most texts computed together")
    size.add_argument(
        "--memory-limit", metavar="SIZE", help="most memory to hold, 2GiB, 500MB, ..."
    )
    size.add_argument("--n-gpu-layers", type=int, metavar="N", help="layers on the GPU")
    size.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, metal, ...")
    size.add_argument("--adapter", action="append", default=[], metavar="FILE", help="LoRA adapter")
    size.add_argument(
        "--mmproj", action="append", default=[], metavar="FILE", help="projector file"
    )
    size.add_argument("--json", action="store_true", help="print one JSON object")
    size.set_defaults(command=lambda args: _estimate(args, model_of, print_table))

    make = commands.add_parser("quantize", help="write a quantised copy of a model")
    make.add_argument("source", metavar="SOURCE", help="GGUF file with F32, F16 or BF16 weights")
    make.add_argument("target", metavar="TARGET", help="file to write")
    make.add_argument("level", metavar="LEVEL", help="Q8_0, Q5_K_M, Q4_K_M, IQ4_XS, ...")
    make.add_argument("--imatrix", metavar="FILE", help="importance matrix")
    make.add_argument("--token-embedding-type", metavar="TYPE", help="q8_0, f16, ...")
    make.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    make.add_argument("--requantize", action="store_true", help="allow a quantised source")
    make.add_argument("--pure", action="store_true", help="the same type for all matrices")
    make.set_defaults(command=lambda args: _quantize(args, model_of))


def _doctor(args: argparse.Namespace, model_of: ModelOf, print_table: PrintTable) -> None:
    texts = None if args.file is None else _lines(args.file)
    model = None if args.model is None else model_of(args.model)
    report = doctor(
        model, mmproj=args.mmproj, compare=args.compare, texts=texts, device=args.device
    )
    if args.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print_table(_finding_rows(report.findings))
        if report.similarities:
            print()
            print_table(_similarity_rows(report.similarities))
    if report.failed:
        sys.stdout.flush()
        sys.exit(1)


def _finding_rows(findings: Iterable[Finding]) -> Iterable[list[str]]:
    for finding in findings:
        yield [finding.level, finding.what]
        if finding.remedy:
            yield ["", f"-> {finding.remedy}"]


def _similarity_rows(similarities: Iterable[Similarity]) -> Iterable[list[str]]:
    yield ["length", "texts", "lowest cosine", "mean", "median"]
    for s in similarities:
        numbers = (f"{cosine:.6f}" for cosine in (s.lowest, s.mean, s.median))
        yield [s.lengths, str(s.n_texts), *numbers]


def _lines(name: str) -> list[str]:
    with Path(name).open("rb") as file:
        return list(lines(file, name))


def _estimate(args: argparse.Namespace, model_of: ModelOf, print_table: PrintTable) -> None:
    needs = estimate(
        model_of(args.model),
        n_ctx=args.n_ctx,
        n_ubatch=args.n_ubatch,
        n_seq_max=args.n_seq_max,
        memory_limit=args.memory_limit,
        device=args.device,
        n_gpu_layers=args.n_gpu_layers,
        adapters=args.adapter,
        mmproj=args.mmproj,
    )
    if args.json:
        totals = {name: getattr(needs, name) for name in ("total_device", "total_host", "total")}
        print(json.dumps({**dataclasses.asdict(needs), **totals}, indent=2))
    else:
        print_table(_memory_rows(needs))
        print()
        print_table(weights_rows(needs.weights))


def _memory_rows(needs: MemoryEstimate) -> Iterable[list[str]]:
    yield ["MiB", "host", "device"]
    for name, host, device in (
        ("weights", needs.weights_host, needs.weights_device),
        ("cache", needs.cache_host, needs.cache_device),
        ("compute", needs.compute_host, needs.compute_device),
        ("output", needs.output_host, 0),
        ("total", needs.total_host, needs.total_device),
    ):
        yield [name, f"{host / 2**20:,.1f}", f"{device / 2**20:,.1f}"]


def weights_rows(weights: Iterable[Weights]) -> Iterable[list[str]]:
    """A table of what the weights of each type take."""
    yield ["weights", "kernel", "MiB in file", "MiB in memory"]
    for w in weights:
        sizes = (f"{size / 2**20:,.1f}" for size in (w.file_bytes, w.memory_bytes))
        yield [w.type, w.kernel or "llama.cpp", *sizes]


def _quantize(args: argparse.Namespace, model_of: ModelOf) -> None:
    source = model_of(args.source)
    with ProgressBar("quantising", "bytes") as bar:
        target = quantize(
            source,
            args.target,
            args.level,
            imatrix=args.imatrix,
            token_embedding_type=args.token_embedding_type,
            n_threads=args.threads,
            requantize=args.requantize,
            pure=args.pure,
            progress=bar,
        )
    print(f"{target}: {target.stat().st_size / 1e6:,.1f} MB")
