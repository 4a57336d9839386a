"""Rectifier: not a spiking neuron, but its replacement where A2OS2A has none.

    y = max(x, 0)          real, no membrane, no threshold, no simulation steps

K of A2OS2A, https://arxiv.org/abs/2503.00226. It emits real numbers, so it is not a ``Neuron``: no
firing rate, no density and no synaptic operation is ever counted of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rectifier(nn.Module):
    """Elementwise max(x, 0) of ``[S, ...]``."""

    spike_type = "real"

    def fuses_norm(self, current: Tensor) -> bool:
        """No kernel computes the norm before it as well."""
        return False

    def values(self) -> str:
        """Its values, in words."""
        return "real numbers, 0 or greater"

    def forward(self, current: Tensor) -> Tensor:
        return torch.relu(current)
