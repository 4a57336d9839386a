"""What models share: norms, spiking linear maps, positions, neurons of Q, K and V."""

from __future__ import annotations

from spikeformers.layers.linear import SpikeLinear
from spikeformers.layers.norm import NORMS, make_norm
from spikeformers.layers.positions import RelativeBias
from spikeformers.layers.roles import ROLE_NEURONS, RoleNeurons

__all__ = [
    "NORMS",
    "ROLE_NEURONS",
    "RelativeBias",
    "RoleNeurons",
    "SpikeLinear",
    "make_norm",
]
