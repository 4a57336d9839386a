"""``spikeformers export``: write a model to a file that other programs run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json, Model


def engine(
    model: Model,
    out: Annotated[Path, typer.Option(help="File to write.", show_default=False)],
    weights: Annotated[
        str,
        typer.Option(
            help="Number format of the weights: int8 or int4 (one scale per channel), or fp32."
        ),
    ] = "int8",
    as_json: Json = False,
) -> None:
    """Pack a causal spiking model into one file for the event-driven engine.

    The file holds weights, config and tokenizer, and is memory-mapped, so that it opens at once.
    Compared with fp32, int8 is a quarter of the size and faster. int4 halves the size again, except
    for the output head, which stays int8. fp32 generates the same text as PyTorch.

    JSON: out, bytes, weights, parameters, model.
    """
    from spikeformers.cli._output import make_table, print_json, print_table, start
    from spikeformers.engine import write
    from spikeformers.export import pack
    from spikeformers.models import load_model
    from spikeformers.progress import Progress
    from spikeformers.storage import check_file

    start(verbose=False)
    check_file(out)
    loaded, tokenizer = load_model(model)
    with Progress() as progress:
        progress.stage("packing the weights")
        size = write(pack(loaded, tokenizer, weights), out)
    parameters = loaded.num_parameters()
    if as_json:
        figures = {"bytes": size, "weights": weights, "parameters": parameters}
        print_json({"out": str(out), **figures, "model": str(model)})
        return
    rows = [
        ("weights", weights),
        ("parameters", f"{parameters:,}"),
        ("bytes", f"{size:,}"),
        ("run it", f"spikeformers generate {shlex.quote(str(out))} --prompt ..."),
    ]
    print_table(make_table("", ("engine file", str(out)), rows))
