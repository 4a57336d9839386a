"""``spikeformers demo``: the whole path in about five minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json
from spikeformers.values import LARGEST_SEED


def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, numbers and report.")] = Path(
        "runs/demo"
    ),
    minutes: Annotated[
        float,
        typer.Option(min=0.05, help="About how long on two cores: scales the number of steps."),
    ] = 5.0,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of weights and batches.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted demo only.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove what a demo left in --out first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a tiny spiking model and its dense twin on text at hand, and report on both.

    Both see the same tokens of the built-in corpus in the same order; nothing is downloaded. The
    number of steps is fixed by --minutes, so a result does not depend on how fast the machine
    is. The engine then runs the spiking model beside PyTorch. Ctrl-C leaves checkpoints; the same
    command continues from there. See report.html in the folder.

    JSON (and summary.json): spiking and control, each with bits_per_byte, perplexity, parameters,
    tokens_seen, train_seconds, energy_pj_per_token (estimated), tokens_per_second (training),
    generation_tokens_per_second (PyTorch), sample; spiking also density and density_by_layer;
    engine (generation_tokens_per_second, weights, threads, kernels; or absent, the reason); corpus,
    machine, versions, seed, settings.
    """
    from spikeformers.cli._output import make_table, on_terminal, print_json, print_table, say

    with on_terminal() as callbacks:
        from spikeformers import runs

        summary = runs.demo(
            out, minutes=minutes, seed=seed, resume=resume, overwrite=overwrite, **callbacks
        )
    if summary is None:
        say(f"Stopped; the same command with --out {shlex.quote(str(out))} continues.")
        raise typer.Exit(130)
    if as_json:
        print_json(summary)
        return
    from spikeformers.reporting import engine_note, pair_rows
    from spikeformers.studies import by_point, outside_blocks

    columns = ("", "spiking", "dense twin", "")
    print_table(make_table("Spiking model and dense twin", columns, pair_rows(summary)))
    print(f"{engine_note(summary)}\n")
    density = summary["spiking"]["density_by_layer"]
    points = by_point(density)
    blocks = range(max(map(len, points.values()), default=0))
    rows = [
        (str(b + 1), *("-" if v[b] is None else f"{v[b]:.3f}" for v in points.values()))
        for b in blocks
    ]
    rows += [
        (place, f"{value:.3f}", *[""] * (len(points) - 1))
        for place, value in outside_blocks(density).items()
    ]
    print_table(make_table("Firing density by layer (measured)", ("block", *points), rows))
    for part, name in (("spiking", "spiking model"), ("control", "dense twin")):
        print(f"The {name} continues {summary['prompt']!r}:")
        print(f"{summary[part]['sample'].strip()}\n")
    corpus = summary["corpus"]
    print(f"text    {corpus['name']}, sha256 {corpus['sha256']}")
    print(f"report  {out / 'report.html'}")
    print(f"models  {out / 'spiking'}  {out / 'control'}")
    if (file := out / "spiking.engine").is_file():
        print(f"engine  spikeformers generate {file} --prompt {summary['prompt']!r}")
