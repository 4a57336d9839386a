"""Spiking self-attention, SSA: no competition, a mask as a product.

    Y = ((Q K^T) * M) V * s

Spikformer, https://arxiv.org/abs/2209.15425; M is 1 where a query may see a key (causal: j <= i).
Differs: the neuron that follows belongs to the block.
"""

from __future__ import annotations

from torch import Tensor

from spikeformers.attention._base import ScaledAttention


class SSA(ScaledAttention):
    """Integer attention weights, scaled by s."""

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        return self.scores(q, k, bias) * allowed
