"""Attention that weighs keys as the trained softmax attention does: winners, or grades.

    hard             the value of the one key that softmax would weigh most
    top-K            the mean of the K values that it would weigh most, then a gain per channel
    power-of-two     all values by softmax's weights to a few binary digits, then the same gain

Winners are CWSSA, which https://arxiv.org/abs/2604.11321 trains from scratch; here scores start as
the source's. The factor on the counts is ``theta_q theta_k / T^2`` times the source's: no winner
depends on it, grades do, and it makes the backward pass, a softmax's, the source's own. One row
has larger values than a mean of many, so a channel of W_o is scaled by the least-squares gain
where no neuron follows (hard).
"""

from __future__ import annotations

import torch

from spikeformers.conversion.calibration import Sample
from spikeformers.conversion.spiking_attention import gains, prepare, read, thetas
from spikeformers.conversion.ssa import fire_out
from spikeformers.conversion.thresholds import Rule
from spikeformers.models._converted import SpikingSelfAttention


@torch.no_grad()
def calibrate(block: SpikingSelfAttention, sample: Sample, rule: Rule, scaling: float) -> None:
    """Set thresholds, factor and gain; ``scaling`` is the source's factor on its scores."""
    prepare(block, sample, rule)
    block.core.log_scale.copy_((thetas(block) * scaling).log())
    if block.fire_out is not None:
        fire_out(block, sample, rule, scaling)
        return
    seen = read(block, sample, scaling)
    rows = (seen.sums * block.value_of_v()).squeeze(0)
    block.out.weight.mul_(gains(rows, seen.target))
