"""Energy: count the events of a real run, price them, audit operands. One tracer for all."""

from __future__ import annotations

from spikeformers.energy.audit import REQUIREMENTS, SCOPES, AuditReport, audit, check_request
from spikeformers.energy.listing import Row
from spikeformers.energy.neurobench import neurobench_metrics
from spikeformers.energy.prices import PAPER, Cost, Prices
from spikeformers.energy.records import COMPONENTS, Operand, Product, Trace
from spikeformers.energy.report import RULES, EnergyReport, Share, energy_of
from spikeformers.energy.sides import Side
from spikeformers.energy.spikes import density_of, neuron_names, raster_of, winners_of_sentence
from spikeformers.energy.trace import trace

__all__ = [
    "COMPONENTS",
    "PAPER",
    "REQUIREMENTS",
    "RULES",
    "SCOPES",
    "AuditReport",
    "Cost",
    "EnergyReport",
    "Operand",
    "Prices",
    "Product",
    "Row",
    "Share",
    "Side",
    "Trace",
    "audit",
    "check_request",
    "density_of",
    "energy_of",
    "neurobench_metrics",
    "neuron_names",
    "raster_of",
    "trace",
    "winners_of_sentence",
]
