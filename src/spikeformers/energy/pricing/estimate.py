"""The full estimate of a model beside its dense twin: ledgers, break-even, sensitivity.

The spiking model is priced with fp32 and with int8 weights, the dense one in fp32, fp16 and int8,
in every phase and at every context, all with one price table.

Sensitivity is that of the ratio of spiking to dense energy, to one price or assumption at a time:
each price of the table is doubled and halved, each assumption is replaced by its alternative, and
both models are priced again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spikeformers.energy.counting.trace import Trace
from spikeformers.energy.pricing.break_even import BreakEven, break_even
from spikeformers.energy.pricing.ledger import Ledger, Placing, ledger_of
from spikeformers.energy.pricing.price_table import PriceTable
from spikeformers.energy.pricing.work_items import (
    DENSE,
    FP16,
    FP32,
    INT8,
    SPIKING,
    Phase,
    Precision,
)
from spikeformers.energy.pricing.workload import Assumptions, phases_of

SMALL = 1e-4  # smaller relative changes of the ratio are left out


@dataclass(frozen=True)
class Swing:
    """The ratio after one change; ``low`` is None for an assumption."""

    name: str
    kind: str
    """"price" (low: halved, high: doubled) or "assumption" (high: the alternative)."""
    low: float | None
    high: float

    def width(self, ratio: float) -> float:
        """The largest factor by which the change moves ``ratio``, at least 1."""
        ends = [self.high, ratio if self.low is None else self.low]
        return max(max(ends) / ratio, ratio / min(ends))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "kind": self.kind, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Pair:
    """A spiking model and a dense one in one phase, and how to price them."""

    spiking: Trace
    spiking_format: Precision
    dense: Trace
    dense_format: Precision
    phase: Phase

    def ratio(
        self,
        table: PriceTable,
        assumptions: Assumptions | None = None,
        placing: Placing | None = None,
        dense_format: Precision | None = None,
        phase: Phase | None = None,
    ) -> float:
        """Energy of the spiking model over the dense one's."""
        phase = phase or self.phase
        spiking, dense = (
            ledger_of(
                trace, precision, phase, table, assumptions=assumptions, placing=placing
            ).picojoules
            for trace, precision in (
                (self.spiking, self.spiking_format),
                (self.dense, dense_format or self.dense_format),
            )
        )  # fmt: skip
        return spiking / dense


def swings_of(pair: Pair, table: PriceTable) -> list[Swing]:
    """All changes that move the ratio, the largest first."""
    ratio = pair.ratio(table)
    swings = [
        Swing(key, "price", pair.ratio(table.scaled(key, 0.5)), pair.ratio(table.scaled(key, 2.0)))
        for key in table.keys
    ]
    swings += _readings(pair, table)
    moving = [swing for swing in swings if swing.width(ratio) > 1 + SMALL]
    return sorted(moving, key=lambda swing: -swing.width(ratio))


def _readings(pair: Pair, table: PriceTable) -> Iterator[Swing]:
    chip, last = table.memory[-2].name, table.memory[-1].name

    def swing(name: str, **changed: Any) -> Swing:
        return Swing(name, "assumption", None, pair.ratio(table, **changed))

    for level in (chip, last):
        yield swing(f"weights in {level}", placing=Placing(weights=level))
        yield swing(f"cache in {level}", placing=Placing(cache=level))
        yield swing(f"activations in {level}", placing=Placing(activations=level))
    yield swing(f"membranes in {chip}", placing=Placing(state=chip))
    yield swing("a count is one multiplication", assumptions=Assumptions(counts="multiplication"))
    yield swing("a sparse read costs twice", assumptions=Assumptions(sparse=2.0))
    yield swing(
        "twin's keys and values in int8", dense_format=replace(pair.dense_format, cache="int8")
    )
    if pair.phase.tile > 1:
        for tile in (1, pair.phase.tile // 2):
            yield swing(f"tiles of {tile}", phase=replace(pair.phase, tile=tile))


CONTEXTS = (128, 1024, 8192)
AGAINST = ((INT8, FP16), (INT8, INT8), (FP32, FP32))
"""Formats of the spiking and the dense model that are compared."""


@dataclass
class ModelEstimate:
    """One model in every format and phase."""

    trace: Trace
    ledgers: list[Ledger]

    def of(self, precision: Precision, phase: Phase) -> Ledger:
        """The ledger of one format in one phase."""
        return next(
            ledger
            for ledger in self.ledgers
            if ledger.precision == precision and ledger.phase == phase
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: by format, a list of phases."""
        by_format: dict[str, list[dict[str, Any]]] = {}
        for ledger in self.ledgers:
            measured = self.trace.unit != "token" or ledger.phase.context == self.trace.window
            phase = ledger.as_dict() | {"extrapolated": not measured}
            by_format.setdefault(ledger.precision.name, []).append(phase)
        return {
            "label": "estimated",
            "unit": self.trace.unit,
            "tokens": self.trace.tokens,
            "window": self.trace.window,
            "parameters": self.trace.parameters,
            "formats": by_format,
        }


@dataclass
class FullReport:
    """The full estimate; every joule in it is estimated."""

    table: PriceTable
    phases: list[Phase]
    model: ModelEstimate
    control: ModelEstimate | None
    break_evens: list[BreakEven]
    swings: list[Swing]
    """Of ``pair``, the largest first."""
    pair: Pair | None
    """What is compared in ``swings``: int8 against the fp16 twin, in the phase in the middle."""

    @property
    def spiking(self) -> bool:
        """Whether the model has neurons."""
        return bool(self.model.trace.neurons)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        pair = self.pair
        return {
            "model": self.model.as_dict(),
            "control": None if self.control is None else self.control.as_dict(),
            "break_even": [even.as_dict() for even in self.break_evens],
            "sensitivity": None
            if pair is None
            else {
                "model": pair.spiking_format.name,
                "control": pair.dense_format.name,
                "phase": pair.phase.name,
                "context": pair.phase.context,
                "ratio": pair.ratio(self.table),
                "swings": [swing.as_dict() for swing in self.swings],
            },
            "formats": {precision.name: precision.as_dict() for precision in DENSE},
            "prices": self.table.as_dict(),
            "assumptions": list(ASSUMPTIONS),
        }


def estimate(
    trace: Trace,
    control: Trace | None,
    table: PriceTable,
    *,
    causal: bool,
    contexts: Sequence[int] = CONTEXTS,
    assumptions: Assumptions | None = None,
) -> FullReport:
    """Price a traced model and its traced dense twin in every phase.

    ``causal``: the model generates token by token, so decode and prefill are priced separately.
    """
    assumed = assumptions or Assumptions()
    phases = phases_of(trace, causal, contexts, assumed.tile)
    model = _estimate_of(trace, SPIKING if trace.neurons else DENSE, phases, table, assumed)
    if control is None:
        return FullReport(table, phases, model, None, [], [], None)
    beside = _estimate_of(control, DENSE, phases, table, assumed)
    if not trace.neurons:
        return FullReport(table, phases, model, beside, [], [], None)
    evens = [
        break_even(trace, spiking, phase, table, dense, beside.of(dense, phase).picojoules)
        for spiking, dense in AGAINST
        for phase in phases
    ]
    middle = phases[(len(contexts) - 1) // 2 if len(phases) > 1 else 0]
    pair = Pair(trace, INT8, control, FP16, middle)
    return FullReport(table, phases, model, beside, evens, swings_of(pair, table), pair)


def _estimate_of(
    trace: Trace,
    formats: Sequence[Precision],
    phases: Sequence[Phase],
    table: PriceTable,
    assumed: Assumptions,
) -> ModelEstimate:
    ledgers = [
        ledger_of(trace, precision, phase, table, assumptions=assumed)
        for precision in formats
        for phase in phases
    ]
    return ModelEstimate(trace, ledgers)


ASSUMPTIONS = (
    "events per token and per pair are those of the traced windows; at another context only the "
    "number of pairs changes",
    "each store is in the smallest memory that holds all of it: all weights together, the "
    "cache of all layers, the activations of one product in one tile",
    "a layer runs all its simulation steps before the next layer: they share one read of the "
    "weights, and membranes stay in registers",
    "weights are read once per tile of tokens (decode: one token): all of them in a dense model, "
    "those of inputs that fire anywhere in the tile in a spiking one; a single row costs no more "
    "per bit than many rows in sequence, which favours the spiking model",
    "each further use of a weight in a tile is read from a register",
    "each input and output of a product is written once and read once; norms, neurons and "
    "activation functions are fused with this; scores are never stored",
    "running sums stay in the adder and are free, on both sides",
    "dense keys and values are fp16 in every format, spikes are bit planes; all keys are read, but "
    "only the winners' values, or all values without a competition",
    "an integer count of c is c additions of a weight; products of spikes with spikes are summed "
    "in int32, and found by comparing all bits of both planes",
    "int8: products are summed in int32, inputs are quantised (a multiplication and a comparison) "
    "and outputs scaled (a multiplication); elementwise work is fp32 in every format",
    "finding the events costs nothing, which favours the spiking model; addresses, instructions, "
    "clocks, leakage and idle time cost nothing on either side",
)
