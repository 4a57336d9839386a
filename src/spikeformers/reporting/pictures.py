"""The pictures of a report, one function each, from plain numbers to a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import (
    BoundaryNorm,
    Colormap,
    LinearSegmentedColormap,
    ListedColormap,
    Normalize,
)
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from spikeformers.reporting._style import CONTROL, CYCLE, GREY, SPIKING, drawing, label
from spikeformers.studies.gather import Curve

SMALL = 2e-3  # smaller shares of the largest component are drawn as one bar
PROPER = {"mlp": "MLP"}
COUNTS = LinearSegmentedColormap.from_list("counts", ["#7FB8DC", "#08306B"])
SHARES = LinearSegmentedColormap.from_list("shares", ["#F4F4F4", "#7FB8DC", "#08306B"])


def loss_curves(path: Path, curves: Sequence[Curve]) -> None:
    """Training loss (thin) and validation loss (dots) of each run against tokens seen."""
    with drawing(path, 7.2, 4.2) as figure:
        axes = figure.subplots()
        for curve, colour in zip(curves, (SPIKING, CONTROL, *CYCLE[2:]), strict=False):
            axes.plot(curve.tokens, curve.loss, color=colour, alpha=0.55, linewidth=1.2)
            axes.plot(
                curve.validation_tokens,
                curve.validation,
                color=colour,
                marker="o",
                markersize=5,
                linewidth=2,
                label=f"{curve.name}: {curve.validation[-1]:.3f} at the end"
                if curve.validation
                else curve.name,
            )
        axes.set_xlabel("training tokens seen")
        axes.set_ylabel("loss (nats per token)")
        axes.set_title("Loss while training: thin on training text, dots on validation text")
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.set_xlim(left=0)
        axes.legend(loc="upper right")


def density_by_layer(
    path: Path,
    densities: Mapping[str, Sequence[float | None]],
    outside: Mapping[str, float] | None = None,
) -> None:
    """Bars of firing density, one group per block; keys are the points inside a block.

    ``outside`` holds neurons outside the blocks; they are drawn at the right.
    """
    outside = outside or {}
    blocks = max((len(values) for values in densities.values()), default=0)
    with drawing(path, min(13.0, max(7.2, 1.4 * blocks + 2)), 4.2) as figure:
        axes = figure.subplots()
        width = 0.84 / max(1, len(densities))
        for place, (point, values) in enumerate(densities.items()):
            measured = [(b, v) for b, v in enumerate(values) if v is not None]
            axes.bar(
                [b + (place - (len(densities) - 1) / 2) * width for b, _ in measured],
                [v for _, v in measured],
                width * 0.92,
                color=CYCLE[place % len(CYCLE)],
                hatch=None if place < len(CYCLE) else "//",
                label=point,
            )
        places = range(blocks, blocks + len(outside))
        axes.bar(places, list(outside.values()), width * 0.92, color="#444444")
        names = [*(str(b + 1) for b in range(blocks)), *outside]
        axes.set_xticks(range(len(names)), names)
        if len(outside) > 1:
            for tick in axes.get_xticklabels()[blocks:]:
                tick.set(rotation=25, horizontalalignment="right")
        axes.set_xlabel("block")
        axes.set_ylabel("density (share of outputs that are not zero)")
        axes.set_title("Firing density by layer, measured")
        axes.grid(axis="x", visible=False)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", title="spikes of")


def spike_raster(
    path: Path, spikes: Mapping[str, NDArray[Any]], tokens: Sequence[str], levels: int
) -> None:
    """Dots where units fire: one panel per layer of counts ``[tokens, units]``."""
    panels = len(spikes)
    columns = 2 if panels > 1 else 1
    rows = -(-panels // columns)
    wide = max(3.4, 0.21 * len(tokens)) * columns + 1.4
    with drawing(path, wide, 1.9 * rows + 1.2) as figure:
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for axes in grid.flat[panels:]:
            axes.set_visible(False)
        colours = COUNTS(np.linspace(0, 1, levels)) if levels > 1 else [SPIKING]
        norm = BoundaryNorm(np.arange(0.5, levels + 1), levels)
        dots = None
        for axes, (name, counts) in zip(grid.flat, spikes.items(), strict=False):
            token, unit = np.nonzero(counts)
            dots = axes.scatter(
                token,
                unit,
                c=np.abs(counts[token, unit]),
                cmap=ListedColormap(colours),
                norm=norm,
                s=7,
                marker="s",
                linewidths=0,
            )
            share = float(np.mean(counts != 0))
            axes.set_title(f"{name}: density {share:.2f}", fontsize=10, fontweight="normal")
            axes.set_xlim(-0.6, len(tokens) - 0.4)
            axes.set_ylim(-1, counts.shape[1])
            axes.grid(axis="y", visible=False)
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axes in grid[:, 0]:
            axes.set_ylabel("unit")
        for column in range(columns):
            bottom = grid[rows - 1, column]
            if not bottom.get_visible():
                bottom = grid[rows - 2, column]
                bottom.tick_params(labelbottom=True)
            bottom.set_xticks(range(len(tokens)), [label(t) for t in tokens], rotation=90)
            bottom.tick_params(axis="x", labelsize=8)
        if dots is not None and levels > 1:
            bar = figure.colorbar(
                dots, ax=grid, ticks=MaxNLocator(16, integer=True), aspect=20, shrink=0.5, pad=0.015
            )
            bar.set_label("spikes in the step")
            bar.outline.set_visible(False)
            bar.minorticks_off()
        figure.suptitle(
            f"Spikes while one sentence is read{'' if levels > 1 else ': a dot is one spike'}",
            x=0.01,
            ha="left",
            fontsize=11,
            fontweight="bold",
        )


def attention_map(path: Path, weights: Mapping[str, NDArray[Any]], tokens: Sequence[str]) -> None:
    """Weights ``[heads, queries, keys]`` summed over heads, one panel per layer.

    Where all are 0 or 1 the sum is the number of heads that chose the key.
    """
    panels = len(weights)
    columns = 2 if panels > 1 else 1
    rows = -(-panels // columns)
    side = max(2.6, 0.19 * len(tokens))  # inches; a cell is about as high as it is wide
    heads = max(w.shape[0] for w in weights.values())
    chosen = are_choices(weights)
    names = [label(token) for token in tokens]
    with drawing(path, side * columns + 1.9, side * rows + 1.7) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[panels:]:
            axes.set_visible(False)
        colours: Colormap = ListedColormap(["#F4F4F4", *COUNTS(np.linspace(0, 1, heads))])
        norm: Normalize = BoundaryNorm(np.arange(-0.5, heads + 1), heads + 1)
        if not chosen:
            colours, norm = SHARES, Normalize(0, heads)
        image = None
        for axes, (name, of_heads) in zip(grid.flat, weights.items(), strict=False):
            total = of_heads.sum(0).astype(float)
            last = np.arange(total.shape[-1])
            total[(total == 0) & (last[None, :] > last[:, None])] = np.nan
            image = axes.imshow(
                total, cmap=colours, norm=norm, interpolation="nearest", aspect="auto"
            )
            axes.set_title(name, fontsize=10, fontweight="normal")
            axes.grid(visible=False)
            axes.set_xticks(range(len(tokens)), names, rotation=90, fontsize=8)
            axes.set_yticks(range(len(tokens)), names, fontsize=8)
            axes.tick_params(length=2)
        for axes in grid[:, 0]:
            axes.set_ylabel("query token")
        for axes in grid[rows - 1]:
            axes.set_xlabel("key token")
        if image is not None:
            bar = figure.colorbar(
                image, ax=grid, ticks=MaxNLocator(9, integer=True), aspect=20, shrink=0.5, pad=0.015
            )
            bar.set_label("heads that chose it" if chosen else "weight, summed over heads")
            bar.outline.set_visible(False)
            bar.minorticks_off()
        title = "Winners of attention" if chosen else "Weights of attention"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def are_choices(weights: Mapping[str, NDArray[Any]]) -> bool:
    """Whether heads choose keys and do not weigh them: each weight is 0 or 1."""
    return all(bool(np.isin(each, (0, 1)).all()) for each in weights.values())


def energy_by_component(
    path: Path, energies: Mapping[str, Mapping[str, float]], unit: str = "token"
) -> None:
    """Bars of nJ per ``unit`` by component, one colour per model; *estimated*.

    ``energies`` are in picojoules.
    """
    energies = _without_small(energies)
    components = list(dict.fromkeys(key for parts in energies.values() for key in parts))
    most = {c: max(parts.get(c, 0.0) for parts in energies.values()) for c in components}
    components.sort(key=lambda component: most[component])
    thick = 0.8 / max(1, len(energies))
    with drawing(path, 7.6, 0.46 * len(components) + 1.9) as figure:
        axes = figure.subplots()
        largest = max(most.values(), default=1.0) / 1e3
        for place, (name, parts) in enumerate(energies.items()):
            values = [parts.get(component, 0.0) / 1e3 for component in components]
            heights = [
                row + ((len(energies) - 1) / 2 - place) * thick for row in range(len(components))
            ]
            colour = (SPIKING, CONTROL, *CYCLE[2:])[place]
            axes.barh(
                heights, values, thick * 0.9, color=colour,
                label=f"{name}: {_short(sum(parts.values()) / 1e3)} nJ",
            )  # fmt: skip
            for height, value in zip(heights, values, strict=True):
                if value:
                    axes.text(
                        value + largest * 0.008, height, _short(value),
                        va="center", fontsize=8, color=GREY,
                    )  # fmt: skip
        axes.set_yticks(range(len(components)), [PROPER.get(name, name) for name in components])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_xlabel(f"nJ per {unit}, estimated: measured events times 45 nm prices")
        axes.set_title("Estimated energy by component")
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, largest * 1.1)
        axes.legend(loc="lower right")


def _without_small(energies: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Components too small to see in every model, summed up as "the rest"."""
    largest = max((value for parts in energies.values() for value in parts.values()), default=0.0)
    visible = {k for parts in energies.values() for k, v in parts.items() if v >= SMALL * largest}
    merged = {}
    for name, parts in energies.items():
        large = {key: value for key, value in parts.items() if key in visible}
        rest = sum(value for key, value in parts.items() if key not in visible)
        merged[name] = large | ({"the rest": rest} if rest else {})
    return merged


def _thousands(value: float, _: Any) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
