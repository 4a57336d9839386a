"""Energy: count the events of a real run, price them, audit operands. One tracer for all."""

from __future__ import annotations

from spikeformers.energy.audit import operands_of, without_spikes
from spikeformers.energy.prices import PAPER, Cost, Prices
from spikeformers.energy.records import COMPONENTS, Operand, Product, Trace
from spikeformers.energy.report import RULES, EnergyReport, Share, energy_of
from spikeformers.energy.spikes import density_of, neuron_names, raster_of, winners_of_sentence
from spikeformers.energy.trace import trace

__all__ = [
    "COMPONENTS",
    "PAPER",
    "RULES",
    "Cost",
    "EnergyReport",
    "Operand",
    "Prices",
    "Product",
    "Share",
    "Trace",
    "density_of",
    "energy_of",
    "neuron_names",
    "operands_of",
    "raster_of",
    "trace",
    "winners_of_sentence",
    "without_spikes",
]
