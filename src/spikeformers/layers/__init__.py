"""What models share: norms, spiking linear maps, positions, patches, neurons of Q, K and V."""

from __future__ import annotations

from spikeformers.layers.linear import SpikeLinear
from spikeformers.layers.norm import NORMS, BatchNorm, make_norm
from spikeformers.layers.patches import SpikingPatches
from spikeformers.layers.positions import RelativeBias
from spikeformers.layers.roles import ROLE_NEURONS, RoleNeurons

__all__ = [
    "NORMS",
    "ROLE_NEURONS",
    "BatchNorm",
    "RelativeBias",
    "RoleNeurons",
    "SpikeLinear",
    "SpikingPatches",
    "make_norm",
]
