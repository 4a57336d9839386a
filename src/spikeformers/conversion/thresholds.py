"""Thresholds from real activations, one per channel and sign.

    percentile    theta = the p-th percentile of the values of that sign, p = 100 the largest
    mse           theta = argmin over a grid of  sum (x - s * clip(round(x / s), 0, L))^2,
                  s = theta / L, L the largest count of T steps

The grid goes down from the largest value in steps of 2^(1/4), eight octaves deep; each channel has
a grid of its own. The thresholds of the hidden values, whose tails are heavy (a channel's largest
value on other text is often several times that on the calibration text), are then multiplied with
``margin``. A channel without a value of that sign takes the other sign's threshold, so that
it stays able to fire.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from spikeformers.errors import ConfigError

RuleName = Literal["mse", "percentile"]
GRID = [2 ** (-i / 4) for i in range(33)]
MOST_ROWS = 1024  # that errors are summed over; more are thinned out evenly


@dataclass(frozen=True)
class Rule:
    """How thresholds are chosen; ``percentile`` in (0, 100] serves the rule of that name."""

    name: RuleName = "mse"
    percentile: float = 99.9
    margin: float = 1.0
    """Factor on the thresholds of a feed-forward block's hidden values. Phase coding, with
    its many sizes, needs 8 on LLaMA; rate coding has no sizes to spare."""

    def __post_init__(self) -> None:
        if self.name not in get_args(RuleName):
            raise ConfigError(f"threshold rules are {get_args(RuleName)}, not {self.name!r}.")
        if not (math.isfinite(self.percentile) and 0 < self.percentile <= 100):
            raise ConfigError(f"percentile must lie in (0, 100], not {self.percentile}.")
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise ConfigError(f"margin must be greater than 0, not {self.margin}.")


def threshold_of(x: Tensor, levels: int, rule: Rule, target: Tensor | None = None) -> Tensor:
    """Theta ``[C]`` for the positive values of ``x`` ``[N, C]``; 0 if a channel has none.

    With ``target`` ``[N, C]``, mse compares the quantised ``x`` with that, over all rows.
    """
    if rule.name == "percentile":
        return _percentile(x, rule.percentile / 100)
    largest = x.amax(0).clamp_min(0)
    if len(x) > MOST_ROWS:
        rows_used = torch.linspace(0, len(x) - 1, MOST_ROWS, device=x.device).long()
        x, target = x[rows_used], None if target is None else target[rows_used]
    best, lowest = largest.clone(), torch.full_like(largest, math.inf)
    goal = x.clamp_min(0) if target is None else target
    for factor in GRID:
        s = (largest * factor / levels).clamp_min(1e-12)
        quantised = torch.floor(x / s + 0.5).clamp_(0, levels).mul_(s)
        error = quantised.sub_(goal).square_().sum(0)
        better = error < lowest
        best = torch.where(better, largest * factor, best)
        lowest = torch.where(better, error, lowest)
    return best


def _percentile(x: Tensor, share: float) -> Tensor:
    """The percentile of the positive values of each column."""
    ordered = x.clamp_min(0).sort(0).values
    positive = (ordered > 0).sum(0)
    rank = len(x) - positive + (positive * share).ceil().long() - 1
    return ordered.gather(0, rank.clamp(0, len(x) - 1).unsqueeze(0)).squeeze(0)


def pair_thresholds(x: Tensor, levels: int, rule: Rule) -> Tensor:
    """Theta ``[2, C]`` of the ON and of the OFF neuron for the values ``x`` ``[N, C]``."""
    on, off = threshold_of(x, levels, rule), threshold_of(-x, levels, rule)
    return torch.stack((torch.where(on > 0, on, off), torch.where(off > 0, off, on)))


@torch.no_grad()
def set_thresholds(neuron: Any, x: Tensor, rule: Rule, margin: float = 1.0) -> None:
    """Set the thresholds of a `Neuron` for values ``[N, C]``, unless they follow its token."""
    if not neuron.value_per_token:
        neuron.threshold.copy_(pair_thresholds(x, neuron.largest, rule) * margin)
