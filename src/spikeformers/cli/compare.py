"""``spikeformers compare``: models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json, Split, TextField


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders; the others are compared with the first.", metavar="RUN..."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="HTML page to write; .md and .csv files go beside it.")
    ] = Path("report.html"),
    names: Annotated[
        str,
        typer.Option(
            help="Names of the runs in the tables, comma-separated.", show_default="folder names"
        ),
    ] = "",
    data: Annotated[
        str,
        typer.Option(help="Text on which to measure quality, density, energy and speed now."),
    ] = "",
    split: Split = "validation",
    tokens: Annotated[
        int, typer.Option(min=1, help="Number of tokens of --data to run on.")
    ] = 4096,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Compare runs: quality, density, energy, speed, size, zero-shot and fine-tuned scores.

    Scores come from RUN/evaluations (written by evaluate zeroshot without --limit) and from the
    results of finetune in RUN. With --data, quality, density, energy and speed are measured now, on
    the same text for all runs; energies are estimates. Differences from the first run come with the
    95 % interval of a paired bootstrap over the same examples.

    JSON: models (name, folder, figures), rows (the table's cells), differences (what, model,
    difference, low, high, clear, or why there is none), files.
    """
    from spikeformers.cli._output import print_json, print_tables, say, start
    from spikeformers.errors import UsageError
    from spikeformers.progress import Progress
    from spikeformers.reporting.compare_page import comparison_tables, write_comparison
    from spikeformers.storage import check_file
    from spikeformers.studies import UNITS
    from spikeformers.studies import compare as compare_runs

    start(verbose=False)
    if out.suffix != ".html":
        raise UsageError(f"--out {out} must end in .html.")
    check_file(out)
    titles = [name.strip() for name in names.split(",")] if names else []
    with Progress(units=UNITS) as progress:
        comparison = compare_runs(
            runs, names=titles, data=data, split=split, tokens=tokens, text_field=text_field,
            progress=progress,
        )  # fmt: skip
    files = [str(file) for file in write_comparison(out, comparison)]
    tables = comparison_tables(comparison)
    if as_json:
        print_json({**comparison.as_dict(), "rows": tables[0].rows, "files": files})
        return
    print_tables(tables)
    if any(cell.endswith("*") for row in tables[0].rows for cell in row):
        say("* within two standard errors of chance")
    if not data:
        say("add --data TEXT to measure quality, density, energy and speed as well", "dim")
    say(f"written: {', '.join(files)}")
