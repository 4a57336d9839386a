"""Dropout of spikes: in training some are set to zero, and the others keep their value.

    y = s * m,  m in {0, 1},  P(m = 0) = p

A bit stays a bit. Torch's dropout divides by 1 - p, which keeps the mean of inference but turns a
spike into another number. Here the next neuron receives fewer spikes in training, and the norm in
front of it, where there is one, absorbs the change of scale.
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
