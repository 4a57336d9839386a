"""The full estimate of a model beside its dense twin: ledgers, break-even, sensitivity.

The spiking model is priced with fp32 and with int8 weights, the dense one in fp32, fp16 and int8,
in every phase and at every context, all by one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spikeformers.energy.counting.trace import Trace
from spikeformers.energy.pricing.break_even import BreakEven, break_even
from spikeformers.energy.pricing.ledger import Ledger, ledger_of
from spikeformers.energy.pricing.precision import DENSE, FP16, FP32, INT8, SPIKING, Precision
from spikeformers.energy.pricing.price_table import Table
from spikeformers.energy.pricing.sensitivity import Pair, Swing, swings_of
from spikeformers.energy.pricing.work_items import Phase
from spikeformers.energy.pricing.workload import Assumptions, phases_of

CONTEXTS = (128, 1024, 8192)
AGAINST = ((INT8, FP16), (INT8, INT8), (FP32, FP32))
"""Formats of the spiking and the dense model that are compared."""


@dataclass
class Side:
    """One model in every format and phase."""

    trace: Trace
    ledgers: list[Ledger]

    def of(self, precision: Precision, phase: Phase) -> Ledger:
        """The ledger of one format in one phase."""
        return next(
            one for one in self.ledgers if one.precision == precision and one.phase == phase
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: by format, a list of phases."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in self.ledgers:
            extrapolated = self.trace.unit == "token" and one.phase.context != self.trace.window
            said = one.as_dict() | {"extrapolated": extrapolated}
            found.setdefault(one.precision.name, []).append(said)
        return {
            "label": "estimated",
            "unit": self.trace.unit,
            "tokens": self.trace.tokens,
            "window": self.trace.window,
            "parameters": self.trace.parameters,
            "formats": found,
        }


@dataclass
class FullReport:
    """The full estimate; every joule in it is estimated."""

    table: Table
    phases: list[Phase]
    model: Side
    control: Side | None
    break_evens: list[BreakEven]
    swings: list[Swing]
    """Of ``pair``, the most first."""
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
            "break_even": [one.as_dict() for one in self.break_evens],
            "sensitivity": None
            if pair is None
            else {
                "model": pair.ours.name,
                "control": pair.theirs.name,
                "phase": pair.phase.name,
                "context": pair.phase.context,
                "ratio": pair.ratio(self.table),
                "swings": [one.as_dict() for one in self.swings],
            },
            "formats": {one.name: one.as_dict() for one in DENSE},
            "prices": self.table.as_dict(),
            "assumptions": list(ASSUMPTIONS),
        }


def estimate(
    found: Trace,
    control: Trace | None,
    table: Table,
    *,
    causal: bool,
    contexts: Sequence[int] = CONTEXTS,
    assumptions: Assumptions | None = None,
) -> FullReport:
    """Price a traced model and its traced dense twin in every phase.

    ``causal``: it writes token by token, so decode and prefill are told apart.
    """
    assumed = assumptions or Assumptions()
    phases = phases_of(found, causal, contexts, assumed.tile)
    model = _side(found, SPIKING if found.neurons else DENSE, phases, table, assumed)
    if control is None:
        return FullReport(table, phases, model, None, [], [], None)
    beside = _side(control, DENSE, phases, table, assumed)
    if not found.neurons:
        return FullReport(table, phases, model, beside, [], [], None)
    evens = [
        break_even(found, ours, phase, table, theirs, beside.of(theirs, phase).picojoules)
        for ours, theirs in AGAINST
        for phase in phases
    ]
    middle = phases[(len(contexts) - 1) // 2 if len(phases) > 1 else 0]
    pair = Pair(found, INT8, control, FP16, middle)
    return FullReport(table, phases, model, beside, evens, swings_of(pair, table), pair)


def _side(
    found: Trace,
    formats: Sequence[Precision],
    phases: Sequence[Phase],
    table: Table,
    assumed: Assumptions,
) -> Side:
    ledgers = [
        ledger_of(found, precision, phase, table, assumptions=assumed)
        for precision in formats
        for phase in phases
    ]
    return Side(found, ledgers)


ASSUMPTIONS = (
    "events per token and per pair are those of the traced windows; at another context only the "
    "number of pairs changes",
    "a thing lives whole in the smallest memory that holds all of it: all weights together, the "
    "cache of all layers, the activations of one product in one tile",
    "a layer runs all its simulation steps before the next does: they share what is read of the "
    "weights, and membranes stay in registers",
    "weights are read once a tile of tokens (decode: one token), all of them by a dense model, "
    "those of inputs that fire somewhere in the tile by a spiking one; a row that is read alone "
    "costs no more a bit than one in a row of many, which favours the spiking model",
    "each further use of a weight in a tile is read from a register",
    "each input and output of a product is written once and read once; norms, neurons and "
    "activation functions work on it as it passes; scores are never stored",
    "running sums stay in the adder and are free, on both sides",
    "dense keys and values are fp16 in every format, spikes bit planes; all keys are read, and of "
    "the values the winners' rows, or all where every key counts",
    "an integer count of c is c additions of a weight; spikes that meet spikes are added as int32 "
    "and found by comparing all bits of both planes",
    "int8: products add up in int32, inputs are quantised (a multiplication and a comparison) and "
    "outputs scaled (a multiplication); elementwise work is fp32 in every format",
    "finding the events costs nothing, which favours the spiking model; addresses, instructions, "
    "clocks, leakage and idle time cost nothing on either side",
)
