"""Neurons, one per file, whose ``step`` is the specification (and a rectifier, which has none)."""

from __future__ import annotations

from spikeformers.neurons._base import (
    Activity,
    Neuron,
    SpikeType,
    collapse,
    expand,
    mark_padding,
    neurons_of,
    observe,
)
from spikeformers.neurons.dead_zone import DeadZone
from spikeformers.neurons.ilif import ILIF
from spikeformers.neurons.lif import LIF
from spikeformers.neurons.nilif import NILIF
from spikeformers.neurons.phase import PhaseIF
from spikeformers.neurons.qcfs import IF, QCFS, SignedIF, SignedNILIF, by_sign
from spikeformers.neurons.rectifier import Rectifier
from spikeformers.neurons.registry import NEURONS, register_neuron
from spikeformers.neurons.surrogate import SURROGATES
from spikeformers.neurons.tlif import TLIF
from spikeformers.neurons.token_if import TokenIF

__all__ = [
    "IF",
    "ILIF",
    "LIF",
    "NEURONS",
    "NILIF",
    "QCFS",
    "SURROGATES",
    "TLIF",
    "Activity",
    "DeadZone",
    "Neuron",
    "PhaseIF",
    "Rectifier",
    "SignedIF",
    "SignedNILIF",
    "SpikeType",
    "TokenIF",
    "by_sign",
    "collapse",
    "expand",
    "mark_padding",
    "neurons_of",
    "observe",
    "register_neuron",
]
