"""The comparison written down: a page, a Markdown table and a CSV of the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spikeformers.reporting import pictures
from spikeformers.reporting._style import CYCLE, GREY, drawing
from spikeformers.reporting.compare import Compared, Side
from spikeformers.reporting.gather import loss_curve
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.storage import write_text
from spikeformers.training.glue import summarise

FORMS = {
    "parameters": "{:,.0f}",
    **{f"{unit}s seen": "{:,.0f}" for unit in ("token", "image")},
    **{f"training {unit}s/s": "{:,.0f}" for unit in ("token", "image")},
    "writing tokens/s": "{:,.0f}",
    "nJ/token": "{:,.1f}",
    "nJ/token with elementwise": "{:,.1f}",
}
ESTIMATED = ("nJ/token", "nJ/token with elementwise")


def rows_of(sides: Sequence[Side]) -> list[list[str]]:
    """One line a figure: its name, each run's cell, and measured or estimated."""
    rows = []
    for title in dict.fromkeys(key for side in sides for key in side.figures):
        cells = [
            FORMS.get(title, "{:.3f}").format(side.figures[title]) if title in side.figures else "-"
            for side in sides
        ]
        counted = title in ("parameters", "tokens seen", "images seen")
        kind = "estimated" if title in ESTIMATED else "" if counted else "measured"
        rows.append([title, *cells, kind])
    for task in dict.fromkeys(key for side in sides for key in side.zeroshot):
        for metric in ("acc", "acc_norm"):
            found = [side.zeroshot.get(task, {}).get("metrics", {}).get(metric) for side in sides]
            if any(found):
                name = f"{task}, {metric}{_beside(next(filter(None, found)))}"
                rows.append([name, *map(_accuracy, found), "measured"])
    for task in dict.fromkeys(key for side in sides for key in side.sentences):
        told = [
            summarise(side.sentences[task])["tasks"][task] if task in side.sentences else {}
            for side in sides
        ]
        first = next(filter(None, told))
        for metric in first["metrics"]:
            cells = [_spread(one["metrics"].get(metric) if one else None) for one in told]
            majority = f" (majority {first['majority'][metric]:.1f})"
            rows.append([f"{task} dev, {metric}{majority}", *cells, "measured"])
    return rows


def _beside(found: dict[str, Any]) -> str:
    """Chance and majority of the documents that the first run was scored on."""
    known = {key: found.get(key) for key in ("chance", "majority")}
    told = ", ".join(
        f"{key} {100 * value:.1f}" for key, value in known.items() if value is not None
    )
    return f" ({told})" if told else ""


def _accuracy(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    mark = "*" if found.get("at_chance") else ""
    return f"{100 * found['value']:.1f} ± {100 * found['stderr']:.1f}{mark}"


def _spread(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['mean']:.1f}" + (
        "" if found["deviation"] is None else f" ± {found['deviation']:.1f}"
    )


def difference_rows(compared: Sequence[Compared]) -> list[list[str]]:
    """Model, score, difference in hundredths, its interval, and what that says."""
    rows = []
    for one in compared:
        if one.found is None:
            rows.append([one.model, one.what, "-", "-", f"not comparable: {one.why}"])
            continue
        low, high = 100 * one.found.low, 100 * one.found.high
        told = "clear" if one.found.clear else "within chance"
        rows.append(
            [one.model, one.what, f"{100 * one.found.difference:+.1f}",
             f"{low:+.1f} to {high:+.1f}", told]
        )  # fmt: skip
    return rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same cells, separated by commas."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def write_comparison(
    path: Path, sides: Sequence[Side], compared: Sequence[Compared], where: dict[str, object]
) -> list[Path]:
    """Write ``path`` and, beside it, the same stem as .md and .csv; returns what was written."""
    names = [side.name for side in sides]
    header, rows = ["", *names, ""], rows_of(sides)
    apart = ["model", "score", f"less {names[0]}", "95 %", ""]
    found = difference_rows(compared)
    text = markdown(header, rows) + ("\n" + markdown(apart, found) if found else "")
    files = [path, path.with_suffix(".md"), path.with_suffix(".csv")]
    write_text(files[1], text)
    write_text(files[2], as_csv(header, rows))
    drawn = _draw(path.with_name(f"{path.stem}-pictures"), sides)
    sections = [Section("Side by side", header=header, rows=rows, text=READING)]
    if found:
        sections.append(Section("Differences", text=BOOTSTRAP, header=apart, rows=found))
    if drawn:
        sections.append(Section("Pictures", pictures=drawn))
    sections.append(Section("Measured where", rows=pairs(where)))
    lead = f"{', '.join(names)}: what their runs, evaluations and fine-tunings say."
    write_page(path, Page("Models side by side", lead, sections))
    return files


READING = (
    "Accuracies are in hundredths. Zero-shot scores have the standard error over their documents, "
    "and a star where they lie within two of it from chance; dev scores the deviation over seeds. "
    "Energies are estimated from counted events and 45 nm prices, never metered."
)
BOOTSTRAP = (
    "Each score less that of the first model on the same examples, in hundredths, with the middle "
    "95 % of a paired bootstrap over examples. It does not know what another seed of training "
    "would change: a clear difference of single runs is one of these weights, not of the methods."
)


def _draw(folder: Path, sides: Sequence[Side]) -> list[tuple[Path, str]]:
    drawn: list[tuple[Path, str]] = []
    curves = [
        loss_curve(side.name, side.folder)
        for side in sides
        if "tokens seen" in side.figures and (side.folder / "metrics.jsonl").is_file()
    ]
    if curves:
        pictures.loss_curves(folder / "loss.png", curves)
        drawn.append((folder / "loss.png", "Loss over the tokens seen (measured)."))
    tasks = list(dict.fromkeys(key for side in sides for key in side.zeroshot))
    tasks = [task for task in tasks if any("acc" in s.zeroshot[task]["metrics"]
             for s in sides if task in s.zeroshot)]  # fmt: skip
    if tasks:
        _zeroshot_bars(folder / "zeroshot.png", sides, tasks)
        drawn.append((folder / "zeroshot.png", "Zero-shot accuracy; a line marks chance."))
    return drawn


def _zeroshot_bars(path: Path, sides: Sequence[Side], tasks: Sequence[str]) -> None:
    thick = 0.8 / len(sides)
    with drawing(path, max(6.0, 1.1 * len(tasks) + 2), 4.0) as figure:
        axes = figure.subplots()
        for place, side in enumerate(sides):
            known = [(n, side.zeroshot[t]["metrics"]["acc"]) for n, t in enumerate(tasks)
                     if "acc" in side.zeroshot.get(t, {}).get("metrics", {})]  # fmt: skip
            axes.bar(
                [n + (place - (len(sides) - 1) / 2) * thick for n, _ in known],
                [found["value"] for _, found in known],
                thick * 0.9,
                yerr=[2 * found["stderr"] for _, found in known],
                color=CYCLE[place % len(CYCLE)],
                label=side.name,
            )
            for n, found in known:
                if found["chance"] is not None:
                    axes.hlines(found["chance"], n - 0.45, n + 0.45, color=GREY, linewidth=1)
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        axes.set_ylabel("accuracy, two standard errors")
        axes.grid(axis="x", visible=False)
        axes.legend()
