"""A linear map whose input is spikes.

    y = x W^T + b                                   x holds counts times a unit, [S, B, T, D]
    y = sum_d x_d (unit * W)^T + b                  x_d are binary sub-steps, [levels, S, B, T, D]

Event-driven hardware runs the second form; ``fold`` prepares the weights for it. Of signed counts
the sub-steps of OFF neurons come last, and their sum is subtracted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikeformers.neurons import collapse


class SpikeLinear(nn.Linear):
    """``nn.Linear`` that also takes binary sub-steps once folded."""

    folded: bool = False
    off_steps: int = 0
    """How many of the sub-steps, the last ones, are subtracted."""
    ends_residual: bool = False
    """Its output is added to the membrane stream; models scale such weights by depth initially."""

    @classmethod
    def of(cls, linear: nn.Linear) -> SpikeLinear:
        """A SpikeLinear that shares the parameters of ``linear``."""
        spike_linear = cls(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta"
        )
        spike_linear.weight, spike_linear.bias = linear.weight, linear.bias
        return spike_linear

    def fold(self, unit: float, off_steps: int = 0) -> None:
        """Multiply the value of one spike into the weights; inputs are sub-steps from then on."""
        with torch.no_grad():
            self.weight.mul_(unit)
        self.folded, self.off_steps = True, off_steps

    def forward(self, input: Tensor) -> Tensor:
        if not self.folded:
            return super().forward(input)
        y = collapse(F.linear(input, self.weight), self.off_steps)
        return y if self.bias is None else y + self.bias
