"""Events that meet weights: how many connections of a layer do something in a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeformers.energy.counting.operands import Spikes, counts, spikes_of
from spikeformers.energy.counting.rules import Rows
from spikeformers.energy.counting.trace import Synapses


def of_linear(rows: Rows, x: Tensor, known: Spikes | None, weight: Tensor) -> Synapses:
    """Of ``x W`` with ``weight`` ``[in, out]``; ``known`` is what a neuron says of ``x``."""
    inputs, outputs = weight.shape
    spikes = spikes_of(x, known)
    x = rows.select(x)
    events = _events(x, spikes).reshape(-1, inputs).sum(0, dtype=torch.float64)
    met = (weight != 0).sum(1).double()
    return Synapses(spikes is not None, int(events @ met), x.numel() * outputs)


def of_convolution(x: Tensor, known: Spikes | None, module: nn.Conv2d) -> Synapses:
    """Of ``[N, C, H, W]``: a kernel of ones sums what each window covers."""
    spikes = spikes_of(x, known)

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
