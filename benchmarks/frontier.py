"""The frontier: tokens a second at equal bits per byte, of spiking models and their dense twins.

    python benchmarks/books.py FOLDER BOOKS --training 190
    spikeformers tokenize BOOKS --tokenizer bpe:4096 --out STORE
    python benchmarks/frontier.py run --data STORE --name books --search --compile --jobs 1
                                      --context 256 --batch 8 --steps 1000
    python benchmarks/frontier.py speed --data STORE --name books
    python benchmarks/frontier.py table

``run`` trains every row of ROWS on the same tokens in the same order, resumable, one thread per
process; each row has a learning rate of its own, chosen on validation, and figures of the test
split. A search begins at the rates of RATES, or, where a smaller model of the kind has results,
around its best rate scaled to the width. ``speed`` decodes test text with every trained spiking
model in the engine (int8), and with models of random weights, on which a dense model's speed does
not depend: each twin in the engine (int8), and a GPT-2 of its shape in llama.cpp (Q8_0, in its
fastest setting) and CTranslate2 (int8); all in turns in one process with one thread: run it on a
machine that does nothing else. ``table`` writes
``benchmarks/results/frontier-NAME.json``, ``.md`` and ``-speed.json``, draws
``docs/assets/frontier-NAME.png`` and fills the marks in docs/results/. Bits per byte are PyTorch's
in fp32 for every program, without what int8 changes.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from _frontier import Point, curves_of, frontier, ratio_at, shown
from _frontier_rows import (
    CTRANSLATE2,
    DENSE,
    HEAD_WIDTH,
    KINDS,
    LLAMA,
    ROWS,
    SIZES,
    TWIN,
    config_of,
    spiking_program,
)
from _frontier_speed import measure_speed
from _speed import load_speed, speed_options
from _sweep import ROOT, Sweep, at_best_rate, best_rate, mean
from _training import train_row
from spikeformers.reporting.tables import markdown

RATES = (5e-3, 1e-2)
SETTING = ("steps", "batch", "context")
ASSETS = ROOT / "docs" / "assets"
COMPARED = 4
"""Sizes of spiking models, the largest, whose speed is compared at equal bits per byte."""
VALIDATION_TOKENS = 200_000
BARS = {LLAMA: 4.0, TWIN: 2.5}
"""What the ratio was hoped to be at the largest sizes."""


def start(row: str, results: list[dict[str, Any]]) -> tuple[float, ...]:
    """Where a search begins: at the best rate of the next smaller model of the kind, by width^-1/2.

    Rounded to a power of two times 5e-3, so that rows share rates; () if there is none yet.
    """
    size, kind = ROWS[row]
    width = SIZES[size][0]
    for smaller in sorted(SIZES, key=lambda each: -SIZES[each][0]):
        name = f"{smaller}, {kind}"
        if SIZES[smaller][0] < width and any(result["row"] == name for result in results):
            rate = best_rate(results, name) * math.sqrt(SIZES[smaller][0] / width)
            return (5e-3 * 2.0 ** round(math.log2(rate / 5e-3)),)
    return ()


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Train (or resume) one row with one seed."""
    from spikeformers.models import build_model
    from spikeformers.runs.tokenization import open_store

    size, kind = ROWS[args.row]
    source, tokenizer, store = open_store(args.data, {}, masked=False)
    config = config_of(size, kind, len(tokenizer), args.context)
    done = train_row(
        args,
        out,
        lambda: build_model(config),
        (store, tokenizer),
        args.rate or RATES[0],
        validation_tokens=VALIDATION_TOKENS,
        compile=args.compile,
    )
    if done is None:
        return None
    model, result = done
    return {
        "setting": {key: getattr(args, key) for key in SETTING}
        | {"tokenizer": source["tokenizer"], "head_width": HEAD_WIDTH},
        "size": size,
        "kind": kind,
        **result,
        "decode_picojoules": decode_picojoules(model, store, args.context),
    }


def decode_picojoules(model: Any, store: Any, context: int, tokens: int = 4096) -> float:
    """Estimated picojoules per token, all operations and memory, int8 weights, decode."""
    import torch

    from spikeformers.energy import INT8, Phase, count_over, ledger_of, load_table

    windows = max(1, tokens // context)
    ids = torch.tensor(store.split("test").tokens[: windows * context].astype("int64"))
    counted = count_over(model, [ids.view(windows, context)])
    phase = Phase("decode", context, 1)
    return float(ledger_of(counted, INT8, phase, load_table("horowitz45")).picojoules)


# --- table ---------------------------------------------------------------------------------------


def fastest_setting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with llama.cpp's fastest setting at each size under its plain name."""
    others = [row for row in rows if not row["program"].startswith(LLAMA)]
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["program"].startswith(LLAMA):
            settings.setdefault(row["size"], []).append(row)

    def rate(row: dict[str, Any]) -> float:
        return statistics.median(row["tokens_per_second"])

    return others + [{**max(each, key=rate), "program": LLAMA} for each in settings.values()]


def bits_of(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Kind -> size -> seed -> bits per byte, at each row's best rate."""
    bits: dict[str, dict[str, dict[int, float]]] = {}
    for row, (size, kind) in ROWS.items():
        for result in at_best_rate(results, row):
            value = result["perplexity"]["bits_per_byte"]
            bits.setdefault(kind, {}).setdefault(size, {})[result["seed"]] = value
    return bits


def table(name: str, results: list[dict[str, Any]]) -> str:
    """Rows, then ratios at equal bits per byte; draws the picture where speeds were measured."""
    speed = load_speed(SWEEP, name)
    setting = results[0]["setting"]
    commits = ", ".join(sorted({run["commit"] for run in results}))
    text = (
        f"{name}, {setting['tokenizer']}, {setting['steps']:,} steps of {setting['batch']} x "
        f"{setting['context']} tokens, heads of {setting['head_width']}, the same tokens in the "
        "same order; bits per byte of the whole test split, at the learning rate that had the "
        "least validation loss with the row's first seed (in brackets the rates tried; a single "
        f"one is that of a similar model); commits {commits}; torch {results[0]['torch']}. "
        "Measured; energies estimated, operations and memory, int8, decode at the training "
        "context.\n\n"
    )
    timed = fastest_setting(speed["rows"]) if speed else []
    text += markdown(COLUMNS, [line for row in ROWS if (line := _line(row, results, timed))])
    if speed is None:
        return text
    curves = curves_of(bits_of(results), timed)
    draw(name, curves)
    skipped = "".join(
        f" Left out: {what}: {why.rstrip(chr(46))}." for what, why in speed["skipped"].items()
    )
    return (
        f"{text}\nDecoded: {speed['new_tokens']} tokens of test text after {speed['prompt_tokens']}"
        f", one thread, {speed['machine'].get('processor', 'this machine')}, {speed['kernels']}; "
        "medians of turns, the slowest and fastest beside them; the engine's files are int8, "
        f"llama.cpp is in its fastest setting.{skipped}\n\n"
        f"**Tokens per second at equal bits per byte.** How many times as fast a spiking model is "
        "as the other program at the same quality, between whose sizes the logarithm of the speed "
        "is interpolated; in brackets 95 % of a bootstrap over seeds and turns.\n\n"
        f"{ratio_table(curves)}"
    )


COLUMNS = (
    *("size", "model", "parameters", "seeds", "rate", "bits/byte", "weight bytes read"),
    *("engine, tokens/s", f"{LLAMA}, tokens/s", f"{CTRANSLATE2}, tokens/s", "uJ/token"),
)


def _line(row: str, results: list[dict[str, Any]], timed: list[dict[str, Any]]) -> list[str]:
    """One row of the table; empty if it has no result."""
    size, kind = ROWS[row]
    runs = at_best_rate(results, row)
    if not runs:
        return []

    tried = len({run["learning_rate"] for run in results if run["row"] == row})

    def rates(program: str) -> list[dict[str, Any]]:
        return [each for each in timed if (each["size"], each["program"]) == (size, program)]

    engine = rates(TWIN if kind == DENSE else spiking_program(kind))
    cells = [_speed(engine)]
    cells += [_speed(rates(each)) if kind == DENSE else "" for each in (LLAMA, CTRANSLATE2)]
    return [
        *(size, kind if kind == DENSE else f"spiking, {kind}", f"{runs[0]['parameters']:,}"),
        *(str(len(runs)), f"{runs[0]['learning_rate']:g} ({tried})"),
        mean([run["perplexity"]["bits_per_byte"] for run in runs], 3),
        f"{statistics.fmean(each['read'] for each in engine):.3f}" if engine else "-",
        *cells,
        mean([run["decode_picojoules"] / 1e6 for run in runs], 2),
    ]


def _speed(rows: list[dict[str, Any]]) -> str:
    """Median tokens per second over turns, averaged over seeds, and the extremes of all turns."""
    if not rows:
        return "-"
    middle = statistics.fmean(statistics.median(row["tokens_per_second"]) for row in rows)
    turns = [rate for row in rows for rate in row["tokens_per_second"]]
    return f"{middle:,.0f} ({min(turns):,.0f} to {max(turns):,.0f})"


def ratio_table(curves: Mapping[str, list[Point]]) -> str:
    """One line per spiking program and size, the largest COMPARED of each."""
    others = [name for name in (LLAMA, TWIN, CTRANSLATE2) if name in curves]
    rows = []
    for kind in KINDS:
        program = spiking_program(kind)
        for point in curves.get(program, [])[-COMPARED:]:
            cells = [shown(ratio_at(point, curves[other])) for other in others]
            rows.append([kind, point.size, f"{point.at()[0]:.3f}", *cells])
    heads = [f"to {name}" + (f" (bar {BARS[name]:g})" if name in BARS else "") for name in others]
    return markdown(["spiking model", "size", "bits/byte", *heads], rows)


def draw(name: str, curves: Mapping[str, list[Point]]) -> None:
    """Bits per byte against tokens per second, one line per program through its best sizes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.8), layout="constrained")
    for (program, points), style in zip(sorted(curves.items()), STYLES, strict=False):
        at = [point.at() for point in points]
        x, y = [math.exp(speed) for _, speed in at], [bits for bits, _ in at]
        turns = [[rate for row in point.speeds for rate in row] for point in points]
        low = [max(0.0, rate - min(each)) for rate, each in zip(x, turns, strict=True)]
        high = [max(0.0, max(each) - rate) for rate, each in zip(x, turns, strict=True)]
        spread = [statistics.stdev(p.bits) if len(p.bits) > 1 else 0.0 for p in points]
        axes.errorbar(
            x, y, xerr=[low, high], yerr=spread, label=program, capsize=2, linestyle="", **style
        )
        curve = frontier(at)  # a size that is worse and slower than another stands beside it
        axes.plot(
            [math.exp(speed) for _, speed in curve],
            [bits for bits, _ in curve],
            color=style["color"],
            linewidth=1.2,
        )
        for point, right, height in zip(points, x, y, strict=True):
            axes.annotate(
                point.size, (right, height), (4, 4), textcoords="offset points", fontsize=7
            )
    axes.set_xscale("log")
    axes.set_xlabel("decoded tokens per second, one thread (more is better)")
    axes.set_ylabel("bits per byte on test (less is better)")
    axes.set_title("Trained from scratch: quality and speed, measured in one run", loc="left")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(ASSETS / f"frontier-{name}.png", dpi=150)
    plt.close(figure)


STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "^", "color": "#7a7a7a"},
    {"marker": "D", "color": "#3b6fb6"},
    {"marker": "o", "color": "#1b7f5c"},
    {"marker": "v", "color": "#74b49b"},
    {"marker": "P", "color": "#a23b72"},
    {"marker": "s", "color": "#8a5a00"},
)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compile", action="store_true", help="torch.compile the models")


THREE = dict.fromkeys(ROWS, (0, 1, 2))
FIRST = dict.fromkeys(ROWS, RATES)
SWEEP = Sweep(__file__, "frontier", THREE, train_one, table, options, FIRST, start=start)
SPEED = (speed_options, partial(measure_speed, SWEEP))

if __name__ == "__main__":
    replace(SWEEP, verbs={"speed": SPEED}).main(__doc__)
