"""Dropout of spikes: some are silenced while training, and the others keep their value.

    y = s * m,  m in {0, 1},  P(m = 0) = p

A bit stays a bit. Torch's dropout divides by 1 - p, so that means are those of inference; that
would make another number of a spike. Here a neuron behind it hears fewer spikes while training, and
a norm in front of that neuron, where one stands, takes up the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpikeDropout(nn.Module):
    """Spikes of any shape to spikes of the same shape."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, spikes: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return spikes
        return spikes * torch.empty_like(spikes).bernoulli_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
