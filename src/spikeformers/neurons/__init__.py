"""Neurons: one a file, whose ``step`` is its specification (and a rectifier, which is none)."""

from __future__ import annotations

from spikeformers.neurons._base import Neuron, SpikeType, expand, observe
from spikeformers.neurons.ilif import ILIF
from spikeformers.neurons.lif import LIF
from spikeformers.neurons.nilif import NILIF
from spikeformers.neurons.rectifier import Rectifier
from spikeformers.neurons.surrogate import SURROGATES
from spikeformers.neurons.tlif import TLIF

NEURONS = ("ni-lif", "i-lif", "lif", "t-lif")

__all__ = [
    "ILIF",
    "LIF",
    "NEURONS",
    "NILIF",
    "SURROGATES",
    "TLIF",
    "Neuron",
    "Rectifier",
    "SpikeType",
    "expand",
    "observe",
]
