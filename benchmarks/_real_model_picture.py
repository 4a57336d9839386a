"""The picture of the real model: perplexity against decode speed, a point per setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def draw(points: Sequence[tuple[str, float, float]], dense: float, text: str, to: Path) -> None:
    """Draw rows with their tokens per second and perplexities, and the ``dense`` model's line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.4), layout="constrained")
    for group, marker, colour in (("engine", "o", "#1b7f5c"), ("llama.cpp", "s", "#8a5a00")):
        rows = [point for point in points if point[0].startswith(group)]
        lowest = min(height for _, _, height in rows)
        axes.scatter(
            [at for _, at, _ in rows],
            [height for *_, height in rows],
            marker=marker,
            color=colour,
            label=group,
        )
        for row, at, height in rows:
            right = group == "engine" and "int4" in row
            below = right and height == lowest  # free of the labels of its neighbours
            axes.annotate(
                row.removeprefix(group).removesuffix(" in groups").strip(" ,"),
                (at, height),
                (5 if right else -6, -11 if below else 4 if right else -4),
                textcoords="offset points",
                horizontalalignment="left" if right else "right",
                fontsize=8,
            )
    axes.axhline(dense, color="grey", linewidth=0.8, linestyle=":", label="dense, fp32")
    axes.set_xlabel("decoded tokens per second, 1 thread (more is better)")
    axes.set_ylabel(f"perplexity on {text} (less is better)")
    axes.set_title("SmolLM2-135M: quality and speed, measured in one run", loc="left")
    axes.margins(x=0.32, y=0.12)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(to, dpi=150)
    plt.close(figure)
