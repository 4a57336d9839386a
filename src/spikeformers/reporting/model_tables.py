"""Tables of a model's architecture, from `spikeformers.studies.description`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spikeformers.reporting.tables import Table


def model_tables(name: str, described: Mapping[str, Any], *, tensors: bool = False) -> list[Table]:
    """Shape, the values at each point of a block and, with ``tensors``, all weights."""
    shape = [(key, f"{value:,}") for key, value in described["shape"].items() if value is not None]
    rows = [
        ("class", described["class"]),
        ("parameters", f"{described['parameters']:,}"),
        *shape,
        ("neuron", _neuron(described["neuron"])),
        *(described["neuron"] or {"places": {}})["places"].items(),
        ("attention", _attention(described["attention"])),
    ]
    points = [(row["point"], row["spike_type"], row["values"]) for row in described["points"]]
    tables = [
        Table(name, ("", described["model_type"]), rows),
        Table("Values in every block", ("point", "spikes", "values"), points),
    ]
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
        tables.append(Table("Weights", ("name", "shape", "times", "parameters"), weights))
    return tables


def _neuron(neuron: Mapping[str, Any] | None) -> str:
    if not neuron:
        return "none: a dense model"
    if neuron.get("by_place"):
        return f"by place, {neuron['layers']} layers"
    steps = f"{neuron['steps']}x{neuron['levels']} (T x D)"
    return f"{neuron['kind']}, {steps}, {neuron['layers']} layers"


def _attention(attention: Mapping[str, Any] | None) -> str:
    if not attention:
        return "softmax"
    winners = {None: "", 1: ", 1 winner per query"}
    count = winners.get(attention["winners"], f", {attention['winners']} winners per query")
    competition = f", {attention['competition']}" if attention["competition"] else ""
    return f"{attention['kind']}{competition}{count}{', causal' if attention['causal'] else ''}"
