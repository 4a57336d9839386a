"""Scores in blocks of queries: small enough for the cache, without keys that no query may see.

Under a causal mask that is half of T x J, and the full T x J matrix never exists. On an
accelerator there is one block, because reading the mask would wait for the device; of a fake
tensor, which has no values, too.

On CPU, torch's bool kernels and its argmax are several times slower than float kernels. Masks are
therefore 0 and -inf and added, and the first maximum is computed from two float maxima.

N is S * B * H: all heads form one batch of products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

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
    unreadable = allowed.device.type != "cpu" or isinstance(allowed, FakeTensor)
    if queries <= ROWS or small or unreadable:
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


def softmax_gradients(
    ctx: Any,
    gy: Tensor,
    tensors: tuple[Tensor, ...],
    seen: Tensor,
    with_scores: Callable[[Block, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of q, k, bias and scale, the weights' being that of softmax(scores / temperature).

    ``tensors`` are q, k, v ``[N, T or J, K]``, the scale and the terms of scores, from which each
    block's scores are computed again; ``with_scores`` may read them. ``gy`` ``[N, T, K]`` is the
    gradient of the output. ``seen`` ``[.., T, 1]`` says which queries see a key.
    ``ctx`` has batch, blocks, unit and temperature, and takes a bias as its fourth input and the
    scale as its sixth.
    """
    q, k, v, scale, *terms = tensors
    # A compiled graph holds the mask in any case, where it costs no pass of its own.
    some_see_none = torch.compiler.is_compiling() or not bool(seen.all())
    g_q, g_k = torch.empty_like(q), torch.zeros_like(k)
    g_bias = torch.zeros_like(terms[0]) if ctx.needs_input_grad[3] else None
    for block in ctx.blocks:
        scores = block_scores(q, k, scale, tuple(terms), ctx.unit, ctx.batch, block)
        if with_scores is not None:
            with_scores(block, scores)
        if ctx.temperature != 1:
            scores /= ctx.temperature
        p = torch.softmax(scores, dim=-1)
        if some_see_none:
            p = torch.where(seen[..., block.rows, :], p, torch.zeros_like(p))
        g_p = torch.bmm(gy[:, block.rows], v[:, block.keys].transpose(1, 2))
        # p * (g - sum(p * g)), the softmax Jacobian, in one pass
        g_scores = torch.ops.aten._softmax_backward_data(g_p.view_as(p), p, -1, p.dtype)
        if ctx.temperature != 1:
            g_scores /= ctx.temperature
        if g_bias is not None:
            g_bias[:, block.rows, block.keys] = g_scores.sum((0, 1))
        g_scores = g_scores.flatten(0, -3)
        g_q[:, block.rows] = torch.bmm(g_scores, k[:, block.keys])
        g_k[:, block.keys] += torch.bmm(g_scores.transpose(1, 2), q[:, block.rows])
    g_scale = None
    if ctx.needs_input_grad[5]:
        g_scale = (g_q * q).sum((-2, -1)).view(ctx.batch).sum((0, 1)).view_as(scale)
    g_q, g_k = (g.view(*ctx.batch, *g.shape[1:]).mul_(scale) for g in (g_q, g_k))
    return g_q, g_k, g_bias, g_scale


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
