"""README's table: the few claims that a newcomer needs, each beside its control.

    python benchmarks/front.py

Fills the marks ``<!-- front -->``, as `headlines.py` fills its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from _sweep import at_best_rate, fill_pages
from headlines import Line, converted, distilled, engine, images, load, spread, tiny
from real_model import BASELINE, DENSE, best
from spikeformers.reporting.tables import markdown


def trained_pair() -> Iterator[Line]:
    """The spiking model and its twin, each at the learning rate that its own search chose."""
    results = load("quality-wikitext-2-searched") or []
    spiking, dense = (
        at_best_rate(results, row) for row in ("dead zones, budget 0.35", "dense-rotary")
    )
    if not spiking or not dense:
        return

    def bits(runs: list[dict[str, Any]]) -> str:
        return spread([run["perplexity"]["bits_per_byte"] for run in runs], 3)

    def nanojoules(runs: list[dict[str, Any]]) -> str:
        picojoules = [run["energy"]["with_elementwise_per_token"] for run in runs]
        return f"{statistics.mean(picojoules) / 1e3:,.0f}"

    read = statistics.mean(run["weights_read"] for run in spiking)
    yield (
        f"WD-Spikingformer with dead zones, {spiking[0]['parameters'] / 1e6:.1f} M parameters, "
        f"WikiText-2 test, seeds: {len(spiking)} and {len(dense)}",
        f"{bits(spiking)} bits/byte; {read:.0%} of weights read per token; "
        f"{nanojoules(spiking)} nJ/token",
        f"dense twin, a learning rate of its own: {bits(dense)}; {nanojoules(dense)} nJ/token",
    )


def real_model() -> Iterator[Line]:
    """SmolLM2-135M in the engine beside llama.cpp, on the first text and with one thread."""
    results = load("real-model")
    if not results:
        return
    losses, run = results["losses"], results["speeds"][0]
    text = next(iter(losses[DENSE]))

    def change(row: str) -> str:
        ours, theirs = (statistics.fmean(losses[name][text]) for name in (row, DENSE))
        speed = best(run["decode"], row)
        return f"perplexity {math.exp(ours - theirs) - 1:+.2%}, {speed:.0f} tokens/s"

    row = "engine, T=8, int4 in groups"
    yield (
        "SmolLM2-135M, every linear map spiking, no training",
        change(row),
        f"{BASELINE}: {change(BASELINE)}",
    )


def shown(part: Iterator[Line], *beginnings: str) -> Iterator[Line]:
    """The lines of a part that begin with one of these."""
    return (line for line in part if line[0].startswith(beginnings))


FRONT: tuple[Callable[[], Iterator[Line]], ...] = (
    real_model,
    trained_pair,
    lambda: shown(engine(), "engine, int8, 12 x 768 trained to a density of 0.10, decode"),
    lambda: shown(tiny(), "tiny, trained to about equal quality"),
    lambda: distilled("wikitext-2", "WikiText-2, from its own dense twin"),
    lambda: converted(
        "gpt2-twin",
        "GPT-2 shape (1.09 M) converted",
        [("attention too, T = 4", ["whole cwssa hard phase, T=4, tuned with KD"])],
    ),
    lambda: shown(images(), "A2OS2A on digits"),
    lambda: shown(tiny(), "energy with memory"),
)
"""Of README: at most eight lines."""


def table() -> str:
    """README's lines, as Markdown."""
    rows = [list(line) for part in FRONT for line in part()]
    return markdown(["", "spiking", "beside it"], rows)


def main() -> None:
    """Fill the table."""
    text = table()
    fill_pages("front", text)
    print(text)


if __name__ == "__main__":
    main()
