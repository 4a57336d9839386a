"""``spikeformers compare``: models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spikeformers.cli._options import Json, Split, TextField


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders; the first is compared with.", metavar="RUN..."),
    ],
    out: Annotated[Path, typer.Option(help="The page; .md and .csv are written beside it.")] = Path(
        "report.html"
    ),
    names: Annotated[
        str, typer.Option(help="What to call them, by commas.", show_default="their folders")
    ] = "",
    data: Annotated[
        str,
        typer.Option(help="Text to measure quality, density, energy and speed on, now."),
    ] = "",
    split: Split = "validation",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of that text.")] = 4096,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Runs side by side: quality, density, energy, speed, size, zero-shot and fine-tuned scores.

    Scores come from RUN/evaluations (evaluate zeroshot, without --limit) and from results of
    finetune in RUN. With --data, quality, density, energy and speed are measured now, on the same
    text for all; energies are estimates. Differences from the first run have the 95 % interval of
    a paired bootstrap over the same examples.

    JSON: models (name, folder, figures), rows (the table's cells), differences (what, model,
    difference, low, high, clear, or why there is none), files.
    """
    from spikeformers.cli._output import make_table, print_json, print_table, say, start
    from spikeformers.errors import UsageError
    from spikeformers.evaluation.provenance import software_record
    from spikeformers.reporting.compare import differences, read_side
    from spikeformers.reporting.compare_page import difference_rows, rows_of, write_comparison
    from spikeformers.reporting.machine import machine
    from spikeformers.storage import check_file

    start(verbose=False)
    called = [name.strip() for name in names.split(",")] if names else [_short(r) for r in runs]
    if len(runs) < 2:
        raise UsageError("compare takes at least two runs.")
    if len(called) != len(runs):
        raise UsageError(f"--names has {len(called)} names for {len(runs)} runs.")
    if len(set(called)) < len(called):
        called = [str(run) for run in runs]
        if names or len(set(called)) < len(called):
            raise UsageError("two runs have one name; tell them apart with --names.")
    if out.suffix != ".html":
        raise UsageError(f"--out {out} must end in .html.")
    check_file(out)
    sides = [read_side(run, name) for run, name in zip(runs, called, strict=True)]
    where: dict[str, object] = {**machine(), **software_record()["versions"]}
    if data:
        where |= _measure(sides, data, split, tokens, text_field)
    found = differences(sides)
    files = write_comparison(out, sides, found, where)
    if as_json:
        print_json(
            {
                "models": [
                    {"name": side.name, "folder": str(side.folder), "figures": side.figures}
                    for side in sides
                ],
                "rows": rows_of(sides),
                "differences": [
                    {"what": one.what, "model": one.model, "why": one.why}
                    | ({} if one.found is None else one.found.as_dict())
                    for one in found
                ],
                "files": [str(file) for file in files],
            }
        )
        return
    rows = rows_of(sides)
    print_table(make_table("Side by side", ("", *called, ""), rows))
    if any(cell.endswith("*") for row in rows for cell in row):
        say("* within two standard errors of chance")
    if found:
        columns = ("model", "score", f"less {called[0]}", "95 %", "")
        print_table(make_table("Differences, paired bootstrap", columns, difference_rows(found)))
    if not data:
        say("--data TEXT measures quality, density, energy and speed as well", "dim")
    say(f"written: {', '.join(map(str, files))}")


def _short(run: Path) -> str:
    return run.resolve().name


def _measure(
    sides: list[Any], data: str, split: str, tokens: int, text_field: str
) -> dict[str, object]:
    from spikeformers.cli._output import tokenize
    from spikeformers.data import load_corpus
    from spikeformers.models import load_model
    from spikeformers.progress import Progress
    from spikeformers.reporting.compare import measure_sides

    corpus = load_corpus(data, text_field=text_field)
    models = {side.name: load_model(side.folder) for side in sides}
    splits = {
        name: tokenize(corpus, tokenizer).split(split) for name, (_, tokenizer) in models.items()
    }
    with Progress() as progress:
        measure_sides(sides, models, splits, tokens, progress)
    return {"text": f"{corpus.name}, {split}, {tokens:,} tokens", "sha256": corpus.digest}
