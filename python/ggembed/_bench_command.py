"""``ggembed bench``: how fast a model is on this machine, and which settings make it fastest."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from . import _bench
from ._bench import CASES, Timing
from ._bench_tune import ALIKE, Curve, Tuner
from ._embed_command import UsageError
from .embedder import Embedder
from .types import ModelInfo

ModelOf = Callable[[str | None], str | os.PathLike[str]]
PrintTable = Callable[[Iterable[list[str]]], None]

_MIB = 2**20
_MAX_SECONDS = 60.0
_BUSY = 0.5  # load average


def add(commands: Any, model_of: ModelOf, print_table: PrintTable) -> None:
    """Adds the command. `model_of` turns an argument into a file, which may fetch one."""
    bench = commands.add_parser(
        "bench", help="measure the speed of a model here, and find its fastest settings"
    )
    bench.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file (default: demo model)")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, metal, ...")
    bench.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    bench.add_argument("--ubatch", type=int, metavar="N", help="tokens computed together")
    bench.add_argument(
        "--case", metavar="NAME,...", help=f"of {', '.join(CASES)} (default: all; --tune: mixed)"
    )
    bench.add_argument(
        "--tune",
        action="store_true",
        help="measure the speed over tokens computed together, and over threads",
    )
    bench.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="of a call, about (default: 1)"
    )
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(command=lambda args: _run(args, model_of, print_table))


def _run(args: argparse.Namespace, model_of: ModelOf, print_table: PrintTable) -> None:
    cases = _cases(args)
    if not 0 < args.seconds <= _MAX_SECONDS:
        raise UsageError(f"--seconds must be over 0, at most {_MAX_SECONDS:g}, got {args.seconds}")
    with Embedder(
        model_of(args.model), device=args.device, n_threads=args.threads, n_ubatch=args.ubatch
    ) as embedder:
        info = embedder.info()
        _bench.check_model(info)
        facts = _facts(info, args.seconds)
        if not args.json:
            _print_facts(facts)
        measure = _tune if args.tune else _measure
        measure(args, embedder, cases, facts, print_table)


def _cases(args: argparse.Namespace) -> list[str]:
    """The cases that are asked for."""
    known = [name for name, case in CASES.items() if not (args.tune and case.alone)]
    if args.case is None:
        cases = ["mixed"] if args.tune else known
    else:
        cases = list(dict.fromkeys(args.case.split(",")))
    for name in cases:
        if name not in known:
            raise UsageError(f"--case must be of {', '.join(known)}, got {name!r}")
    if args.tune and len(cases) > 1:
        raise UsageError(f"--tune takes one case, got {len(cases)}")
    if args.tune and args.threads is not None and args.ubatch is not None:
        raise UsageError("--threads and --ubatch leave nothing to --tune")
    return cases


def _facts(info: ModelInfo, seconds: float) -> dict[str, Any]:
    """What the figures are of, and what they depend on."""
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        "machine": _bench.describe_machine(),
        "build": dict(info.build),
        "model": _bench.describe_model(info),
        "settings": {
            "device": info.device,
            "device_reason": info.device_reason,
            "n_threads": info.n_threads,
            "n_ubatch": info.n_ubatch,
            "seconds": seconds,
        },
    }


def _print_facts(facts: Mapping[str, Any]) -> None:
    model, settings, machine = facts["model"], facts["settings"], facts["machine"]
    print(f"model    {model['name'] or model['file']}, {model['quantization']}, ", end="")
    print(f"{model['n_params'] / 1e6:.0f} M parameters, {model['dim']} dimensions")
    print(f"machine  {machine['cpu']}, {machine['n_cpus']} CPUs; device {settings['device']}")
    print(f"settings n_threads={settings['n_threads']}, n_ubatch={settings['n_ubatch']}")
    load = machine["load_average"]
    if load is not None and load >= _BUSY:
        print(f"note     the machine is busy (load {load:.1f}): the figures are low and noisy")
    print(flush=True)


def _measure(
    args: argparse.Namespace,
    embedder: Embedder,
    cases: list[str],
    facts: Mapping[str, Any],
    print_table: PrintTable,
) -> None:
    timings: dict[str, Timing] = {}

    def figures() -> dict[str, Any]:
        memory = {
            "weights_bytes": _bench.weights(embedder.info()),
            "process_peak_bytes": _bench.peak_memory(),
        }
        return {
            "memory": memory,
            "cases": [{"case": name, **timing.record()} for name, timing in timings.items()],
        }

    def show(found: Mapping[str, Any]) -> None:
        print_table(_case_rows(timings))
        weights, peak = found["memory"].values()
        print(f"\nMiB: of cache and buffers; the weights have {weights / _MIB:,.1f}", end="")
        print("" if peak is None else f", the process had {peak / _MIB:,.1f} at most")

    _report(
        args,
        facts,
        lambda: _bench.run_cases(embedder, cases, args.seconds, timings),
        figures,
        show,
    )


def _case_rows(timings: Mapping[str, Timing]) -> Iterator[list[str]]:
    yield [
        "case",
        "texts",
        "tokens",
        "tokens/s",
        "texts/s",
        "ms per call",
        "fastest-slowest",
        "MiB",
    ]
    for name, t in timings.items():
        yield [
            name,
            f"{t.n_texts:,}",
            f"{t.n_tokens:,}",
            f"{t.tokens_per_s:,.0f}",
            f"{t.texts_per_s:,.1f}",
            f"{1000 * t.median:,.1f}",
            f"{1000 * min(t.seconds):,.1f}-{1000 * max(t.seconds):,.1f}",
            f"{t.memory_bytes / _MIB:,.1f}",
        ]


def _tune(
    args: argparse.Namespace,
    embedder: Embedder,
    cases: list[str],
    facts: Mapping[str, Any],
    print_table: PrintTable,
) -> None:
    given = {"n_ubatch": args.ubatch, "n_threads": args.threads}
    fixed = [name for name, value in given.items() if value is not None]
    tuner = Tuner(embedder, CASES[cases[0]], seconds=args.seconds, fixed=fixed)
    counts = tuner.counts
    texts = {
        "case": cases[0],
        "n_texts": len(counts),
        "n_tokens": sum(counts),
        "shortest": min(counts),
        "longest": max(counts),
    }

    def figures() -> dict[str, Any]:
        duel = tuner.duel if tuner.duel is not None and tuner.duel.is_over else None
        return {
            "texts": texts,
            "limits": {"call_s": tuner.call_limit_s, "memory_bytes": tuner.memory_limit},
            "curves": [curve.record() for curve in tuner.curves],
            "comparison": None if duel is None else duel.record(),
            "arguments": {} if duel is None else duel.arguments,
        }

    def show(found: Mapping[str, Any]) -> None:
        for curve in tuner.curves:
            print_table(_curve_rows(curve))
            if curve.left_out:
                print(f"left out: {curve.left_out}")
            print()
        _print_verdict(tuner, found)

    if not args.json:
        print(
            f"texts    {texts['n_texts']:,} of case {cases[0]}: {texts['n_tokens']:,} tokens, ",
            end="",
        )
        print(f"{texts['shortest']} to {texts['longest']:,} each\n", flush=True)
    _report(args, facts, tuner.run, figures, show)


def _curve_rows(curve: Curve) -> Iterator[list[str]]:
    yield [curve.setting, "tokens/s", "fastest-slowest", "MiB", ""]
    for point in curve.points:
        rates = [point.timing.n_tokens / s for s in point.timing.seconds]
        marks = {"default": curve.value(point) == curve.default, "best": point is curve.best}
        yield [
            f"{curve.value(point):,}",
            f"{point.speed:,.0f}",
            f"{max(rates):,.0f}-{min(rates):,.0f}",
            f"{point.timing.memory_bytes / _MIB:,.1f}",
            ", ".join(name for name, holds in marks.items() if holds),
        ]
    for point in curve.all_points:
        if point.failure:
            yield [f"{curve.value(point):,}", point.failure, "", "", ""]


def _print_verdict(tuner: Tuner, found: Mapping[str, Any]) -> None:
    duel = tuner.duel
    if duel is None or found["comparison"] is None:
        if found["interrupted"]:
            print("interrupted before the best settings were compared with the default ones")
        elif any(curve.best is None for curve in tuner.curves):
            print("not every curve has a point: there is no best setting")
        elif duel is None:
            print(f"the default settings are as fast as any, within {ALIKE:.0%}")
        else:
            failure = duel.default.failure or duel.best.failure
            print(f"the best settings were not compared with the default ones: {failure}")
        return
    for name, point in (("default", duel.default), ("best", duel.best)):
        print(f"{name:<8} n_ubatch={point.n_ubatch}, n_threads={point.n_threads}: ", end="")
        print(f"{point.speed:,.0f} tokens/s, {point.timing.memory_bytes / _MIB:,.1f} MiB")
    again = f"measured again in turns, {duel.gain:.2f} times as fast"
    if found["arguments"]:
        arguments = ", ".join(f"{name}={value}" for name, value in found["arguments"].items())
        print(f"{again}: Embedder(..., {arguments})")
    else:
        print(f"{again}, no more than noise")


def _report(
    args: argparse.Namespace,
    facts: Mapping[str, Any],
    run: Callable[[], None],
    figures: Callable[[], dict[str, Any]],
    show: Callable[[Mapping[str, Any]], None],
) -> None:
    """Measures, and prints what was found, which after Ctrl-C is what was found until then."""
    interrupted = False
    try:
        run()
    except KeyboardInterrupt:
        interrupted = True
    found = {"interrupted": interrupted, **figures()}
    if args.json:
        print(json.dumps({**facts, **found}, indent=2))
    else:
        show(found)
    if interrupted:
        sys.stdout.flush()
        raise KeyboardInterrupt
