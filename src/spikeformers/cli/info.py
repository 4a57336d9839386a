"""``spikeformers info``: a model's architecture."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeformers.cli._options import Json


def info(
    model: Annotated[
        str,
        typer.Argument(help="Model folder, books, or the name of a preset.", show_default=False),
    ],
    as_json: Json = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Also list all weights with their shapes.")
    ] = False,
) -> None:
    """Show a model's shape, parameters, neuron, attention, and spike type at each point.

    A preset is described with the vocabulary size of its default config.

    JSON: model_type, class, parameters, shape, neuron (kind, spike_type, steps, levels, values,
    places, layers, detail), attention (kind, competition, winners, binary_weights, softmax_free,
    causal, detail), points (point, spike_type, values), tensors (name, shape, count, parameters).
    """
    from spikeformers.cli._output import print_json, print_tables, start
    from spikeformers.reporting.model_tables import model_tables
    from spikeformers.studies import describe

    start(verbose=False)
    described = describe(model)
    if as_json:
        print_json({"model": model, **described})
        return
    print_tables(model_tables(model, described, tensors=tensors))
