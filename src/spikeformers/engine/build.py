"""From a description to the native program: names become buffers and tensors, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeformers.engine.details import layers_of
from spikeformers.errors import CheckpointError
from spikeformers.kernels import native

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spikeformers.kernels._native import Program

STEPS = (
    *("embed", "fire", "norm", "linear", "attend", "add", "shift", "select", "finish"),
    *("join", "recount", "rate", "edges"),
    "encode",
    *("pair", "activate", "soft_cap", "multiply", "scale", "rotate", "group_norm", "mix"),
)
BUFFERS = ("input", "out", "to", "query", "key", "value", "logits")
MATRICES = {"table": "table", "weight": "weights"}
"""Fields that name a matrix, and the native step's name for it; integer ones have a scale."""
VECTORS = ("bias", "positions", "scale", "threshold", "spike", "frequency", "gain")


@dataclass(frozen=True)
class Built:
    """The native program of a description, and its buffers by name."""

    program: Program
    buffers: dict[str, int]


def build(
    description: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    path: str,
    threads: int,
    half: bool = False,
) -> Built:
    """Hand a description (as plain values) to the native program.

    ``half`` keeps keys and values that are reals in two bytes instead of four.

    Raises CheckpointError where it is malformed or does not fit its tensors.
    """
    try:
        return _build(description, tensors, path, threads, half)
    except (
        *(KeyError, TypeError, ValueError, OverflowError, AttributeError),
        *(MemoryError, RuntimeError),
    ) as error:
        raise CheckpointError(f"the engine cannot run this description: {error!r}.") from error


def _build(
    description: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    path: str,
    threads: int,
    half: bool,
) -> Built:
    program = native().Program(path, threads, description["steps"], description["vocabulary"])
    ids: dict[str, int] = {}
    for buffer in description["buffers"]:
        if "neuron" in buffer:
            ids[buffer["name"]] = program.spikes(buffer["width"], **buffer["neuron"])
        elif "counts" in buffer:
            ids[buffer["name"]] = program.counts(buffer["width"])
        else:
            ids[buffer["name"]] = program.real(buffer["width"])
    layer = -1
    operations = description["operations"]
    for step, number in zip(operations, layers_of(operations), strict=True):
        if number != layer:
            program.layer(number)
            layer = number
        name, given = step["op"], {key: value for key, value in step.items() if key != "op"}
        if name not in STEPS:
            raise ValueError(f"unknown step {name!r}")
        if name == "mix":
            given["half"] = half
        getattr(program, name)(**_arguments(name, given, ids, tensors))
    if not program.finished:
        raise ValueError("it names no logits: its last step must be finish")
    return Built(program, ids)


def _arguments(
    name: str,
    given: Mapping[str, Any],
    ids: Mapping[str, int],
    tensors: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    """The arguments of the native step of that name: ids for buffers, arrays for tensors."""
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        if key in BUFFERS:
            arguments[key] = ids[value]
        elif key in MATRICES and name in ("embed", "linear"):
            matrix, grouped = tensors[value], f"{value}.minimum" in tensors
            arguments[MATRICES[key]] = matrix
            whole = matrix.dtype != np.float32 and not grouped
            arguments["scale"] = tensors[f"{value}.scale"] if whole else None
            if name == "linear":
                arguments["group_scale"] = tensors[f"{value}.scale"] if grouped else None
                arguments["minimum"] = tensors[f"{value}.minimum"] if grouped else None
        elif key in VECTORS:
            arguments[key] = None if value is None else tensors[value]
        elif key == "norm":
            arguments |= {"kind": value["kind"], "eps": value["eps"]}
            for own, argument in (("weight", "gain"), ("bias", "shift")):
                arguments[argument] = None if value[own] is None else tensors[value[own]]
        elif key == "neuron":
            arguments |= value
        else:
            arguments[key] = value
    return arguments
