"""What a trace holds: operands, matrix products, elementwise operations.

A *count* is the value of a spike in units of one spike: 1 for binary and ternary spikes, 0..D for
integer ones. It costs as many accumulates as it counts, because it unrolls into that many spikes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["binary", "ternary", "integer", "real"]
Role = Literal["linear", "scores", "values", "state", "read"]

COMPONENTS = (
    "attention projections",
    "attention scores and values",
    "mlp",
    "head",
    "embedding",
    "norms",
    "neurons",
    "residual",
    "activations",
    "other",
)
_KINDS: tuple[Kind, ...] = ("binary", "ternary", "integer", "real")


class Synapses(NamedTuple):
    """Connections of a linear map or convolution in one forward pass, as NeuroBench counts."""

    spiking: bool
    """Its input is spikes."""
    effective: int
    """Events at the input (real values that are not zero) times weights that are not zero."""
    dense: int
    """All values of the input times all weights, without a convolution's padding."""


@dataclass
class Operand:
    """One side of a product, or the output of a neuron: how many values, how many spikes."""

    kind: Kind
    size: int
    nonzero: int
    total: int
    """Sum of the counts; 0 for real operands."""

    @property
    def is_spikes(self) -> bool:
        """Binary, ternary or integer."""
        return self.kind != "real"

    @property
    def density(self) -> float:
        """Share of values that are not zero."""
        return self.nonzero / self.size if self.size else 0.0

    @property
    def mean_count(self) -> float:
        """Mean count of a value; with S steps, the mean over steps."""
        return self.total / self.size if self.size else 0.0

    def merge(self, other: Operand) -> None:
        """Add what another forward pass saw in the same place."""
        self.kind = max(self.kind, other.kind, key=_KINDS.index)
        self.size += other.size
        self.nonzero += other.nonzero
        self.total += other.total

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        real = not self.is_spikes
        return {
            "kind": self.kind,
            "density": self.density,
            "mean_count": None if real else self.mean_count,
        }


@dataclass
class Product:
    """A matrix product ``left @ right`` of the forward pass.

    ``macs`` are those that a dense model would do in its place: allowed (query, key) pairs only,
    no padding, every simulation step. ``sop`` are the accumulates that spikes leave of them; 0
    where neither side is spikes.
    """

    name: str
    role: Role
    component: str
    layer: int | None
    left: Operand
    right: Operand
    macs: int
    sop: int

    @property
    def spiking(self) -> bool:
        """At least one side is spikes."""
        return self.left.is_spikes or self.right.is_spikes

    @property
    def density(self) -> float:
        """Share of non-zeros among the neurons' spikes that enter; 1 for a dense product."""
        sides = {
            "scores": [self.left, self.right],
            "values": [self.right],
            "state": [self.left, self.right],
        }
        of_role = sides.get(self.role, [self.left])
        entering = [side.density for side in of_role if side.is_spikes]
        return sum(entering) / len(entering) if entering else 1.0

    def merge(self, other: Product) -> None:
        """Add another run of the same product."""
        self.left.merge(other.left)
        self.right.merge(other.right)
        self.macs += other.macs
        self.sop += other.sop


@dataclass
class Trace:
    """Everything counted in one or more forward passes."""

    tokens: int = 0
    synapses: list[Synapses] = field(default_factory=list)
    products: dict[str, Product] = field(default_factory=dict)
    operations: dict[tuple[str, int | None], Counter[str]] = field(default_factory=dict)
    """Elementwise operations by (component, layer)."""
    neurons: dict[str, Operand] = field(default_factory=dict)

    def add_product(self, product: Product) -> None:
        """Count ``product``; one of the same name is merged."""
        known = self.products.get(product.name)
        if known is None:
            self.products[product.name] = product
        else:
            known.merge(product)

    def add_neuron(self, name: str, spikes: Operand) -> None:
        """Count the spikes of the neuron layer ``name``."""
        if name in self.neurons:
            self.neurons[name].merge(spikes)
        else:
            self.neurons[name] = spikes

    def add_operations(self, component: str, layer: int | None, **counts: int) -> None:
        """Count elementwise operations by kind: add, mult, compare, function, lookup ..."""
        kept = {kind: n for kind, n in counts.items() if n}
        if kept:
            self.operations.setdefault((component, layer), Counter()).update(kept)
