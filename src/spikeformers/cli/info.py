"""``spikeformers info``: what a model is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def info(
    model: Annotated[str, typer.Argument(help="Model folder, or a preset.", show_default=False)],
    as_json: Json = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List the weights with their shapes too.")
    ] = False,
) -> None:
    """Shapes, parameters, neuron, attention, and the spike type at each point of a model.

    A preset is described at the vocabulary of its default config.

    JSON: model_type, class, parameters, shape, neuron (kind, spike_type, steps, levels, values,
    layers, detail), attention (kind, competition, winners, binary_weights, softmax_free, causal,
    detail), points (point, spike_type, values), tensors (name, shape, count, parameters).
    """
    from spikeformers.cli._output import make_table, print_json, print_table, start
    from spikeformers.reporting import describe

    start(verbose=False)
    described = describe(_open(model))
    if as_json:
        print_json({"model": model, **described})
        return
    shape = [(key, f"{value:,}") for key, value in described["shape"].items() if value is not None]
    rows = [("class", described["class"]), ("parameters", f"{described['parameters']:,}"), *shape]
    for part in ("neuron", "attention"):
        told = described[part]
        rows.append((part, "none: a dense model" if part == "neuron" else "softmax"))
        if told:
            rows[-1] = (part, _in_words(part, told))
    print_table(make_table(model, ("", described["model_type"]), rows))
    points = [(row["point"], row["spike_type"], row["values"]) for row in described["points"]]
    print_table(make_table("What flows, in every block", ("point", "spikes", "values"), points))
    if tensors:
        weights = [
            (
                row["name"],
                " x ".join(map(str, row["shape"])) or "1",
                str(row["count"]),
                f"{row['parameters']:,}",
            )
            for row in described["tensors"]
        ]
        print_table(make_table("Weights", ("name", "shape", "times", "parameters"), weights))


def _in_words(part: str, told: dict[str, Any]) -> str:
    if part == "neuron":
        return f"{told['kind']}, {told['steps']}x{told['levels']} (T x D), {told['layers']} layers"
    winners = {None: "", 1: ", 1 winner a query"}
    count = winners.get(told["winners"], f", {told['winners']} winners a query")
    competition = f", {told['competition']}" if told["competition"] else ""
    return f"{told['kind']}{competition}{count}{', causal' if told['causal'] else ''}"


def _open(model: str) -> PreTrainedModel:
    """The model of a folder; a preset without its weights' memory."""
    from pathlib import Path

    import torch

    from spikeformers.errors import CheckpointError, nearest
    from spikeformers.models import (
        PRESETS,
        VISION_PRESETS,
        build_config,
        build_model,
        build_vision_config,
    )
    from spikeformers.models.loading import load_weights
    from spikeformers.models.wd_spikingformer import WDSpikingformerConfig

    known = [*PRESETS, *VISION_PRESETS]
    with torch.device("meta"):
        if model in PRESETS:
            return build_model(build_config(model, WDSpikingformerConfig().vocab_size))
        if model in VISION_PRESETS:
            return build_model(build_vision_config(model))
    if not Path(model).exists():
        raise CheckpointError(
            f"{model} is neither a model folder nor a preset ({', '.join(known)})."
            f"{nearest(model, known)}"
        )
    return load_weights(Path(model))
