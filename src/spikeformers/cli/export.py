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


def nir(
    model: Model,
    out: Annotated[Path, typer.Option(help="New folder for the files.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write the parts of a spiking model that NIR can say, and list those that it cannot.

    NIR is the format in which snnTorch, Norse, SpikingJelly, Lava and others exchange networks:
    linear maps, convolutions, and neurons that reset to a value. Each file holds one sequence of
    modules, such as an MLP or the convolutional stem of a vision model; integer neurons become
    binary units. Attention, norms and embeddings have no node in NIR. Needs pip install nir.

    JSON: out, model, parameters, written, dt, modules (module, kind, file, reason).
    """
    from spikeformers.cli._output import make_table, print_json, print_table, start
    from spikeformers.export import export_nir
    from spikeformers.models.loading import load_weights

    start(verbose=False)
    coverage = export_nir(load_weights(model), out)
    if as_json:
        print_json({"out": str(out), "model": str(model), **coverage.as_dict()})
        return
    rows = [(row.module, row.file or f"not written: {row.reason}") for row in coverage.rows]
    print_table(make_table("", ("module", "file"), rows))
    share = coverage.written / coverage.parameters
    files = len({row.file for row in coverage.rows if row.file})
    facts = [
        ("files", f"{files}, in {out}"),
        ("parameters written", f"{coverage.written:,} of {coverage.parameters:,} ({share:.0%})"),
        ("simulation step", f"dt = {coverage.as_dict()['dt']:g} s"),
    ]
    print_table(make_table("", ("NIR", ""), facts))
