"""Pictures of a conversion: errors and rates by block, quality against T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from spikeformers.reporting._style import CYCLE, GREY, drawing

NAMED = {"attention": "attention", "mlp": "feed-forward"}
POINTS = {
    "fire_in": "input",
    "fire_query": "query",
    "fire_key": "key",
    "fire_value": "value",
    "fire_out": "attention output",
    "fire_act": "activation (IF)",
    "fire_hidden": "hidden",
}


def by_block(path: Path, layers: Sequence[Mapping[str, Any]], key: str) -> None:
    """Bars of one figure per converted module, attention and feed-forward side by side."""
    with drawing(path, 7.6, 3.8) as figure:
        axes = figure.subplots()
        parts = [part for part in NAMED if any(layer["part"] == part for layer in layers)]
        for place, part in enumerate(parts):
            modules = [layer for layer in layers if layer["part"] == part]
            width = 0.8 / len(parts)
            shift = (place - (len(parts) - 1) / 2) * width
            axes.bar(
                [module["layer"] + 1 + shift for module in modules],
                [module[key] for module in modules],
                width * 0.92,
                color=CYCLE[place],
                label=NAMED[part],
            )
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(key.replace("_", " "))
        axes.set_title("What converting each module changed, on the calibration text")
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.legend()


def rates(path: Path, layers: Sequence[Mapping[str, Any]]) -> None:
    """Spikes per neuron and step over the blocks, one line per kind of neuron."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for layer in layers:
        for name, neuron in layer["neurons"].items():
            kind = f"{NAMED[layer['part']]}, {POINTS.get(name, name)}"
            lines.setdefault(kind, []).append((layer["layer"] + 1, neuron["rate"]))
    with drawing(path, 7.6, 4.0) as figure:
        axes = figure.subplots()
        for place, (kind, points) in enumerate(lines.items()):
            axes.plot(
                [block for block, _ in points],
                [rate for _, rate in points],
                color=CYCLE[place % len(CYCLE)],
                linestyle="-" if place < len(CYCLE) else "--",
                marker="o",
                markersize=4,
                label=kind,
            )
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("spikes per neuron pair and step")
        axes.set_title("Firing rates on the calibration text")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper")


def against_steps(
    path: Path,
    curves: Mapping[str, Mapping[int, float]],
    *,
    ylabel: str,
    title: str,
    level: float | None = None,
    level_name: str = "",
) -> None:
    """One figure against T, one line per method; ``level`` is the original's.

    The axis of values is logarithmic where they differ by more than a factor of 20.
    """
    with drawing(path, 7.6, 4.2) as figure:
        axes = figure.subplots()
        for place, (name, points) in enumerate(curves.items()):
            steps = sorted(points)
            axes.plot(
                steps,
                [points[t] for t in steps],
                color=CYCLE[place % len(CYCLE)],
                marker="o",
                markersize=5,
                label=name,
            )
        if level is not None:
            axes.axhline(level, color=GREY, linestyle="--", label=level_name)
        values = [value for points in curves.values() for value in points.values()]
        if min(values, default=0.0) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({t for points in curves.values() for t in points}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("T, simulation steps")
        axes.set_ylabel(ylabel)
        axes.set_title(title)
        axes.legend()
