"""An architecture as the engine knows it: buffers, and steps over shared kernels between them.

    x = Description(vocabulary=50257)
    x.real("x", 768); x.spikes("s", 768, NeuronSpec("integer", levels=16, unit=1 / 16))
    x.embed("x", table="head"); x.fire("x", "s", norm=...); x.linear("s", "y", weight="up"); ...

It is data: `spikeformers.export` writes one for a model, the engine file carries it as JSON, and
`build` hands it to the native program, which checks every shape. A new architecture is a new
description, not a new engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeformers.errors import CheckpointError
from spikeformers.kernels import native

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spikeformers.kernels._native import Program


@dataclass(frozen=True)
class NeuronSpec:
    """One neuron layer; `spikeformers.neurons` has the equations."""

    type: str
    """binary, integer or ternary."""
    levels: int = 1
    unit: float = 1.0
    """Value of one spike; a ternary neuron's amplitude."""
    decay: float = 0.0
    threshold: float = 1.0
    ratio: float = 0.5
    reset: str = "soft"


@dataclass(frozen=True)
class NormSpec:
    """A norm by kind ("none", "layer", "rms") and the names of its tensors."""

    kind: str = "none"
    weight: str | None = None
    bias: str | None = None
    eps: float = 1e-5


@dataclass
class Description:
    """Steps in order; each method adds one. Names are those of buffers and of tensors."""

    vocabulary: int
    steps: int = 1
    """Simulation steps S."""
    buffers: list[dict[str, Any]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)

    def real(self, name: str, width: int) -> None:
        """Declare a buffer of reals."""
        self.buffers.append({"name": name, "width": width})

    def spikes(self, name: str, width: int, neuron: NeuronSpec) -> None:
        """Declare a buffer of counts, as ``neuron`` emits them."""
        self.buffers.append({"name": name, "width": width, "neuron": asdict(neuron)})

    def embed(self, out: str, table: str, by_column: bool, positions: str | None = None) -> None:
        """Rows of ``table``, or columns where it is the head's matrix, plus learned positions."""
        self._add("embed", out=out, table=table, by_column=by_column, positions=positions)

    def fire(self, input: str, out: str, norm: NormSpec, offset: int = 0) -> None:
        """Norm, then the neuron of ``out``; reads from ``offset`` of each row."""
        self._add("fire", input=input, out=out, offset=offset, norm=asdict(norm))

    def norm(self, input: str, out: str, norm: NormSpec) -> None:
        """A norm that no neuron follows."""
        self._add("norm", input=input, out=out, offset=0, norm=asdict(norm))

    def linear(self, input: str, out: str, weight: str, bias: str | None = None) -> None:
        """A product with a matrix stored input-major, ``[in, out]``."""
        self._add("linear", input=input, out=out, weight=weight, bias=bias)

    def attend(
        self,
        query: str,
        key: str,
        value: str,
        out: str,
        *,
        heads: int,
        rule: str,
        scale: str,
        winners: int = 1,
        weight: float = 1.0,
        bias: str | None = None,
    ) -> None:
        """Causal attention over a cache; ``rule``: winners, sparsemax, softmax or ssa."""
        self._add(
            "attend",
            **{"query": query, "key": key, "value": value, "out": out, "heads": heads},
            **{"rule": rule, "winners": winners, "weight": weight, "scale": scale, "bias": bias},
        )

    def add(self, input: str, to: str) -> None:
        """A residual."""
        self._add("add", input=input, to=to)

    def select(self, input: str, out: str) -> None:
        """Rows whose logits are wanted, averaged over simulation steps."""
        self._add("select", input=input, out=out)

    def finish(self, logits: str) -> None:
        """Name the logits; the last step."""
        self._add("finish", logits=logits)

    def _add(self, operation: str, **given: Any) -> None:
        self.operations.append({"op": operation, **given})


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
) -> Built:
    """Hand a description (as plain values) to the native program.

    Raises CheckpointError where it is malformed or does not fit its tensors.
    """
    try:
        return _build(description, tensors, path, threads)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"the engine cannot run this description: {error!r}.") from error


def _build(
    description: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: str, threads: int
) -> Built:
    program = native().Program(path, threads, description["steps"], description["vocabulary"])
    ids: dict[str, int] = {}
    for buffer in description["buffers"]:
        if "neuron" in buffer:
            ids[buffer["name"]] = program.spikes(buffer["width"], **buffer["neuron"])
        else:
            ids[buffer["name"]] = program.real(buffer["width"])

    def tensor(name: str | None) -> NDArray[Any] | None:
        return None if name is None else tensors[name]

    def matrix(name: str) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        found = tensors[name]
        return found, None if found.dtype == np.float32 else tensors[f"{name}.scale"]

    def norm(given: Mapping[str, Any]) -> tuple[Any, ...]:
        weight, bias = tensor(given["weight"]), tensor(given["bias"])
        return given["kind"], weight, bias, given["eps"]

    for given in description["operations"]:
        op = given["op"]
        if op == "embed":
            table, scale = matrix(given["table"])
            positions = tensor(given["positions"])
            program.embed(ids[given["out"]], table, scale, given["by_column"], positions)
        elif op in ("fire", "norm"):
            run = program.fire if op == "fire" else program.norm
            run(ids[given["input"]], ids[given["out"]], given["offset"], *norm(given["norm"]))
        elif op == "linear":
            weights, scale = matrix(given["weight"])
            program.linear(
                ids[given["input"]], ids[given["out"]], weights, scale, tensor(given["bias"])
            )
        elif op == "attend":
            program.attend(
                *(ids[given[name]] for name in ("query", "key", "value", "out")),
                *(given[name] for name in ("heads", "rule", "winners", "weight")),
                tensors[given["scale"]],
                tensor(given["bias"]),
            )
        elif op == "add":
            program.add(ids[given["input"]], ids[given["to"]])
        elif op == "select":
            program.select(ids[given["input"]], ids[given["out"]])
        elif op == "finish":
            program.finish(ids[given["logits"]])
        else:
            raise ValueError(f"unknown step {op!r}")
    return Built(program, ids)
