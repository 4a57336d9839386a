"""Scores in blocks of queries: small enough for the cache, and no key past what a block may see.

Under a causal mask that is half of T x J, and T x J never exists as a whole. On an accelerator
there is one block: reading the mask would wait for the device.

Torch's bool kernels and its argmax are several times slower on CPU than float ones, hence masks of
0 and -inf that are added, and the first maximum by two maxima.

N is S * B * H here, all heads in one batch of products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 32
"""Queries a block."""

NEVER = float("-inf")


@dataclass
class Block:
    """Some queries, and the keys up to the last that one of them may see."""

    rows: slice
    keys: slice


def query_blocks(allowed: Tensor, queries: int, keys: int) -> list[Block]:
    """Blocks that cover all queries in order; ``allowed`` ``[B or 1, 1, T, J]``."""
    if queries <= ROWS or allowed.device.type != "cpu":
        return [Block(slice(0, queries), slice(0, keys))]
    seen = allowed.any(0)[0].expand(queries, keys)
    ends = (seen * torch.arange(1, keys + 1)).amax(-1)  # of each query, 0 where it sees none
    return [
        Block(slice(ROWS * i, ROWS * i + len(some)), slice(0, max(int(some.max()), 1)))
        for i, some in enumerate(ends.split(ROWS))
    ]


def terms_of(bias: Tensor | None, allowed: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What is added to scaled scores: the bias, and -inf where a query may not look.

    One tensor for both where the batch shares its mask.
    """
    if bias is not None and allowed.shape[0] == 1:
        return (bias.masked_fill(~allowed[0], NEVER),)
    wall = torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, NEVER)
    return (wall,) if bias is None else (bias, wall)


def block_scores(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    terms: tuple[Tensor, ...],
    unit: float | None,
    batch: torch.Size,
    block: Block,
) -> Tensor:
    """``Attention.scores`` of one block, masked; q, k ``[N, T, K]``, ``batch`` is (S, B, H)."""
    products = torch.bmm(q[:, block.rows], k[:, block.keys].transpose(1, 2))
    if unit is not None:
        products.div_(unit).round_().mul_(unit)
    scores = products.view(*batch, *products.shape[1:])
    scores *= scale
    for term in terms:
        scores += term[..., block.rows, block.keys]
    return scores


def first_argmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Highest score of each row, and the lowest index that has it; both ``[..., T, 1]``."""
    best = scores.amax(-1, keepdim=True)
    if scores.device.type != "cpu":
        return best, scores.argmax(-1, keepdim=True)
    keys = scores.shape[-1]
    hits = torch.eq(scores, best, out=torch.empty_like(scores))
    hits *= torch.arange(keys, 0, -1, dtype=scores.dtype)  # the lower the index the heavier
    index = keys - hits.amax(-1, keepdim=True).long()
    return best, index.clamp_(max=keys - 1)  # a row with a NaN has no hit


def gather_rows(v: Tensor, index: Tensor, exists: Tensor) -> Tensor:
    """Sum of the winners' rows of v, ``[S, B, H, T, K]``; index and exists ``[S, B, H, T, W]``."""
    keys, width = v.shape[-2:]
    rows = v.transpose(-3, -2).reshape(-1, width)
    y: Tensor | None = None
    for number, count in _row_numbers(index, exists.to(v.dtype), keys):
        won = rows.index_select(0, number.flatten()).view(*number.shape, width).mul_(count)
        y = won if y is None else y.add_(won)
    assert y is not None
    return y.transpose(-3, -2)


def scatter_rows(g: Tensor, index: Tensor, exists: Tensor, keys: int) -> Tensor:
    """Gradient ``[S, B, H, J, K]`` of v where ``g`` is that of ``gather_rows``."""
    steps, batch, heads, _, width = g.shape
    laid_out = g.transpose(-3, -2)
    g_v = g.new_zeros(steps, batch, keys, heads, width)
    for number, count in _row_numbers(index, exists.to(g.dtype), keys):
        g_v.view(-1, width).index_add_(0, number.flatten(), (laid_out * count).flatten(0, -2))
    return g_v.transpose(-3, -2)


def _row_numbers(index: Tensor, exists: Tensor, keys: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each rank the winners' rows in v as ``[S B J H, K]``, and 1 where there is one.

    Both in the order S, B, T, H, in which v leaves its neuron and y enters the next map, so that
    neither is copied.
    """
    steps, batch, heads = index.shape[:3]
    sequence = torch.arange(steps * batch, device=index.device).view(steps, batch, 1, 1)
    head = torch.arange(heads, device=index.device)
    for key, exist in zip(index.unbind(-1), exists.unbind(-1), strict=True):
        number = (sequence * keys + key.transpose(-2, -1)) * heads + head
        yield number, exist.transpose(-2, -1).unsqueeze(-1)
