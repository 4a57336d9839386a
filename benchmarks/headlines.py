"""One line per claim, each beside its control, from ``benchmarks/results/``.

    python benchmarks/headlines.py

Fills the marks ``<!-- headlines -->`` of docs/results.md with the ten lines of SUMMARY, and those
of each page of docs/results/ with all lines of its topic. Every figure is computed from the JSON of
the script that measured it; a line without results is left out. `front.py` has README's table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from _claims import (
    Line,
    converted,
    distilled,
    energy,
    engine,
    images,
    real_model,
    sentences,
    tiny,
    trained_pair,
    without_softmax,
    zeroshot,
)
from _claims_frontier import frontier
from _sweep import fill_pages
from spikeformers.reporting.tables import markdown

Part = Callable[[], Iterator[Line]]
GRADED = "dead zones, two binary digits"
"""The rows of `quality.py` that are as presets are."""

TOPICS: dict[str, tuple[Part, ...]] = {
    "training": (
        lambda: trained_pair(f"{GRADED}, budget 0.35", "WD-Spikingformer with graded winners"),
        lambda: trained_pair(f"{GRADED}, budget 0.15", "the same at a budget of 0.15"),
        lambda: trained_pair("dead zones, budget 0.35", "WD-Spikingformer with one winner"),
        lambda: trained_pair("dead zones, budget 0.15", "the same at a budget of 0.15"),
    ),
    "distillation": (
        lambda: distilled("wikitext-2", "WikiText-2, from its own dense twin"),
        lambda: distilled("classic-books", "classic books, from SmolLM2-135M"),
    ),
    "conversion": (
        real_model,
        without_softmax,
        lambda: converted(
            "smollm2-135m",
            "SmolLM2-135M converted",
            [
                (
                    "only feed-forward blocks, no training",
                    [
                        "ffn signed-if, T=16",
                        "ffn signed-if phase, T=8",
                        "ffn signed-if phase, T=12",
                    ],
                ),
                ("attention too, no training", ["whole cwssa top-3 phase, T=8"]),
            ],
        ),
        lambda: converted(
            "smollm2-135m-books",
            "SmolLM2-135M converted, classic books",
            [
                (
                    "only feed-forward blocks, no training",
                    [
                        "ffn signed-if, T=16",
                        "ffn signed-if phase, T=8",
                        "ffn signed-if phase, T=12",
                    ],
                ),
            ],
        ),
        lambda: converted(
            "gpt2-twin",
            "GPT-2 shape (1.09 M) converted",
            [
                ("only feed-forward blocks, no training", ["ffn signed-if phase, T=4"]),
                (
                    "attention too, no training",
                    ["whole ssa phase, T=4", "whole cwssa hard phase, T=4"],
                ),
            ],
        ),
        lambda: converted(
            "gpt2-twin-books",
            "GPT-2 shape trained and converted on classic books",
            [
                ("only feed-forward blocks, no training", ["ffn signed-if phase, T=4"]),
                ("attention too, no training", ["whole cwssa hard phase, T=4"]),
            ],
        ),
    ),
    "tasks": (zeroshot, sentences),
    "a2os2a": (images,),
    "speed": (frontier, engine, tiny),
    "energy": (energy,),
}
"""Pages of docs/results/ and their lines."""
SUMMARY = (
    "frontier",
    "WD-Spikingformer with graded winners",
    "SmolLM2-135M, every linear map spiking",
    "SmolLM2-135M, every linear map and attention",
    "GPT-2 shape (1.09 M) converted, attention too",
    "BiSpikCLM with five losses, WikiText-2",
    "A2OS2A on digits",
    "WE-Spikingformer tiny (1.3 M, 2.0 M tokens of books), SST2",
    "engine, int8, 12 x 768 trained to a density of 0.10, decode",
    "energy with memory",
)
"""Beginnings of the lines of docs/results.md, in order."""


def lines(topic: str) -> list[Line]:
    """All lines of one page."""
    return [line for part in TOPICS[topic] for line in part()]


def shown(some: Iterable[Line]) -> str:
    """Lines as Markdown."""
    return markdown(["", "figure", "beside"], [list(line) for line in some])


def table(topic: str | None = None) -> str:
    """The lines of a page; without a topic those of the summary."""
    if topic is not None:
        return shown(lines(topic))
    everything = [line for each in TOPICS for line in lines(each)]
    return shown(
        line for beginning in SUMMARY for line in everything if line[0].startswith(beginning)
    )


def main() -> None:
    """Fill the tables."""
    fill_pages("headlines", table())
    for topic in TOPICS:
        fill_pages(f"headlines-{topic}", table(topic))
    print(table())


if __name__ == "__main__":
    main()
