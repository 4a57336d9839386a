"""Spiking attention from a trained softmax attention: the steps that SSA and CWSSA share.

    q, k      one threshold per head, so that counts multiply to the source's scores up to a factor
    v         one threshold per channel, equal for both signs, so that rows of counts can be summed
    W_q, W_k, W_v, W_o    the source's

``ssa.py`` and ``by_scores.py`` set the rest: the factor, and how the sums are scaled to the
source's attention output before they fire.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeformers.attention import SoftmaxAttention
from spikeformers.conversion.calibration import Sample
from spikeformers.conversion.thresholds import Rule, set_thresholds, threshold_of
from spikeformers.models._converted import SpikingSelfAttention, allowed_keys
from spikeformers.neurons import IF


@dataclass(frozen=True)
class Read:
    """Outputs of both attentions on the calibration text."""

    target: Tensor
    """The source's attention output before W_o, from the same currents, ``[B, T, H * K]``."""
    sums: Tensor
    """The core's, in counts of v, ``[1, B, T, H * K]``."""
    thetas: Tensor
    """Product of the thresholds of q and k, per query head, ``[H, 1, 1]``."""


@torch.no_grad()
def prepare(block: SpikingSelfAttention, sample: Sample, rule: Rule) -> None:
    """Set the thresholds of the input and of q, k, v."""
    x = sample.attention_in
    set_thresholds(block.fire_in, x.flatten(0, 1), rule)
    q, k, v = block.currents(x, sample.rotary)
    for fire, current in ((block.fire_query, q), (block.fire_key, k)):
        by_head = current.transpose(0, 1).flatten(1).t()  # [values, H]
        fire.threshold.copy_(_threshold(fire, by_head, rule).view_as(fire.threshold))
    channels = v.transpose(1, 2).flatten(0, 1).flatten(1)  # [rows, H' * K]
    fire = block.fire_value
    fire.threshold.copy_(_threshold(fire, channels, rule).view_as(fire.threshold))


def _threshold(fire: IF, x: Tensor, rule: Rule) -> Tensor:
    """One threshold per column, for both signs if the neuron has both."""
    theta = threshold_of(x.abs() if fire.signed else x, fire.largest, rule)
    return torch.where(theta > 0, theta, x.abs().amax(0).clamp_min(1e-6))


@torch.no_grad()
def read(block: SpikingSelfAttention, sample: Sample, scaling: float) -> Read:
    """Both attentions on the calibration text, from the same currents."""
    q, k, v = block.currents(sample.attention_in, sample.rotary)
    tokens = q.shape[-2]
    allowed = allowed_keys(None, tokens, tokens, q.device)
    groups = block.shape.groups
    softmax = SoftmaxAttention(scaling)
    every = (x.repeat_interleave(groups, 1) for x in (k, v))
    target = softmax(q, *every, allowed).transpose(1, 2).flatten(2)
    sums = block.sums(*block.spikes(q, k, v), allowed)
    return Read(target, sums, thetas(block))


def thetas(block: SpikingSelfAttention) -> Tensor:
    """Product of one spike's value of q and one of k, per query head, ``[H, 1, 1]``."""
    key = block.fire_key.value[0].repeat_interleave(block.shape.groups, 0)
    return block.fire_query.value[0] * key


def gains(x: Tensor, target: Tensor) -> Tensor:
    """Least-squares factor of each channel that takes ``x`` to ``target``, both ``[..., C]``."""
    over = tuple(range(x.dim() - 1))
    return (x * target).sum(over) / x.square().sum(over).clamp_min(1e-12)
