"""Feed-forward by signed pairs of IF neurons, without retraining.

    x~ = E(x),  E(x) = s * clip(round(x / s), -T, T)    s = theta / T, of each channel and sign
    y  = E(h) W_down,  h = act(x~ W_up)                 gated: h = act(x~ W_gate) * x~ W_up

The activation keeps its shape, negative part included; only the values that travel are spikes.
The OFF neurons take GELU's and SiLU's negative values, with thresholds of their own, so that their
small range is represented as finely as the positive one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spikeformers.conversion.thresholds import Rule, set_thresholds
from spikeformers.models._converted import SpikingFeedForward, encoded


@torch.no_grad()
def calibrate(block: SpikingFeedForward, x: Tensor, rule: Rule) -> None:
    """Set the thresholds of ``block``, whose weights are the source's, from inputs ``[N, D]``."""
    set_thresholds(block.fire_in, x, rule)
    values = encoded(block.fire_in, block.decode, x)
    z = block.mean(block.up(values))
    assert block.act is not None
    assert block.fire_hidden is not None
    h = block.act(z)
    if block.gate is not None:
        h = block.act(block.mean(block.gate(values))) * z
    set_thresholds(block.fire_hidden, h, rule, rule.margin)
