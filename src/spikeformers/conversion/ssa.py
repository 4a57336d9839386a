"""Spiking self-attention, SSA, from the trained softmax attention.

    Y = ((Q K^T) * M) V s,  s = 0.125;   out = E(g * Norm(Y)) W_o          causal M

Spikformer's form (https://arxiv.org/abs/2209.15425), which https://arxiv.org/abs/2510.00133 puts in
place of GPT-2's attention. It does not approximate a softmax: scores are not exponentiated and
rows do not sum to one. g, one factor per channel, is the least-squares fit of Norm(Y) to the
source's output; training does the rest.
"""

from __future__ import annotations

import torch

from spikeformers.conversion.calibration import Sample
from spikeformers.conversion.spiking_attention import gains, prepare, read
from spikeformers.conversion.thresholds import Rule, set_thresholds
from spikeformers.models._converted import SpikingSelfAttention


@torch.no_grad()
def calibrate(block: SpikingSelfAttention, sample: Sample, rule: Rule, scaling: float) -> None:
    """Set thresholds and gain; ``scaling`` is the source's factor on its scores."""
    prepare(block, sample, rule)
    fire_out(block, sample, rule, scaling)


@torch.no_grad()
def fire_out(block: SpikingSelfAttention, sample: Sample, rule: Rule, scaling: float) -> None:
    """Set gain and thresholds of the neuron that encodes the sums."""
    seen = read(block, sample, scaling)
    y = block.reals(seen.sums)
    assert block.gain is not None
    assert block.fire_out is not None
    block.gain.copy_(gains(y, seen.target))
    set_thresholds(block.fire_out, (y * block.gain).flatten(0, 1), rule)
