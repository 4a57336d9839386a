"""What an attention core is: spikes q, k, v in, one vector a query out.

    forward(q, k, v, allowed, bias) -> y      q, y [S, B, H, T, K]; k, v [S, B, H, J, K]

``allowed`` is a bool mask that broadcasts to ``[B, 1, T, J]``; a query that may see no key
gets zeros. ``bias`` ``[H, T, J]`` is added to the scores. ``weights(q, k, allowed, bias)``
returns the weight ``[S, B, H, T, J]`` of each key, for pictures and for counting; it is the
definition that ``forward`` computes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Base of all attention cores."""

    weights_are_binary: bool = False
    """Every weight is 0 or 1, so that the output is a sum of V's spikes."""
    winners_per_query: int | None = None
    """How many keys' V rows a query reads; None where it reads all."""
    score_unit: float | None = None
    """Product of q's and k's spike units where floats do not hold it exactly (D = 3, say).
    Scores are then rounded to its multiples, so that equal counts tie whatever the order of sums.
    """

    def scores(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """``q k^T + bias``, ``[S, B, H, T, J]``."""
        scores = self.coincidences(q, k)
        return scores if bias is None else scores + bias

    def coincidences(self, q: Tensor, k: Tensor) -> Tensor:
        """``q k^T``, rounded to ``score_unit`` where one is set."""
        scores = torch.matmul(q, k.transpose(-1, -2))
        if self.score_unit is not None:
            exact = torch.round(scores / self.score_unit) * self.score_unit
            scores = scores + (exact - scores).detach()
        return scores

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        """Weight of each key for each query, ``[S, B, H, T, J]``."""
        raise TypeError(f"{type(self).__name__} does not define weights()")

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Weighted sum of v."""
        return torch.matmul(self.weights(q, k, allowed, bias), v)


class ScaledAttention(Attention):
    """An attention core with a factor on its scores."""

    def __init__(self, scale: float, heads: int = 1, learn_scale: bool = False) -> None:
        super().__init__()
        self.initial_scale = scale
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(scale)), learn_scale)

    def scale(self) -> Tensor:
        """Factor on ``q k^T`` of each head, ``[H, 1, 1]``.

        One positive number a head moves no winner by itself; beside a bias it does, and then
        dividing the bias by it once, after training, saves the product.
        """
        return self.log_scale.exp()

    def scores(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """``q k^T * scale + bias``, ``[S, B, H, T, J]``."""
        scores = self.coincidences(q, k) * self.scale()
        return scores if bias is None else scores + bias

    def extra_repr(self) -> str:
        learned = ", learned" if self.log_scale.requires_grad else ""
        return f"scale={self.initial_scale:.4g}{learned}"


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys; rows that allow none are zero, not NaN."""
    p = torch.softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1)
    return p if bool(allowed.any(-1).all()) else torch.nan_to_num(p, nan=0.0)
