"""The records of a trace: operands, matrix products, elementwise operations.

A *count* is the value of a spike in units of one spike: 1 for binary and ternary spikes, up to D
for integer ones. Of a negative count the size is meant: a subtraction costs what an addition does.

An integer count has two prices. In a rate code it is c binary spikes, so it costs c accumulates
(``total``, ``sop``). As binary digits it is one spike per digit that is 1, each an accumulate of a
shifted weight (``digits``, ``digit_sop``): 40 costs 40 or 2, and a count to 64 at most 6.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["binary", "ternary", "integer", "real"]
Where = tuple[str, int | None]
"""Component and block."""
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
    """An operand of a product, or the output of a neuron: numbers of values and of spikes."""

    kind: Kind
    size: int
    nonzero: int
    total: int
    """Sum of the counts; 0 for real operands."""
    planes: int = field(default=1, compare=False)
    """Bits per value of spikes: those of the largest count, and one for a sign."""
    digits: int = -1
    """Sum of the counts' binary digits; as ``total`` where counts are 0 or 1."""

    def __post_init__(self) -> None:
        if self.digits < 0:
            self.digits = self.total

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

    @property
    def mean_digits(self) -> float:
        """Mean number of binary digits that are 1 in the count of a value."""
        return self.digits / self.size if self.size else 0.0

    def merge(self, other: Operand) -> None:
        """Add the same operand of another forward pass."""
        self.kind = max(self.kind, other.kind, key=_KINDS.index)
        self.size += other.size
        self.nonzero += other.nonzero
        self.total += other.total
        self.digits += other.digits
        self.planes = max(self.planes, other.planes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        real = not self.is_spikes
        return {
            "kind": self.kind,
            "density": self.density,
            "mean_count": None if real else self.mean_count,
            "mean_digits": None if real else self.mean_digits,
        }


@dataclass
class Weights:
    """The stored weights of a product that a machine must read.

    A *tile* of n is n consecutive tokens of one sequence (or n images) with all their simulation
    steps. Only the weights of inputs that are not zero everywhere in a tile are needed: ``touched``
    counts the pairs of a tile and such an input, ``tiles`` the tiles, both by tile size.
    """

    stored: int
    """Weights in memory."""
    inputs: int
    steps: int
    rows: int
    """Input vectors, over all simulation steps."""
    outputs: int
    """Output values, over all simulation steps."""
    touched: dict[int, int] = field(default_factory=dict)
    tiles: dict[int, int] = field(default_factory=dict)

    def merge(self, other: Weights) -> None:
        """Add another run of the same product."""
        self.rows += other.rows
        self.outputs += other.outputs
        both = self.tiles.keys() & other.tiles.keys()
        self.touched = {n: self.touched[n] + other.touched[n] for n in both}
        self.tiles = {n: self.tiles[n] + other.tiles[n] for n in both}


@dataclass
class Attending:
    """The size of a product of attention: queries, pairs, and how keys are shared."""

    steps: int
    queries: int
    """Queries of all heads and steps."""
    pairs: int
    """Allowed (query, key) pairs of all heads and steps."""
    width: int
    """Width of a head."""
    heads: int
    key_heads: int
    reads_per_query: int | None = None
    """The most keys that a query reads; None if this grows with the number of keys."""
    weights_are_fired: bool = False
    """A neuron fires the weights."""

    def merge(self, other: Attending) -> None:
        """Add another run of the same product."""
        self.queries += other.queries
        self.pairs += other.pairs


@dataclass
class Product:
    """A matrix product ``left @ right`` of the forward pass.

    ``macs`` are the multiply-accumulates of a dense model in its place: only allowed (query, key)
    pairs, without padding, in every simulation step. ``sop`` are the accumulates that remain for
    spikes; 0 if neither operand is spikes. ``digit_sop`` are those where integer counts are sent as
    binary digits; as ``sop`` where there are none.
    """

    name: str
    role: Role
    component: str
    layer: int | None
    left: Operand
    right: Operand
    macs: int
    sop: int
    weights: Weights | None = field(default=None, compare=False)
    """Only of linear maps and convolutions."""
    attending: Attending | None = field(default=None, compare=False)
    """Only of attention."""
    digit_sop: int = -1

    def __post_init__(self) -> None:
        if self.digit_sop < 0:
            self.digit_sop = self.sop

    @property
    def spiking(self) -> bool:
        """At least one operand is spikes."""
        return self.left.is_spikes or self.right.is_spikes

    @property
    def density(self) -> float:
        """Share of non-zeros among the incoming spikes; 1 for a dense product."""
        fired = {
            "scores": [self.left, self.right],
            "values": [self.right],
            "state": [self.left, self.right],
        }.get(self.role, [self.left])
        entering = [operand.density for operand in fired if operand.is_spikes]
        return sum(entering) / len(entering) if entering else 1.0

    def merge(self, other: Product) -> None:
        """Add another run of the same product."""
        self.left.merge(other.left)
        self.right.merge(other.right)
        self.macs += other.macs
        self.sop += other.sop
        self.digit_sop += other.digit_sop
        if self.weights is not None and other.weights is not None:
            self.weights.merge(other.weights)
        if self.attending is not None and other.attending is not None:
            self.attending.merge(other.attending)


@dataclass
class Trace:
    """Everything counted in one or more forward passes."""

    tokens: int = 0
    synapses: list[Synapses] = field(default_factory=list)
    products: dict[str, Product] = field(default_factory=dict)
    operations: dict[Where, Counter[str]] = field(default_factory=dict)
    """Elementwise operations by (component, layer)."""
    neurons: dict[str, Operand] = field(default_factory=dict)
    populations: dict[str, Operand] = field(default_factory=dict)
    """Of layers with several kinds of neurons, such as near and far ones, one for each kind;
    within those of ``neurons``."""
    pair_operations: dict[Where, Counter[str]] = field(default_factory=dict)
    """The part of ``operations`` that is done per allowed pair of a query and a key."""
    states: dict[str, State] = field(default_factory=dict)
    """Membranes carried from step to step, by neuron layer."""
    unit: str = "token"
    """What ``tokens`` counts: a "token" or an "image"."""
    window: int = 0
    """Tokens of a sequence."""
    parameters: int = 0
    """Parameters of the model; shared ones count once."""
    other_parameters: int = 0
    """Parameters outside counted linear maps, convolutions and embeddings: norms, biases ..."""

    def add_product(self, product: Product) -> None:
        """Count ``product``; one of the same name is merged."""
        counted = self.products.get(product.name)
        if counted is None:
            self.products[product.name] = product
        else:
            counted.merge(product)

    def add_neuron(self, name: str, spikes: Operand) -> None:
        """Count the spikes of the neuron layer ``name``."""
        _add(self.neurons, name, spikes)

    def add_population(self, name: str, spikes: Operand) -> None:
        """Count the spikes of one kind of neurons of a layer, which ``add_neuron`` has too."""
        _add(self.populations, name, spikes)

    def add_operations(self, component: str, layer: int | None, **counts: int) -> None:
        """Count elementwise operations by kind: add, mult, compare, function, lookup ..."""
        nonzero = {kind: n for kind, n in counts.items() if n}
        if nonzero:
            self.operations.setdefault((component, layer), Counter()).update(nonzero)

    def add_pair_operations(self, component: str, layer: int | None, **counts: int) -> None:
        """Count elementwise operations that are done per pair of a query and a key."""
        self.add_operations(component, layer, **counts)
        nonzero = {kind: n for kind, n in counts.items() if n}
        if nonzero:
            self.pair_operations.setdefault((component, layer), Counter()).update(nonzero)

    def add_state(self, name: str, state: State) -> None:
        """Count the membranes that the neuron layer ``name`` carries."""
        if state.updates and name in self.states:
            self.states[name].updates += state.updates
        elif state.updates:
            self.states[name] = state

    def merge(self, other: Trace) -> None:
        """Add another forward pass of the same model."""
        self.tokens += other.tokens
        self.synapses += other.synapses
        for product in other.products.values():
            self.add_product(product)
        for name, spikes in other.neurons.items():
            self.add_neuron(name, spikes)
        for name, spikes in other.populations.items():
            self.add_population(name, spikes)
        for name, state in other.states.items():
            self.add_state(name, state)
        for own, added in (
            (self.operations, other.operations),
            (self.pair_operations, other.pair_operations),
        ):
            for where, counts in added.items():
                own.setdefault(where, Counter()).update(counts)
        self.unit, self.window = other.unit, max(self.window, other.window)
        self.parameters, self.other_parameters = other.parameters, other.other_parameters


def _add(counted: dict[str, Operand], name: str, spikes: Operand) -> None:
    if name in counted:
        counted[name].merge(spikes)
    else:
        counted[name] = spikes


@dataclass
class State:
    """Membranes of a neuron layer that are read and written between simulation steps."""

    layer: int | None
    updates: int
    steps: int
    pairs: bool = False
    """There is one membrane per pair of a query and a key."""
