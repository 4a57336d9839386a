"""Positions that a competition can use without a product.

    A[i, j] <- A[i, j] + bias[h, min(i - j, max_distance - 1)]

One learned number a head and distance, added to the scores before the winners are chosen:
additions and comparisons only. T5's relative bias (https://arxiv.org/abs/1910.10683) without its
logarithmic buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """Learned bias ``[H, T, J]`` from distances; both directions where ``causal`` is false."""

    def __init__(self, heads: int, max_distance: int, causal: bool) -> None:
        super().__init__()
        self.max_distance, self.causal = max_distance, causal
        entries = max_distance if causal else 2 * max_distance - 1
        self.bias = nn.Parameter(torch.zeros(heads, entries))

    def forward(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Bias for the last ``queries`` of ``keys`` positions, ``[H, queries, keys]``."""
        limit = self.max_distance - 1
        lowest = 0 if self.causal else -limit
        # One entry a distance, from keys - 1 down to 1 - queries; each row is a window of it.
        distance = torch.arange(keys - 1, -queries, -1, device=device)
        line = self.bias[:, distance.clamp(lowest, limit) - lowest]
        return line.unfold(-1, keys, 1).flip(1)
