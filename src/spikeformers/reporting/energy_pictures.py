"""Pictures of the full estimate: what energy is spent on, break-even, sensitivity, positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from spikeformers.energy.pricing.estimate import Swing
from spikeformers.reporting._style import BLUE, CONTROL, CYCLE, GREY, ORANGE, SPIKING, drawing

VISIBLE = 1.005  # a bar of the tornado moves the ratio by at least this factor
PARTS = {
    "arithmetic": "arithmetic",
    "weights": "weights",
    "register": "weights used again",
    "activations": "activations",
    "cache": "keys and values",
    "state": "membranes",
}


def spent_on(path: Path, bars: Mapping[str, Mapping[str, float]], title: str, unit: str) -> None:
    """Stacked bars per model and format: nJ per ``unit`` by what they are spent on; *estimated*."""
    names = list(bars)
    with drawing(path, 8.4, 0.5 * len(bars) + 1.6) as figure:
        axes = figure.subplots()
        longest = max(sum(parts.values()) for parts in bars.values())
        totals = [0.0] * len(names)
        for place, (part, label) in enumerate(PARTS.items()):
            values = [bars[name].get(part, 0.0) for name in names]
            if max(values) > 0:
                axes.barh(names, values, left=totals, color=CYCLE[place], label=label, height=0.7)
            totals = [a + b for a, b in zip(totals, values, strict=True)]
        for row, total in enumerate(totals):
            axes.text(total + longest * 0.01, row, number(total), va="center", fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, longest * 1.14)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_xlabel(f"nJ per {unit}, estimated")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside right upper")


def break_even_curve(
    path: Path,
    densities: Sequence[float],
    energy: Sequence[float],
    twins: Mapping[str, float],
    measured: tuple[float, float],
    title: str,
    unit: str,
) -> None:
    """Nanojoules per ``unit`` over density, twins as lines, ``measured`` as a dot; *estimated*."""
    with drawing(path, 8.0, 4.2) as figure:
        axes = figure.subplots()
        axes.plot(densities, energy, color=SPIKING, linewidth=2, label="spiking model, int8")
        axes.plot(*measured, "o", color=SPIKING, markersize=8)
        axes.annotate(
            f"measured, {measured[0]:.3f}", measured,
            xytext=(8, -14), textcoords="offset points", fontsize=9,
        )  # fmt: skip
        for (name, value), style in zip(twins.items(), ("-", "--", ":"), strict=False):
            axes.axhline(value, color=CONTROL, linestyle=style, linewidth=1.6, label=name)
        axes.set_yscale("log")
        axes.set_xlim(0, max(densities))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.set_xlabel("mean density of the neuron layers, their events scaled alike")
        axes.set_ylabel(f"nJ per {unit}, estimated")
        axes.set_title(title)
        figure.legend(loc="outside right upper")


def tornado(path: Path, swings: Sequence[Swing], ratio: float, title: str) -> None:
    """How far each price or assumption moves the ratio of spiking to dense; *estimated*.

    Changes that move it by less than half a percent are left out.
    """
    swings = [swing for swing in swings if swing.width(ratio) > VISIBLE] or swings[:1]
    with drawing(path, 8.4, 0.36 * len(swings) + 1.8) as figure:
        axes = figure.subplots()
        for row, swing in enumerate(swings):
            if swing.low is None:
                axes.barh(row, swing.high - ratio, left=ratio, color=GREY, height=0.6)
                continue
            axes.barh(row, swing.low - ratio, left=ratio, color=BLUE, height=0.6)
            axes.barh(row, swing.high - ratio, left=ratio, color=ORANGE, height=0.6)
        ends = [end for s in swings for end in (s.high, ratio if s.low is None else s.low)]
        axes.axvline(ratio, color="#222222", linewidth=1)
        axes.set_yticks(range(len(swings)), [swing.name for swing in swings])
        axes.invert_yaxis()
        spread = max(ends) - min(ends)
        axes.set_xlim(max(0, min(ends) - 0.08 * spread), max(ends) + 0.08 * spread)
        axes.set_xlabel(f"energy over the twin's, estimated; {ratio:.3f} as priced")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        for colour, name in ((BLUE, "price halved"), (ORANGE, "doubled"), (GREY, "assumed so")):
            axes.barh(0, 0, color=colour, label=name)
        figure.legend(loc="outside right upper")


def density_over_positions(path: Path, densities: Mapping[str, NDArray[Any]]) -> None:
    """Share of neurons that fire, by position in the window; *measured*."""
    with drawing(path, 8.0, 3.6) as figure:
        axes = figure.subplots()
        for place, (name, shares) in enumerate(densities.items()):
            axes.plot(range(1, len(shares) + 1), shares, color=CYCLE[place], label=name)
        axes.set_xlim(1, max(len(shares) for shares in densities.values()))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("position in the window")
        axes.set_ylabel("density, mean of the layers")
        axes.set_title("Firing density by position, measured")
        if len(densities) > 1:
            figure.legend(loc="outside right upper")


def number(value: float) -> str:
    """The value with three digits, or as an integer from 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
