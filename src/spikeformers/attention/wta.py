"""Winner-take-all spiking self-attention: WSSA, and CWSSA under a causal mask.

    A = Q K^T * s                                   per head
    A_w = WTA_row(A + M)                            M = -inf where a query may not see a key
    Y = A_w V

    hard       A_w[i, j] = 1 iff j is the first argmax of row i
    top_k      1 at the K largest of row i (fewer where fewer are allowed), lowest index on ties
    sparsemax  Euclidean projection of row i on the simplex (Martins & Astudillo 2016, 1602.02068)

Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321.
The mask comes before the competition, so a row's winners never depend on later tokens.

Unspecified by the paper: s (1/sqrt(head width); it does not change which keys win), and the
surrogate. Here the backward pass of hard and top-K is that of

    w = hard - p.detach() + p,   p = softmax(A / temperature + M)      A with the bias, if any

with the full softmax Jacobian. ``winner_weight="mean"`` gives each of K winners 1/K.
With levels > 1 the scores sum over all pairs of sub-spikes before the one competition.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from spikeformers.attention import _streaming
from spikeformers.attention._base import ScaledAttention, at_least_float32, masked_softmax, scale_of
from spikeformers.attention._blocks import (
    NEVER,
    block_scores,
    first_argmax,
    query_blocks,
    row_numbers,
    softmax_gradients,
    terms_of,
)
from spikeformers.attention._pairs import Pairs, written_out
from spikeformers.errors import ConfigError, nearest
from spikeformers.kernels.triton import runs

Competition = Literal["hard", "top_k", "sparsemax"]
COMPETITIONS: tuple[Competition, ...] = ("hard", "top_k", "sparsemax")


def winners_of(scores: Tensor, winners: int) -> tuple[Tensor, Tensor]:
    """Indices ``[..., T, W]`` of each row's winners, best first, and a mask of those that exist.

    A row with fewer than W allowed keys repeats an index where the mask is false. ``scores`` holds
    -inf where a key is not allowed; ties go to the lowest index.
    """
    indices: list[Tensor] = []
    exists: list[Tensor] = []
    left = scores.detach()
    for rank in range(min(winners, scores.shape[-1])):
        if rank:
            left = left.scatter(-1, indices[-1], NEVER)
        best, index = first_argmax(left)
        indices.append(index)
        exists.append(best > NEVER)
    return torch.cat(indices, -1), torch.cat(exists, -1)


def one_hot(index: Tensor, exists: Tensor, keys: int) -> Tensor:
    """Rows with ones at the winners, ``[..., T, keys]``."""
    rows = torch.zeros(*index.shape[:-1], keys, device=index.device)
    return rows.scatter_add_(-1, index, exists.to(rows.dtype))


def sparsemax(scores: Tensor) -> Tensor:
    """Projection of each row on the probability simplex; -inf entries get zero."""
    ordered = scores.sort(dim=-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    finite = ordered > float("-inf")
    ordered = torch.where(finite, ordered, torch.zeros_like(ordered))
    total = ordered.cumsum(-1)
    support = ((1 + rank * ordered > total) & finite).sum(-1, keepdim=True)
    tau = (total.gather(-1, (support - 1).clamp_min(0)) - 1) / support.clamp_min(1)
    return torch.relu(scores - tau)


class _Compete(torch.autograd.Function):
    """``y = WTA(scores) v`` by gathering the winners' rows; softmax surrogate backwards.

    Both passes take the queries block by block (``_blocks``); the backward pass recomputes the
    scores.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        allowed: Tensor,
        scale: Tensor,
        temperature: float,
        winners: int,
        weight: float,
        unit: float | Tensor | None = None,
    ) -> Tensor:
        batch, y = q.shape[:-2], torch.zeros_like(q)
        allowed = allowed.expand(-1, -1, q.shape[-2], k.shape[-2])
        blocks = query_blocks(allowed, q, k.shape[-2], winners)
        terms = terms_of(bias, allowed, q.dtype)
        q, k, v = q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3)
        winners_of_blocks = [
            winners_of(block_scores(q, k, scale, terms, unit, batch, block), winners)
            for block in blocks
        ]
        index, exists = (torch.cat(parts, -2) for parts in zip(*winners_of_blocks, strict=True))
        counts = exists.to(v.dtype)
        for row, count in zip(row_numbers(index, k.shape[-2]), counts.unbind(-1), strict=True):
            won = v.flatten(0, 1).index_select(0, row).view_as(y)
            y.addcmul_(won, count.unsqueeze(-1))
        ctx.save_for_backward(q, k, v, scale, index, counts, *terms)
        ctx.batch, ctx.blocks, ctx.unit = batch, blocks, unit
        ctx.temperature, ctx.weight = temperature, weight
        return y.mul_(weight) if weight != 1 else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, scale, index, counts, *terms = ctx.saved_tensors
        gy = grads[0].flatten(0, -3)
        seen = counts[..., :1] > 0
        g_q, g_k, g_bias, g_scale = softmax_gradients(ctx, gy, (q, k, v, scale, *terms), seen)
        g_v = v.new_zeros(v.shape)  # contiguous: its rows are added to in place
        for row, count in zip(row_numbers(index, k.shape[-2]), counts.unbind(-1), strict=True):
            g_rows = gy * (count * ctx.weight).view(*gy.shape[:-1], 1)
            g_v.flatten(0, 1).index_add_(0, row, g_rows.flatten(0, 1))
        g_v = g_v.view(*ctx.batch, *g_v.shape[1:])
        return g_q, g_k, g_v, g_bias, None, g_scale, None, None, None, None


Kind = TypeVar("Kind", bound="WTA")


class WTA(ScaledAttention):
    """Winner-take-all attention with ``winners`` keys per query (hard: one)."""

    has_competition = True
    options = ("wta", "winners", "winner_weight")

    def __init__(
        self,
        scale: float,
        competition: Competition = "hard",
        winners: int = 1,
        temperature: float = 1.0,
        winner_weight: Literal["one", "mean"] = "one",
        heads: int = 1,
        learn_scale: bool = False,
    ) -> None:
        super().__init__(scale, heads, learn_scale)
        if competition not in COMPETITIONS:
            raise ConfigError(
                f"unknown wta {competition!r}; known: {', '.join(COMPETITIONS)}."
                f"{nearest(competition, COMPETITIONS)}"
            )
        if winners < 1 or temperature <= 0:
            raise ConfigError(
                f"winners must be at least 1 and surrogate_temperature positive, "
                f"not {winners} and {temperature}."
            )
        self.competition, self.temperature = competition, temperature
        self.winners = 1 if competition == "hard" else winners
        self.weight = 1.0 / self.winners if winner_weight == "mean" else 1.0
        self.weights_are_binary = competition == "hard" or (
            competition == "top_k" and self.weight == 1
        )
        self.weights_are_real = competition == "sparsemax"
        self.reads_per_query = None if competition == "sparsemax" else self.winners

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            scale_of(config),
            config.wta,
            config.winners,
            config.surrogate_temperature,
            config.winner_weight,
            config.num_attention_heads,
            config.learn_attention_scale,
        )

    def streams(self, device: str) -> bool:
        return runs(device, _streaming.wta_refusal(self))

    def engine_rule(self) -> dict[str, Any]:
        if self.competition == "sparsemax":
            return {"rule": "sparsemax"}
        return {"rule": "winners", "winners": self.winners, "weight": self.weight}

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):  # as in forward
            q, k = at_least_float32(q), at_least_float32(k)
            scores = self.scores(q, k, bias).masked_fill(~allowed, float("-inf"))
        if self.competition == "sparsemax":
            return sparsemax(scores)
        index, exists = winners_of(scores, self.winners)
        hard = one_hot(index, exists, k.shape[-2]).to(q.dtype) * self.weight
        if not torch.is_grad_enabled():
            return hard
        p = masked_softmax(scores / self.temperature, allowed)
        return hard - p.detach() + p

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | Pairs, bias: Tensor | None = None
    ) -> Tensor:
        if _streaming.streams("wta", _streaming.wta_refusal(self), q, allowed, bias):
            return _streaming.wta(self, q, k, v, allowed, bias)
        allowed, bias = written_out(allowed, bias, q, k)
        if self.competition == "sparsemax":
            return super().forward(q, k, v, allowed, bias)
        # Scores of spikes are exact in float32; half precision would invent ties.
        with torch.autocast(q.device.type, enabled=False):
            y: Tensor = _Compete.apply(
                at_least_float32(q),
                at_least_float32(k),
                at_least_float32(v),
                None if bias is None else at_least_float32(bias),
                allowed,
                self.scale(),
                self.temperature,
                self.winners,
                self.weight,
                self.score_unit,
            )
        return y.to(v.dtype)

    def operations(self, pairs: Tensor) -> dict[str, int]:
        keys = pairs.sum(-1)
        if self.competition == "sparsemax":  # a sort, a running sum, the threshold
            number = int(pairs.sum())
            sort = int((keys * keys.clamp_min(1).double().log2().ceil()).sum())
            return {"mult": number, "add": 3 * number, "winner_compare": sort}
        passes = sum(int((keys - 1 - rank).clamp_min(0).sum()) for rank in range(self.winners))
        return {"winner_compare": passes}

    def extra_repr(self) -> str:
        return (
            f"{self.competition}, winners={self.winners}, weight={self.weight:.4g}, "
            f"temperature={self.temperature}, {super().extra_repr()}"
        )
