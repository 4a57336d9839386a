"""What models share: norms, spiking linear maps, positions, sizes of neurons from a config."""

from __future__ import annotations

from spikeformers.layers.linear import SpikeLinear
from spikeformers.layers.norm import NORMS, make_norm
from spikeformers.layers.positions import RelativeBias

__all__ = ["NORMS", "RelativeBias", "SpikeLinear", "make_norm"]
