"""The report of a comparison: an HTML page, and Markdown and CSV of the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spikeformers.reporting import pictures
from spikeformers.reporting._style import CYCLE, GREY, drawing
from spikeformers.reporting.engine_section import engine_section
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.reporting.tables import Table, as_csv, markdown
from spikeformers.storage import write_text
from spikeformers.studies.comparison import Compared, Comparison, RunFigures

FORMS = {
    "parameters": "{:,.0f}",
    **{f"{unit}s seen": "{:,.0f}" for unit in ("token", "image")},
    **{f"training {unit}s/s": "{:,.0f}" for unit in ("token", "image")},
    "writing tokens/s": "{:,.0f}",
    "nJ/token": "{:,.1f}",
    "nJ/token with elementwise": "{:,.1f}",
}
ESTIMATED = ("nJ/token", "nJ/token with elementwise")


def rows_of(runs: Sequence[RunFigures]) -> list[list[str]]:
    """One line per figure: its name, each run's cell, and measured or estimated."""
    rows = []
    for title in dict.fromkeys(key for run in runs for key in run.figures):
        cells = [
            FORMS.get(title, "{:.3f}").format(run.figures[title]) if title in run.figures else "-"
            for run in runs
        ]
        counted = title in ("parameters", "tokens seen", "images seen")
        kind = "estimated" if title in ESTIMATED else "" if counted else "measured"
        rows.append([title, *cells, kind])
    for task in dict.fromkeys(key for run in runs for key in run.zeroshot):
        for metric in ("acc", "acc_norm"):
            scores = [run.zeroshot.get(task, {}).get("metrics", {}).get(metric) for run in runs]
            if any(scores):
                name = f"{task}, {metric}{_beside(next(filter(None, scores)))}"
                rows.append([name, *map(_accuracy, scores), "measured"])
    for task in dict.fromkeys(key for run in runs for key in run.sentences):
        summaries = [run.fine_tuned(task) for run in runs]
        first = next(filter(None, summaries))
        for metric in first["metrics"]:
            cells = [_spread(summary.get("metrics", {}).get(metric)) for summary in summaries]
            majority = f" (majority {first['majority'][metric]:.1f})"
            rows.append([f"{task} dev, {metric}{majority}", *cells, "measured"])
    return rows


def _beside(score: dict[str, Any]) -> str:
    """Chance and majority of the documents that the first run was scored on."""
    shares = {key: score.get(key) for key in ("chance", "majority")}
    listed = ", ".join(f"{key} {100 * x:.1f}" for key, x in shares.items() if x is not None)
    return f" ({listed})" if listed else ""


def _accuracy(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    mark = "*" if score.get("at_chance") else ""
    return f"{100 * score['value']:.1f} ± {100 * score['stderr']:.1f}{mark}"


def _spread(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return "-"
    deviation = metric["deviation"]
    return f"{metric['mean']:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def difference_rows(differences: Sequence[Compared]) -> list[list[str]]:
    """Model, score, difference in percentage points, its interval, and a verdict."""
    rows = []
    for compared in differences:
        difference = compared.difference
        if difference is None:
            verdict = f"not comparable: {compared.why}"
            rows.append([compared.model, compared.score, "-", "-", verdict])
            continue
        low, high = 100 * difference.low, 100 * difference.high
        verdict = "clear" if difference.clear else "within chance"
        rows.append(
            [compared.model, compared.score, f"{100 * difference.difference:+.1f}",
             f"{low:+.1f} to {high:+.1f}", verdict]
        )  # fmt: skip
    return rows


def comparison_tables(comparison: Comparison) -> list[Table]:
    """All figures side by side and, where there are any, the differences from the first run."""
    runs = comparison.runs
    names = [run.name for run in runs]
    tables = [Table("Side by side", ["", *names, ""], rows_of(runs))]
    if comparison.differences:
        columns = ["model", "score", f"minus {names[0]}", "95 %", ""]
        rows = difference_rows(comparison.differences)
        tables.append(Table("Differences, paired bootstrap", columns, rows))
    return tables


def write_comparison(path: Path, comparison: Comparison) -> list[Path]:
    """Write ``path`` and, beside it, the same stem as .md and .csv; returns what was written."""
    tables = comparison_tables(comparison)
    figures = tables[0]
    files = [path, path.with_suffix(".md"), path.with_suffix(".csv")]
    write_text(files[1], "\n".join(markdown(table.columns, table.rows) for table in tables))
    write_text(files[2], as_csv(figures.columns, figures.rows))
    drawn = _draw(path.with_name(f"{path.stem}-pictures"), comparison)
    texts = (READING, BOOTSTRAP)[: len(tables)]
    sections = [Section.of(table, text) for table, text in zip(tables, texts, strict=True)]
    sections[0].title = "Results"
    if drawn:
        sections.append(Section("Pictures", pictures=drawn))
    if engine := engine_section(run.folder for run in comparison.runs):
        sections.append(engine)
    sections.append(Section("Machine and versions", rows=pairs(comparison.where)))
    names = ", ".join(run.name for run in comparison.runs)
    lead = f"{names}: results of their training runs, evaluations and fine-tuning."
    write_page(path, Page("Models side by side", lead, sections))
    return files


READING = (
    "Accuracies are in percent. Zero-shot scores come with the standard error over their "
    "documents, and a star if they lie within two standard errors of chance; dev scores come with "
    "the standard deviation over seeds. "
    "Energies are estimated from counted events and 45 nm prices, never metered."
)
BOOTSTRAP = (
    "Each score minus that of the first model on the same examples, in percentage points, with the "
    "95 % interval of a paired bootstrap over examples. The interval does not cover variation "
    "between training seeds: a clear difference of single runs holds for these weights, not for "
    "the methods."
)


def _draw(folder: Path, comparison: Comparison) -> list[tuple[Path, str]]:
    drawn: list[tuple[Path, str]] = []
    runs = comparison.runs
    if comparison.curves:
        pictures.loss_curves(folder / "loss.png", comparison.curves)
        drawn.append((folder / "loss.png", "Loss over the tokens seen (measured)."))
    tasks = list(dict.fromkeys(key for run in runs for key in run.zeroshot))
    tasks = [task for task in tasks if any("acc" in s.zeroshot[task]["metrics"]
             for s in runs if task in s.zeroshot)]  # fmt: skip
    if tasks:
        _zeroshot_bars(folder / "zeroshot.png", runs, tasks)
        drawn.append((folder / "zeroshot.png", "Zero-shot accuracy; a line marks chance."))
    return drawn


def _zeroshot_bars(path: Path, runs: Sequence[RunFigures], tasks: Sequence[str]) -> None:
    thick = 0.8 / len(runs)
    with drawing(path, max(6.0, 1.1 * len(tasks) + 2), 4.0) as figure:
        axes = figure.subplots()
        for place, run in enumerate(runs):
            scores = [(n, run.zeroshot[t]["metrics"]["acc"]) for n, t in enumerate(tasks)
                     if "acc" in run.zeroshot.get(t, {}).get("metrics", {})]  # fmt: skip
            axes.bar(
                [n + (place - (len(runs) - 1) / 2) * thick for n, _ in scores],
                [score["value"] for _, score in scores],
                thick * 0.9,
                yerr=[2 * score["stderr"] for _, score in scores],
                color=CYCLE[place % len(CYCLE)],
                label=run.name,
            )
            for n, score in scores:
                if score["chance"] is not None:
                    axes.hlines(score["chance"], n - 0.45, n + 0.45, color=GREY, linewidth=1)
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        axes.set_ylabel("accuracy, two standard errors")
        axes.grid(axis="x", visible=False)
        axes.legend()
