"""README's table: one pair of each method, a spiking model and its control.

    python benchmarks/front.py

Fills the marks ``<!-- front -->`` from the records in ``benchmarks/results/``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from _claims import FASTEST, load, seeds_of, spread
from _claims_frontier import at_equal_quality
from _frontier_rows import CLAIMED, DENSE, LLAMA, SIZES, TWIN, spiking_program
from _sweep import at_best_rate, fill_pages
from distill import CONTROL
from frontier import fastest_setting
from real_model import BASELINE, best
from real_model import DENSE as UNCONVERTED
from spikeformers.reporting.tables import markdown

COLUMNS = ("model", "on test", "weights read", "decode, tokens/s", "energy, estimated")
Row = list[str]


def trained() -> Iterator[Row]:
    """The pair of the frontier whose dense twin is best: trained from scratch on books."""
    results, speed = load("frontier-books") or [], load("frontier-books-speed")
    if not speed:
        return
    timed = fastest_setting(speed["rows"])
    sizes = [
        size
        for size in SIZES
        if at_best_rate(results, f"{size}, {CLAIMED}") and at_best_rate(results, f"{size}, {DENSE}")
    ]
    if not sizes:
        return

    def bits(size: str, kind: str) -> float:
        runs = at_best_rate(results, f"{size}, {kind}")
        return statistics.fmean(run["perplexity"]["bits_per_byte"] for run in runs)

    size = min(sizes, key=lambda size: bits(size, DENSE))

    def rate(program: str) -> str:
        rows = [each for each in timed if (each["size"], each["program"]) == (size, program)]
        medians = [statistics.median(each["tokens_per_second"]) for each in rows]
        return f"{statistics.fmean(medians):,.0f}" if medians else "-"

    for kind, label, program in (
        (
            CLAIMED,
            "**WD-Spikingformer**, {:.1f} M parameters, books ({})",
            spiking_program(CLAIMED),
        ),
        (DENSE, "its dense twin, a learning rate of its own", TWIN),
    ):
        runs = at_best_rate(results, f"{size}, {kind}")
        read = [run["weights_read"] or 1.0 for run in runs]  # None: dense
        peer = f" ({LLAMA}: {rate(LLAMA)})" if kind == DENSE else ""
        joules = statistics.fmean(run["decode_picojoules"] for run in runs)
        yield [
            label.format(runs[0]["parameters"] / 1e6, seeds_of(len(runs))),
            f"{spread([run['perplexity']['bits_per_byte'] for run in runs], 3)} bits/byte",
            f"{statistics.fmean(read):.2g}",
            f"{rate(program)}{peer}",
            f"{joules / 1e6:,.0f} uJ/token",
        ]


def converted() -> Iterator[Row]:
    """SmolLM2-135M in the engine beside llama.cpp, on the first text and with one thread."""
    results = load("real-model")
    if not results:
        return
    losses, run = results["losses"], results["speeds"][0]
    energies = (load("energy-smollm2-135m") or {"prices": {}})["prices"].get("horowitz45", {})

    def joules(side: str) -> str:
        """In full, decode at 128 tokens, int8."""
        for phase in energies.get(side, {"formats": {"int8": []}})["formats"]["int8"]:
            if (phase["phase"], phase["context"]) == ("decode", 128):
                return f"{phase['picojoules'] / 1e6:,.0f} uJ/token"
        return "-"

    text = next(iter(losses[UNCONVERTED]))
    for row, side, label in (
        (
            *(FASTEST, "model"),
            "**NeurTransformer**, SmolLM2-135M with every linear map spiking, not trained",
        ),
        (BASELINE, "control", f"SmolLM2-135M in {BASELINE}"),
    ):
        ours, theirs = (statistics.fmean(losses[name][text]) for name in (row, UNCONVERTED))
        density = run["engine"].get(row, {}).get("density")
        yield [
            label,
            f"perplexity {math.exp(ours):.1f} ({math.exp(ours - theirs) - 1:+.2%} to fp32)",
            "1" if density is None else f"{density:.2f}",
            f"{best(run['decode'], row):.0f}",
            joules(side),
        ]


def distilled() -> Iterator[Row]:
    """BiSpikCLM with its five losses, and the same student without a teacher."""
    results = load("distill-wikitext-2-searched") or []
    speed = (load("distill-wikitext-2-searched-speed") or {"rows": []})["rows"]
    timed = {row["system"]: row for row in speed}
    for row, label in (
        ("all five terms", "**BiSpikCLM**, binary spikes, distilled on WikiText-2 ({})"),
        (CONTROL, "the same student without a teacher, a learning rate of its own"),
    ):
        if runs := at_best_rate(results, row):
            read, rate = "-", "-"
            if row in timed:
                read = f"{timed[row]['read']:.2g}"
                rate = f"{statistics.median(timed[row]['tokens_per_second']):,.0f}"
            yield [
                label.format(seeds_of(len(runs))),
                f"{spread([run['perplexity']['bits_per_byte'] for run in runs], 3)} bits/byte",
                *(read, rate, _energy(runs, "token")),
            ]


def images() -> Iterator[Row]:
    """A2OS2A on scikit-learn's digits, and a ViT."""
    results = load("vision-digits-searched") or []
    for row, label in (
        ("a2os2a", "**A2OS2A**, handwritten digits"),
        ("dense", "its dense twin, a ViT"),
    ):
        if runs := at_best_rate(results, row):
            correct = spread([100 * run["accuracy"] for run in runs], 1)
            yield [label, f"{correct} % correct", "-", "-", _energy(runs, "image")]


def _energy(runs: Sequence[dict[str, Any]], unit: str) -> str:
    """Mean estimate with elementwise operations, per token or image, without memory."""
    key = "with_elementwise_per_token"
    return f"{statistics.fmean(run['energy'][key] for run in runs) / 1e6:.1f} uJ/{unit}"


FRONT: tuple[Callable[[], Iterator[Row]], ...] = (trained, converted, distilled, images)


def table() -> str:
    """README's lines, as Markdown."""
    return markdown(COLUMNS, [row for part in FRONT for row in part()])


def caption() -> str:
    """What README says below its picture, the frontier's; empty without results."""
    if (compared := at_equal_quality()) is None:
        return ""
    point, ratios, _ = compared
    fewest = min(ratio.seeds for ratio in ratios.values())
    runs = at_best_rate(load("frontier-books"), f"{point.size}, {CLAIMED}")
    read = statistics.fmean(run["weights_read"] for run in runs)
    return (
        "*Trained from scratch on the same books; sizes are width x layers. At equal bits per byte "
        f"a spiking model, which reads {100 * read:.0f} % of its weights per token, decodes "
        f"{ratios[LLAMA].value:.1f} times as fast as {LLAMA} and {ratios[TWIN].value:.1f} times as "
        f"fast as a dense model in the same engine: one thread, {seeds_of(fewest)}, "
        "measured in one run. A size that is worse and slower than another stands beside its line "
        "([figures](docs/results/speed.md#speed-at-equal-quality)).*\n"
    )


def main() -> None:
    """Fill table and caption."""
    fill_pages("front", table())
    fill_pages("front-caption", caption())
    print(table())


if __name__ == "__main__":
    main()
