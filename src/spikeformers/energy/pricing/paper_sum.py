"""Energy of a model on a text by the papers' sum: measured events, estimated joules.

    paper              4.6 pJ * MACs of products without spikes + 0.9 pJ * SOP of the others
    with_elementwise   paper + norms, neurons, residual adds, softmax, comparisons ...

The events are counted in real forward passes; the joules are estimates from a price table, never
measured. Neither sum includes memory traffic. A dense twin is counted by the same code: all its
products at 4.6 pJ, attention over allowed pairs only, so that neither model pays for masked pairs.

Prices: Horowitz, "Computing's energy problem", ISSCC 2014, 45 nm, 0.9 V, 32-bit floating point: an
addition 0.9 pJ, a multiplication 3.7 pJ, so a multiply-accumulate 4.6 pJ. The spiking papers use
these two prices and nothing else: ``E = 4.6 pJ * MACs + 0.9 pJ * SOP``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from spikeformers.energy.counting.forward_pass import trace
from spikeformers.energy.counting.operands import Batch
from spikeformers.energy.counting.trace import COMPONENTS, Operand, Product, Trace
from spikeformers.energy.pricing.price_table import Cost
from spikeformers.errors import DataError

HOROWITZ = "Horowitz, ISSCC 2014, 45 nm"


ADD_FP32 = Cost(picojoules=0.9, source=HOROWITZ)
MULT_FP32 = Cost(picojoules=3.7, source=HOROWITZ)
MAC_FP32 = Cost(picojoules=4.6, source=f"{HOROWITZ}: one multiplication and one addition")


@dataclass(frozen=True)
class Prices:
    """Prices of the operations that the tracer counts.

    ``accumulate`` and ``mac`` make the papers' sum; ``elementwise`` prices the rest by kind.
    """

    name: str
    accumulate: Cost
    mac: Cost
    elementwise: Mapping[str, Cost] = field(default_factory=dict)

    def of_operations(self, operations: Mapping[str, int]) -> float:
        """Picojoules of counted elementwise operations; KeyError for a kind without a price."""
        return sum(n * self.elementwise[kind].picojoules for kind, n in operations.items())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "accumulate": asdict(self.accumulate),
            "mac": asdict(self.mac),
            "elementwise": {kind: asdict(cost) for kind, cost in self.elementwise.items()},
        }


PAPER = Prices(
    name="horowitz45",
    accumulate=ADD_FP32,
    mac=MAC_FP32,
    elementwise={
        "add": ADD_FP32,
        "mult": MULT_FP32,
        "compare": Cost(0.9, f"a comparison is a subtraction; {HOROWITZ}"),
        "winner_compare": Cost(0.9, f"a comparison is a subtraction; {HOROWITZ}"),
        "function": Cost(
            3.7, "exp, division, root, tanh ...: at least one multiplication; no published price"
        ),
        "lookup": Cost(0.0, "a read and no arithmetic; memory traffic is not priced here"),
    },
)


RULES = (
    "estimated: events are counted in a real run, picojoules come from the price table",
    "paper: MACs of products without a spike operand at the mac price, and synaptic operations "
    "(SOP) of the others at the accumulate price; an integer count c is c accumulates, those of a "
    "rate code; figures 'as binary digits' take one per digit of c that is 1, of a shifted weight; "
    "a negative count subtracts, at the same price",
    "attention: allowed (query, key) pairs only, for spiking and dense models alike; Q K^T costs "
    "coincidences, A_w V one accumulate for each event of V under a weight that is not zero",
    "winner comparisons, norms, neurons, residual adds, biases, activations, softmax and positions "
    "are in with_elementwise only; exp, division and roots at the price of one multiplication",
    "padding is not counted; embeddings are lookups, without arithmetic; no memory traffic",
)


@dataclass
class Share:
    """A part of the energy; all figures are per token."""

    picojoules: float = 0.0
    """Picojoules by the papers' sum."""
    elementwise: float = 0.0
    """Picojoules of elementwise operations, which the papers leave out."""
    macs: float = 0.0
    sop: float = 0.0
    """Synaptic operations, counts as a rate code."""
    digit_picojoules: float = 0.0
    """Picojoules by the papers' sum, counts as binary digits."""
    digit_sop: float = 0.0
    """Synaptic operations, counts as binary digits."""
    operations: dict[str, float] = field(default_factory=dict)

    @property
    def with_elementwise(self) -> float:
        """Picojoules, including elementwise operations."""
        return self.picojoules + self.elementwise

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "picojoules": self.picojoules,
            "with_elementwise": self.with_elementwise,
            "macs": self.macs,
            "sop": self.sop,
            "digit_picojoules": self.digit_picojoules,
            "digit_sop": self.digit_sop,
            "operations": self.operations,
        }


@dataclass
class EnergyReport:
    """Estimated energy per token (of a vision model: per image) of a measured run."""

    model: str
    tokens: int
    """Number of tokens; images for a vision model."""
    prices: Prices
    products: list[Product]
    neurons: dict[str, Operand]
    """Spikes by neuron layer: kind, density (share of non-zeros), mean count."""
    by_component: dict[str, Share]
    by_layer: dict[str, Share]
    """"0", "1", ... and "outside" for embedding, last norm and head."""
    unit: str = "token"
    """The unit that figures are per: "token" or "image"."""

    @property
    def total(self) -> Share:
        """Sum of all components."""
        return _sum(self.by_component.values())

    @property
    def picojoules_per_token(self) -> float:
        """Picojoules by the papers' sum."""
        return self.total.picojoules

    @property
    def with_elementwise_per_token(self) -> float:
        """Picojoules, including elementwise operations."""
        return self.total.with_elementwise

    @property
    def macs_per_token(self) -> float:
        """MACs a dense model would do in place of these products, every simulation step."""
        return self.total.macs

    @property
    def sop_per_token(self) -> float:
        """Synaptic operations."""
        return self.total.sop

    @property
    def digit_picojoules_per_token(self) -> float:
        """Picojoules by the papers' sum where counts are sent as binary digits."""
        return self.total.digit_picojoules

    @property
    def digit_sop_per_token(self) -> float:
        """Synaptic operations where counts are sent as binary digits."""
        return self.total.digit_sop

    @property
    def winner_comparisons_per_token(self) -> float:
        """Comparisons of the winner-take-all, which the papers leave out."""
        return self.total.operations.get("winner_compare", 0.0)

    @property
    def density(self) -> float | None:
        """Mean share of non-zeros over neuron layers, with equal weights; None if dense."""
        if not self.neurons:
            return None
        return sum(spikes.density for spikes in self.neurons.values()) / len(self.neurons)

    @property
    def density_by_macs(self) -> float | None:
        """Share of non-zeros entering the spiking products, weighted by their MACs."""
        spiking = [product for product in self.products if product.spiking and product.macs]
        if not spiking:
            return None
        macs = sum(product.macs for product in spiking)
        return sum(product.density * product.macs for product in spiking) / macs

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "label": "estimated",
            "model": self.model,
            "unit": self.unit,
            "tokens": self.tokens,
            "picojoules_per_token": self.picojoules_per_token,
            "with_elementwise_per_token": self.with_elementwise_per_token,
            "macs_per_token": self.macs_per_token,
            "sop_per_token": self.sop_per_token,
            "digit_picojoules_per_token": self.digit_picojoules_per_token,
            "digit_sop_per_token": self.digit_sop_per_token,
            "winner_comparisons_per_token": self.winner_comparisons_per_token,
            "density": self.density,
            "density_by_macs": self.density_by_macs,
            "by_component": {name: share.as_dict() for name, share in self.by_component.items()},
            "by_layer": {name: share.as_dict() for name, share in self.by_layer.items()},
            "by_neuron": {name: spikes.as_dict() for name, spikes in self.neurons.items()},
            "products": [
                {
                    "name": product.name,
                    "component": product.component,
                    "layer": product.layer,
                    "left": product.left.as_dict(),
                    "right": product.right.as_dict(),
                    "macs_per_token": product.macs / self.tokens,
                    "sop_per_token": product.sop / self.tokens,
                    "digit_sop_per_token": product.digit_sop / self.tokens,
                }
                for product in self.products
            ],
            "prices": self.prices.as_dict(),
            "rules": list(RULES),
        }


def energy_of(
    model: nn.Module, batches: Iterable[Batch], *, prices: Prices = PAPER
) -> EnergyReport:
    """Count the forward passes over ``batches`` and price them.

    A batch is ids ``[B, T]``, ``{"input_ids", "attention_mask"}`` or ``{"pixel_values"}``. Raises
    DataError without tokens and SpikeformersError for a product that the tracer cannot attribute.
    """
    return report_of(count_over(model, batches), prices, type(model).__name__)


def count_over(model: nn.Module, batches: Iterable[Batch]) -> Trace:
    """Count the forward passes over ``batches``; errors as ``energy_of``."""
    total = Trace()
    for batch in batches:
        total.merge(trace(model, batch))
    if total.tokens == 0:
        raise DataError("there is no token to count energy on: give at least one batch of ids.")
    return total


def report_of(counted: Trace, prices: Prices, model: str) -> EnergyReport:
    """Price what a trace counted."""
    by_component = {name: Share() for name in COMPONENTS}
    layers = {product.layer for product in counted.products.values()}
    layers |= {layer for _, layer in counted.operations}
    numbered = sorted(layer for layer in layers if layer is not None)
    by_layer = {str(layer): Share() for layer in numbered} | {"outside": Share()}
    for product in counted.products.values():
        if product.spiking:
            picojoules = product.sop * prices.accumulate.picojoules
            digit_picojoules = product.digit_sop * prices.accumulate.picojoules
        else:
            picojoules = digit_picojoules = product.macs * prices.mac.picojoules
        for share in (by_component[product.component], by_layer[_layer(product.layer)]):
            share.picojoules += picojoules / counted.tokens
            share.macs += product.macs / counted.tokens
            share.sop += product.sop / counted.tokens
            share.digit_picojoules += digit_picojoules / counted.tokens
            share.digit_sop += product.digit_sop / counted.tokens
    for (component, layer), operations in counted.operations.items():
        for share in (by_component[component], by_layer[_layer(layer)]):
            share.elementwise += prices.of_operations(operations) / counted.tokens
            for kind, n in operations.items():
                share.operations[kind] = share.operations.get(kind, 0.0) + n / counted.tokens
    return EnergyReport(
        model=model,
        tokens=counted.tokens,
        prices=prices,
        products=list(counted.products.values()),
        neurons=counted.neurons,
        by_component=by_component,
        by_layer=by_layer,
        unit=counted.unit,
    )


def _layer(layer: int | None) -> str:
    return "outside" if layer is None else str(layer)


def _sum(shares: Iterable[Share]) -> Share:
    total = Share()
    operations: Counter[str] = Counter()
    for share in shares:
        total.picojoules += share.picojoules
        total.elementwise += share.elementwise
        total.macs += share.macs
        total.sop += share.sop
        total.digit_picojoules += share.digit_picojoules
        total.digit_sop += share.digit_sop
        for kind, n in share.operations.items():
            operations[kind] += n  # type: ignore[assignment]
    total.operations = dict(operations)
    return total
