"""Events that meet weights: how many connections of a layer do something in a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeformers.energy.operands import Spikes, counts
from spikeformers.energy.records import Synapses


def of_linear(x: Tensor, spikes: Spikes | None, weight: Tensor) -> Synapses:
    """Of ``x W`` with ``weight`` ``[in, out]``."""
    inputs, outputs = weight.shape
    events = _events(x, spikes).reshape(-1, inputs).sum(0, dtype=torch.float64)
    met = (weight != 0).sum(1).double()
    return Synapses(spikes is not None, int(events @ met), x.numel() * outputs)


def of_convolution(x: Tensor, spikes: Spikes | None, module: nn.Conv2d) -> Synapses:
    """Of ``[N, C, H, W]``: a kernel of ones sums what each window covers."""

    def covered(x: Tensor, kernel: Tensor) -> int:
        sums = nn.functional.conv2d(
            x.double(), kernel.double(), None,
            module.stride, module.padding, module.dilation, module.groups,
        )  # fmt: skip
        return int(sums.sum())

    effective = covered(_events(x, spikes), module.weight != 0)
    dense = covered(torch.ones_like(x[:1]), torch.ones_like(module.weight)) * len(x)
    return Synapses(spikes is not None, effective, dense)


def _events(x: Tensor, spikes: Spikes | None) -> Tensor:
    """Counts of spikes; of real numbers, which of them are not zero."""
    return (x != 0).float() if spikes is None else counts(x, spikes)
