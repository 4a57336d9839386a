"""Softmax attention over spikes: the control for every spiking attention.

    A_w = softmax(Q K^T * s);   Y = A_w V

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. Q, K, V may be spikes; A_w is real.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from spikeformers.attention._base import ScaledAttention, masked_softmax, scale_of

Kind = TypeVar("Kind", bound="SoftmaxAttention")


class SoftmaxAttention(ScaledAttention):
    """Real attention weights that sum to one."""

    weights_are_real = True
    averages = True
    softmax_free = False

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(scale_of(config), config.num_attention_heads, config.learn_attention_scale)

    def engine_rule(self) -> dict[str, Any]:
        return {"rule": "softmax"}

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        return masked_softmax(self.scores(q, k, bias), allowed)

    def operations(self, pairs: Tensor) -> dict[str, int]:
        return softmax_operations(int(pairs.sum()))


def softmax_operations(pairs: int) -> dict[str, int]:
    """Operations of scale and softmax over ``pairs`` scores; a function is an exp or a division."""
    return {"mult": pairs, "compare": pairs, "function": 2 * pairs, "add": pairs}
