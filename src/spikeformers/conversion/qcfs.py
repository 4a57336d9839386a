"""Feed-forward by QCFS: the activation itself becomes an IF neuron.

    act(z)  ->  h(z) = theta * clip(floor(z T / theta + 1/2) / T, 0, 1)  ->  IF from theta / 2

Bu et al. 2022, https://arxiv.org/abs/2303.04347. h has no negative part, so GELU and SiLU are
changed, not approximated: training recovers the loss, with one theta learned per channel. Before
it, theta minimises the squared distance of h to the activation it replaces, and, where the map
after it has a bias, that bias takes up the mean of what h leaves out (this project's addition).

A gated block multiplies h with E(x) W_up, which has a sign, so a pair encodes the product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spikeformers.conversion.thresholds import Rule, set_thresholds, threshold_of
from spikeformers.models._converted import SpikingFeedForward, encoded
from spikeformers.neurons import by_sign


@torch.no_grad()
def calibrate(
    block: SpikingFeedForward, x: Tensor, rule: Rule, activation: torch.nn.Module
) -> None:
    """Set the thresholds of ``block`` from inputs ``[N, D]``; ``activation`` is the source's."""
    steps = block.fire_in.simulated
    set_thresholds(block.fire_in, x, rule)
    values = block.mean(encoded(block.fire_in, block.decode, x))
    up = torch.nn.functional.linear(values, block.up.weight, block.up.bias)
    z = up
    if block.gate is not None:
        z = torch.nn.functional.linear(values, block.gate.weight, block.gate.bias)
    target = activation(z)
    assert block.fire_act is not None
    theta = threshold_of(z, steps, rule, target)
    # A channel that is never positive never fires; any threshold that it does not reach will do.
    theta = torch.where(theta > 0, theta, z.abs().amax(0).clamp_min(1e-6))
    block.fire_act.threshold.copy_(theta)
    h = _decoded(block.fire_act(z.unsqueeze(0)), block.fire_act.value)
    if block.fire_hidden is not None:
        set_thresholds(block.fire_hidden, h * up, rule, rule.margin)
    elif block.down.bias is not None:
        block.down.bias.add_(block.down.weight @ (target - h).mean(0))


def _decoded(spikes: Tensor, value: Tensor) -> Tensor:
    """The value of counts or spikes ``[S, N, C]``, ``[N, C]``."""
    return (spikes * by_sign(spikes, value)).sum(0)
