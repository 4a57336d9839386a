"""Softmax attention over spikes: the control for every spiking attention.

    A_w = softmax(Q K^T * s);   Y = A_w V

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. Q, K, V may be spikes; A_w is real.
"""

from __future__ import annotations

from torch import Tensor

from spikeformers.attention._base import ScaledAttention, masked_softmax


class SoftmaxAttention(ScaledAttention):
    """Real attention weights that sum to one."""

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        return masked_softmax(self.scores(q, k, bias), allowed)
