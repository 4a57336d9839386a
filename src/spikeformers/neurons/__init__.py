"""Neurons, one per file, whose ``step`` is the specification (and a rectifier, which has none)."""

from __future__ import annotations

from spikeformers.neurons._base import (
    Activity,
    BinaryUnits,
    Neuron,
    NormTerms,
    ScanRule,
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
from spikeformers.neurons.norse import from_norse
from spikeformers.neurons.phase import PhaseIF
from spikeformers.neurons.qcfs import IF, QCFS, SignedIF, SignedNILIF, by_sign
from spikeformers.neurons.rectifier import Rectifier
from spikeformers.neurons.registry import LIBRARIES, NEURONS, register_neuron
from spikeformers.neurons.snntorch import from_snntorch
from spikeformers.neurons.spikingjelly import from_spikingjelly
from spikeformers.neurons.surrogate import SURROGATES
from spikeformers.neurons.tlif import TLIF
from spikeformers.neurons.token_if import TokenIF

__all__ = [
    "IF",
    "ILIF",
    "LIBRARIES",
    "LIF",
    "NEURONS",
    "NILIF",
    "QCFS",
    "SURROGATES",
    "TLIF",
    "Activity",
    "BinaryUnits",
    "DeadZone",
    "Neuron",
    "NormTerms",
    "PhaseIF",
    "Rectifier",
    "ScanRule",
    "SignedIF",
    "SignedNILIF",
    "SpikeType",
    "TokenIF",
    "by_sign",
    "collapse",
    "expand",
    "from_norse",
    "from_snntorch",
    "from_spikingjelly",
    "mark_padding",
    "neurons_of",
    "observe",
    "register_neuron",
]
