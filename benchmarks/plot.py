"""Draws the results of bench_peers.py: a panel for each case of each model.

python benchmarks/plot.py RESULTS.json          # writes RESULTS.png; needs matplotlib
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

OWN = "ggembed"
N_COLUMNS = 3
COLOURS = {OWN: "#1b7f4d", "llama": "#9aa5b1", "sentence": "#c9a66b", "onnxruntime": "#8f9fc4"}
SHORT = {"sentence-transformers": "sent.-transf."}


def _colour(contender: str) -> str:
    return next(colour for name, colour in COLOURS.items() if contender.startswith(name))


def _name(contender: str) -> str:
    for long, short in SHORT.items():
        contender = contender.replace(long, short)
    return contender


def _figure(result: dict[str, Any]) -> str:
    """What stands beside a bar."""
    if "error" in result:
        return " no figure"
    speed = result["tokens_per_s"]
    shown = f"{speed:,.0f}".replace(",", " ") if speed >= 100 else f"{speed:.1f}"
    ratio = "" if result["contender"] == OWN else f"   \u00d7{result['ratio']:.2f}"
    return f" {shown}   {result['peak_mb']:.0f} MB{ratio}"


def _panel(axes: plt.Axes, results: list[dict[str, Any]], title: str) -> None:
    shown = results[::-1]
    values = [0.0 if "error" in result else result["tokens_per_s"] for result in shown]
    colours = [_colour(result["contender"]) for result in shown]
    axes.barh(range(len(shown)), values, color=colours, height=0.72)
    for i, (result, value) in enumerate(zip(shown, values, strict=True)):
        weight = "bold" if result["contender"] == OWN else "normal"
        axes.text(value, i, _figure(result), va="center", fontsize=7.5, fontweight=weight)
    axes.set_xlim(0, max(values, default=1.0) * 1.75 or 1.0)  # room for what stands beside
    axes.set_title(title, fontsize=9.5, loc="left")
    axes.set_yticks(range(len(shown)), [_name(x["contender"]) for x in shown], fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def draw(content: dict[str, Any], path: Path) -> None:
    """Writes the picture."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in content["results"]:
        panels.setdefault((result["model"], result["case"]), []).append(result)
    n_columns = min(N_COLUMNS, len(panels))
    n_rows = -(-len(panels) // n_columns)
    tallest = max(map(len, panels.values()))
    size = 4.6 * n_columns, 0.5 + (0.5 + 0.25 * tallest) * n_rows
    figure, grid = plt.subplots(
        n_rows, n_columns, figsize=size, squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for ((model, case), results), axes in zip(panels.items(), grid.flat, strict=False):
        _panel(axes, results, f"{model}, {case}, {results[0]['n_texts']} texts")
    machine = content["machine"]
    figure.suptitle(
        f"Tokens per second, peak memory, and how many times as fast ggembed is\n"
        f"{machine['cpu']}, {machine['n_cpus']} CPUs, {content['date'][:10]}, "
        f"commit {content['commit']}",
        fontsize=9.5,
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=130)


def main() -> None:
    path = Path(sys.argv[1])
    draw(json.loads(path.read_text("utf-8")), path.with_suffix(".png"))


if __name__ == "__main__":
    main()
