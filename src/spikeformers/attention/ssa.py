"""Spiking self-attention, SSA: no competition, a mask as a product.

    Y = ((Q K^T) * M) V * s

Spikformer, https://arxiv.org/abs/2209.15425; M is 1 where a query may see a key (causal: j <= i).
Differs: the neuron that follows belongs to the block.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from spikeformers.attention._base import ScaledAttention

Kind = TypeVar("Kind", bound="SSA")


class SSA(ScaledAttention):
    """Integer attention weights, scaled by s."""

    takes_bias = False

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        scale = 0.125 if config.attention_scale is None else config.attention_scale
        return cls(scale, config.num_attention_heads, config.learn_attention_scale)

    def engine_rule(self) -> dict[str, Any]:
        return {"rule": "ssa"}

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        return self.scores(q, k, bias) * allowed
