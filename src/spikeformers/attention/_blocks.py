"""Scores in blocks of queries: small enough for the cache, without keys that no query may see.

Under a causal mask that is half of T x J, and the full T x J matrix never exists. On an
accelerator there is one block, because reading the mask would wait for the device.

On CPU, torch's bool kernels and its argmax are several times slower than float kernels. Masks are
therefore 0 and -inf and added, and the first maximum is computed from two float maxima.

N is S * B * H: all heads form one batch of products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 32
"""Queries per block."""
ONE_BLOCK_SCORES = 2**18
"""Up to this many scores fit in the cache, so blocks would only add calls."""
ARGMAX_SCORES = 2**14
"""With fewer scores, one slow argmax is faster than several fast calls."""

NEVER = float("-inf")


@dataclass
class Block:
    """Consecutive queries, and the keys up to the last that any of them may see."""

    rows: slice
    keys: slice


def query_blocks(allowed: Tensor, q: Tensor, keys: int, fewest: int = 1) -> list[Block]:
    """Blocks that cover all queries in order; ``allowed`` ``[B or 1, 1, T, J]``.

    Each has at least ``fewest`` keys, or all of them if there are fewer.
    """
    queries = q.shape[-2]
    small = q.shape[:-1].numel() * keys <= ONE_BLOCK_SCORES
    if queries <= ROWS or small or allowed.device.type != "cpu":
        return [Block(slice(0, queries), slice(0, keys))]
    fewest = min(fewest, keys)
    visible = allowed.any(0)[0]
    # The number of keys up to the last that each query sees; 0 where it sees none.
    ends = (visible * torch.arange(1, keys + 1)).amax(-1).tolist()
    spans = [(start, min(start + ROWS, queries)) for start in range(0, queries, ROWS)]
    return [Block(slice(i, j), slice(0, max(fewest, *ends[i:j]))) for i, j in spans]


def terms_of(bias: Tensor | None, allowed: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The terms added to scaled scores: the bias, and -inf where a query may not look.

    One tensor holds both if all sequences share one mask.
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
    unit: float | Tensor | None,
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
    """Highest score of each row, and the lowest index where it occurs; both ``[..., T, 1]``."""
    best = scores.amax(-1, keepdim=True)
    if scores.device.type != "cpu" or scores.numel() < ARGMAX_SCORES:
        return best, scores.argmax(-1, keepdim=True)
    keys = scores.shape[-1]
    hits = torch.eq(scores, best, out=torch.empty_like(scores))
    hits *= torch.arange(keys, 0, -1, dtype=scores.dtype)  # the lower the index the heavier
    index = keys - hits.amax(-1, keepdim=True).long()
    return best, index.clamp_(max=keys - 1)  # a row with a NaN has no hit


def row_numbers(index: Tensor, keys: int) -> list[Tensor]:
    """For each rank, winners ``[S, B, H, T, W]`` as row numbers of v as one matrix ``[N * J, K]``.

    Indexing whole rows is several times faster than gather and scatter over every element.
    """
    first = torch.arange(index.shape[:3].numel(), device=index.device) * keys
    rows = index + first.view(*index.shape[:3], 1, 1)
    return [row.flatten() for row in rows.unbind(-1)]
