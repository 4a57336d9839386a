"""``spikeformers demo``: train, measure, generate and report in about five minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json
from spikeformers.values import LARGEST_SEED


def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, results and report.")] = Path(
        "runs/demo"
    ),
    minutes: Annotated[
        float,
        typer.Option(
            min=0.05, help="Approximate duration on two cores; scales the number of steps."
        ),
    ] = 5.0,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Random seed of weights and batches.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted demo; never start a new one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="First remove an earlier demo from --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show text of the packaged model, then train a tiny one and its dense twin, and report.

    First the model that comes with this package writes some text in the engine (not with --json).
    Then a tiny spiking model and its dense twin are trained on built-in text. Both see the same
    tokens in the same order; nothing is downloaded. The number of steps follows from --minutes
    alone, so results do not depend on the machine's speed. The engine then runs the spiking model,
    timed against PyTorch. After Ctrl-C, the same command continues from the last checkpoint.
    OUT/report.html shows the results.

    JSON (and summary.json): spiking and control, each with bits_per_byte, perplexity, parameters,
    tokens_seen, train_seconds, energy_pj_per_token (estimated), tokens_per_second (training),
    generation_tokens_per_second (PyTorch), sample; spiking also density, density_by_layer and
    weights_read (the share of weights that a token reads);
    engine (generation_tokens_per_second, weights, threads, kernels; or absent, the reason); corpus,
    machine, versions, seed, settings.
    """
    from spikeformers.cli._output import make_table, on_terminal, print_json, print_table, say

    with on_terminal() as callbacks:
        from spikeformers import runs

        if not as_json:
            callbacks["on_start"] = _show_packaged_text
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


def _show_packaged_text() -> None:
    """Print what the packaged model writes, or why it cannot."""
    from spikeformers.cli._output import say
    from spikeformers.errors import CheckpointError, EngineUnavailable
    from spikeformers.generation.packaged_text import packaged_text

    try:
        written = packaged_text()
    except (CheckpointError, EngineUnavailable) as error:
        say(f"The packaged model writes no text here: {error}")
        return
    print(f"The packaged model (books) continues {written.prompt!r}:\n{written.text.strip()}\n")
    print(
        f"{written.tokens_per_second:,.0f} tokens/s on one thread (measured); a token reads "
        f"{written.weights_read:.0%} of the weights (counted). "
        "Try it: spikeformers generate books --prompt ...\n",
        flush=True,
    )
