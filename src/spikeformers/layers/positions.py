"""Relative positions that a competition can use without a multiplication.

    A[i, j] <- A[i, j] + bias[h, min(i - j, max_distance - 1)]

One learned number per head and distance, added to the scores before the winners are chosen:
additions and comparisons only. T5's relative bias (https://arxiv.org/abs/1910.10683) without its
logarithmic buckets, initialised as ALiBi (https://arxiv.org/abs/2108.12409): head h of H has
``bias = -slope * 2^(-8 h / H) * |i - j|``, so that near keys win until training changes it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """Learned bias ``[H, T, J]`` from distances; both directions if ``causal`` is false."""

    def __init__(self, heads: int, max_distance: int, causal: bool, slope: float = 1.0) -> None:
        super().__init__()
        self.max_distance, self.causal, self.slope = max_distance, causal, slope
        entries = max_distance if causal else 2 * max_distance - 1
        self.bias = nn.Parameter(torch.zeros(heads, entries))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the bias back to its initial ALiBi values."""
        heads, entries = self.bias.shape
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads) * self.slope
        distance = torch.arange(entries).sub(0 if self.causal else self.max_distance - 1).abs()
        self.bias.copy_(-slopes[:, None] * distance)

    def forward(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Bias for the last ``queries`` of ``keys`` positions, ``[H, queries, keys]``."""
        # Each row is a window of the line.
        return self.line(queries, keys, device).unfold(-1, keys, 1).flip(1)

    def line(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """The same by distance, ``[H, queries + keys - 1]``: from key to query ``keys - 1`` first,
        down to ``1 - queries``.
        """
        limit = self.max_distance - 1
        lowest = 0 if self.causal else -limit
        distance = torch.arange(keys - 1, -queries, -1, device=device)
        return self.bias[:, distance.clamp(lowest, limit) - lowest]
