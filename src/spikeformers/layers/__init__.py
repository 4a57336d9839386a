"""Layers that models share: norms, norm-then-neuron, linear maps of spikes, dropout, positions,
heads, image patches, and the neurons of Q, K and V.
"""

from __future__ import annotations

from spikeformers.layers.dropout import SpikeDropout
from spikeformers.layers.fire import Fire
from spikeformers.layers.heads import merge_heads, split_heads
from spikeformers.layers.linear import SpikeLinear
from spikeformers.layers.norm import NORMS, BatchNorm, make_norm
from spikeformers.layers.patches import SpikingPatches
from spikeformers.layers.positions import RelativeBias
from spikeformers.layers.roles import ROLE_NEURONS, RoleNeurons
from spikeformers.layers.shift import TokenShift

__all__ = [
    "NORMS",
    "ROLE_NEURONS",
    "BatchNorm",
    "Fire",
    "RelativeBias",
    "RoleNeurons",
    "SpikeDropout",
    "SpikeLinear",
    "SpikingPatches",
    "TokenShift",
    "make_norm",
    "merge_heads",
    "split_heads",
]
