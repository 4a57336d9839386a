"""The full estimate of a model beside its dense twin: ledgers, break-even, sensitivity.

The spiking model is priced with fp32 and with int8 weights, the dense one in fp32, fp16 and int8,
in every phase and at every context, all with one price table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spikeformers.energy.counting.trace import Trace
from spikeformers.energy.pricing.break_even import BreakEven, break_even
from spikeformers.energy.pricing.ledger import Ledger, ledger_of
from spikeformers.energy.pricing.precision import DENSE, FP16, FP32, INT8, SPIKING, Precision
from spikeformers.energy.pricing.price_table import PriceTable
from spikeformers.energy.pricing.sensitivity import Pair, Swing, swings_of
from spikeformers.energy.pricing.work_items import Phase
from spikeformers.energy.pricing.workload import Assumptions, phases_of

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
