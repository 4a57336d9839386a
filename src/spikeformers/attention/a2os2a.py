"""Accurate addition-only spiking self-attention, A2OS2A: no softmax, no scale.

    Q in {0, 1},  K = ReLU(...) >= 0 and real,  V in {-1, 0, 1}          [S, B, H, T, K]
    order "scores"    Y = ((Q K^T) * M) V                                O(T^2 K)
    order "state"     Y_i = Q_i Z_i,  Z_i = sum_(j: M_ij = 1) K_j V_j^T  O(T K^2)

A2OS2A, https://arxiv.org/abs/2503.00226. M is 1 where a query may see a key. Binary Q makes Q K^T
a sum of entries of K, and ternary V makes the rest a signed sum: only additions, of floats since K
is real. Both orders are equal up to rounding. In the second, a causal Z is a running sum ``[K, K]``
per head, which is all that decoding has to keep; without a causal mask all queries share one Z.
Differs: the paper has no mask and no causal form; the neuron that follows belongs to the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from spikeformers.attention import _streaming
from spikeformers.attention._base import Attention
from spikeformers.attention._pairs import Pairs, written_out
from spikeformers.errors import ConfigError, nearest
from spikeformers.kernels.triton import runs
from spikeformers.layers.roles import RoleNeurons

Kind = TypeVar("Kind", bound="A2OS2A")
Order = Literal["scores", "state"]
ORDERS: tuple[Order, ...] = get_args(Order)
BLOCK = 64
"""Tokens added to a causal state at once; inside such a block the order is "scores"."""


class A2OS2A(Attention):
    """Sums of V's rows, weighted by sums of K's entries."""

    takes_bias = False
    scores_are_counts = False  # K is real
    options = ("attention_order",)
    default_neurons = ("binary", "relu", "ternary")

    def __init__(self, order: Order = "scores", causal: bool = True) -> None:
        super().__init__()
        if order not in ORDERS:
            raise ConfigError(
                f"unknown attention_order {order!r}; known: {', '.join(ORDERS)}."
                f"{nearest(order, ORDERS)}"
            )
        self.order, self.causal = order, causal
        self.keeps_state = order == "state"

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(config.attention_order, config.causal)

    @classmethod
    def role_neuron(cls, config: Any, role: str) -> nn.Module:
        kind = getattr(config, f"{role}_neuron")
        return RoleNeurons.from_config(config).make(kind)

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        return self.scores(q, k, bias) * allowed

    def streams(self, device: str) -> bool:
        return runs(device, self._refusal())

    def _refusal(self) -> str:
        return "" if self.causal else "the kernel is for causal attention"

    def _streams(self, q: Tensor, k: Tensor, pairs: Pairs, bias: Tensor | None) -> bool:
        refusal = self._refusal()
        if bias is not None or q.shape != k.shape or not pairs.causal:
            refusal = "the kernel takes whole sequences, causal and without a bias"
        return _streaming.streams("a2os2a", refusal, q, pairs, bias)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | Pairs, bias: Tensor | None = None
    ) -> Tensor:
        if isinstance(allowed, Pairs) and self._streams(q, k, allowed, bias):
            return _streaming.a2os2a(q, k, v, allowed)
        allowed, bias = written_out(allowed, bias, q, k)
        if self.order == "scores":
            return super().forward(q, k, v, allowed, bias)
        if bias is not None:
            raise ConfigError("attention_order='state' makes no scores that a bias could join.")
        return self.stream(q, k, v, allowed, None)[0]

    def stream(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs of T new tokens, and Z ``[S, B, H, K, K]`` after them.

        ``allowed`` ``[B or 1, 1, T, T]`` covers the new tokens only; every query sees all of
        ``state``, the Z before them (None at the start).
        """
        real_keys = allowed[..., -1, :].unsqueeze(-1)  # the last query sees every key but padding
        rows = []
        for block in self.blocks(q.shape[-2]):
            q_, k_, v_ = (x[..., block, :] for x in (q, k, v))
            gain = torch.matmul((k_ * real_keys[..., block, :]).transpose(-1, -2), v_)
            if not self.causal:
                state = gain if state is None else state + gain
                rows.append(torch.matmul(q_, state))
                continue
            y = torch.matmul(self.weights(q_, k_, allowed[..., block, block], None), v_)
            rows.append(y if state is None else y + torch.matmul(q_, state))
            state = gain if state is None else state + gain
        assert state is not None
        return torch.cat(rows, -2), state

    def blocks(self, tokens: int) -> Iterator[slice]:
        """Slices that ``stream`` takes one after another; a single one without a causal mask."""
        size = BLOCK if self.causal else tokens
        for start in range(0, tokens, size):
            yield slice(start, min(start + size, tokens))

    def state_macs(self, q: Tensor) -> int:
        """Causal blocks also compute scores of their own, and the first has no state to read."""
        tokens, width = q.shape[-2:]
        total = 0
        for number, block in enumerate(self.blocks(tokens)):
            size = block.stop - block.start
            total += size * width * width * (1 if self.causal and number == 0 else 2)
            total += 2 * size * size * width if self.causal else 0
        return q.numel() // (tokens * width) * total

    def points(self, value_type: str, values: str, *, fired: bool) -> list[tuple[str, str, str]]:
        values = f"sums of entries of K with signs; order {self.order}"
        return [("Q K^T V", "real", values)]

    def extra_repr(self) -> str:
        return f"order={self.order}, causal={self.causal}, no scale"
