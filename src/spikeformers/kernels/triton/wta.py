"""Winner-take-all attention, streaming: memory grows with T, not with T x J.

`spikeformers.attention.wta` is the definition. Forward, a block of queries passes over the keys,
keeping each row's best scores and their indices; in ascending order of keys, a later score has to
be higher, so the lowest index wins ties. The surrogate's softmax p is kept as its logarithmic sum
and as P V, as FlashAttention does (https://arxiv.org/abs/2205.14135). Backward recomputes scores:

    dV = A_w^T dY      dS = P * (dY V^T - rowsum(dY * P V)) / temperature      dQ = s dS K, ...

Every sum has a fixed order: no atomics, the same bits in each run.

Shapes: N = S * B times H heads, T queries, J keys, K per head.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch, _softmax_gradients
from spikeformers.kernels.triton._launch import (
    Tile,
    dot,
    first_mask,
    mask_bytes,
    padded,
    pair_flags,
    read_rows,
    write_rows,
)
from spikeformers.kernels.triton._softmax_gradients import (
    place,
    scores_of,
    sizes_of,
    tile_of,
    unit_of,
)

FORWARD = {64: Tile(128, 64, 8, 3), 128: Tile(128, 64, 8, 3), 256: Tile(64, 32, 8, 2)}


@triton.jit
def _keep_best(scores, j, values, indices, W: tl.constexpr, SLOTS: tl.constexpr):
    """Winners among those so far and a block's: the worst, of equals the last, gives way."""
    slot = tl.arange(0, SLOTS)[None, :]
    left = scores
    for _ in tl.static_range(W):
        top = tl.max(left, 1)
        at = tl.min(tl.where(left == top[:, None], j, 2147483647), 1)
        least = tl.min(values, 1)
        order = tl.where(values == least[:, None], (indices + 1) * SLOTS + slot, -1)
        out = (order == tl.max(order, 1)[:, None]) & (top > least)[:, None]
        values = tl.where(out, top[:, None], values)
        indices = tl.where(out, at[:, None], indices)
        left = tl.where(j == at[:, None], float("-inf"), left)
    return values, indices


@triton.jit
def _forward(
    Q, K, V, SCALE, LINE, MASK, UNITS, Y, INDEX, SOFT, LSE,
    heads, queries, keys, width, batch, temperature, weight,
    W: tl.constexpr, SLOTS: tl.constexpr, UNIT: tl.constexpr, BIASED: tl.constexpr,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, SURROGATE: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    block, n, h, b = place(tl.program_id(0), tl.cdiv(queries, BT), heads, batch)
    rows, columns, dims = block * BT + tl.arange(0, BT), tl.arange(0, BJ), tl.arange(0, BK)
    K += n * keys * width
    V += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    q = read_rows(Q + n * queries * width, rows, dims, queries, width)
    scale, unit = tl.load(SCALE + h), tl.load(UNITS)

    best = tl.full([BT], float("-inf"), tl.float32)
    index = tl.full([BT], -1, tl.int32)
    slot = tl.arange(0, SLOTS)[None, :]
    values = tl.zeros([BT, SLOTS], tl.float32) + tl.where(slot < W, float("-inf"), float("inf"))
    indices = tl.full([BT, SLOTS], -1, tl.int32)
    highest = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    soft = tl.zeros([BT, BK], tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, (block + 1) * BT + keys - queries)
    for start in range(0, end, BJ):
        j = start + columns
        k = read_rows(K, j, dims, keys, width)
        s = scores_of(
            dot(q, tl.trans(k), WIDE), rows[:, None], j[None, :], scale, LINE, MASK,
            queries, keys, unit, UNIT, BIASED, MASKED, CAUSAL,
        )  # fmt: skip
        top = tl.max(s, 1)
        if W == 1:
            at = tl.min(tl.where(s == top[:, None], j[None, :], 2147483647), 1)
            better = top > best
            best = tl.where(better, top, best)
            index = tl.where(better, at, index)
        else:
            rivals = (top > tl.min(values, 1)).to(tl.int32)
            if tl.max(rivals, 0) > 0:
                values, indices = _keep_best(s, j[None, :], values, indices, W, SLOTS)
        if SURROGATE:
            raised = tl.maximum(highest, top / temperature)
            shift = tl.where(raised == float("-inf"), 0.0, raised)
            fade = tl.exp(highest - shift)
            p = tl.exp(s / temperature - shift[:, None])
            v = read_rows(V, j, dims, keys, width)
            total = total * fade + tl.sum(p, 1)
            soft = soft * fade[:, None] + dot(p.to(v.dtype), v, WIDE)
            highest = raised

    inside = rows < queries
    INDEX += (n * queries + rows) * W
    within = inside[:, None] & (dims < width)[None, :]
    y = tl.zeros([BT, BK], tl.float32)
    for rank in tl.static_range(W):
        if W > 1:  # best first, of equals the lowest index
            left = tl.where(slot < W, values, float("-inf"))
            best = tl.max(left, 1)
            wins = (left == best[:, None]) & (indices >= 0)
            index = tl.min(tl.where(wins, indices, 2147483647), 1)
            values = tl.where(indices == index[:, None], float("-inf"), values)
            indices = tl.where(indices == index[:, None], -1, indices)
            index = tl.where(best > float("-inf"), index, -1)
        won = V + tl.maximum(index, 0)[:, None] * width + dims[None, :]
        y += tl.load(won, mask=within & (index >= 0)[:, None], other=0.0).to(tl.float32)
        tl.store(INDEX + rank, index, mask=inside)
    write_rows(Y + n * queries * width, y * weight, rows, dims, queries, width)
    if SURROGATE:
        sees = total > 0
        soft = soft / tl.where(sees, total, 1.0)[:, None]
        write_rows(SOFT + n * queries * width, soft, rows, dims, queries, width)
        lse = highest + tl.log(tl.where(sees, total, 1.0))
        tl.store(LSE + n * queries + rows, tl.where(sees, lse, float("inf")), mask=inside)


def _run(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, line: Tensor | None, mask: Tensor | None,
    causal: bool, temperature: float, winners: int, weight: float, unit: Tensor | None,
    surrogate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    heads, queries, keys, width, batch = sizes_of(q, k, mask)
    q, k, v, scale = (x.contiguous() for x in (q, k, v, scale))
    y = _launch.empty(v, q.shape)
    index = _launch.empty(q, (*q.shape[:-1], winners), torch.int32)
    kept = q.shape if surrogate else (0,)
    soft = _launch.empty(q, kept, torch.float32)
    lse = _launch.empty(q, kept[:-1] if surrogate else kept, torch.float32)
    t = tile_of(FORWARD, q)
    line_ = scale if line is None else line.contiguous()
    _forward[(triton.cdiv(queries, t.rows) * q.shape[0] * heads,)](
        q, k, v, scale, line_, mask_bytes(mask, q), unit_of(unit, scale), y, index, soft, lse,
        heads, queries, keys, width, batch, temperature, weight,
        W=winners, SLOTS=triton.next_power_of_2(winners), SURROGATE=surrogate,
        BT=t.rows, BJ=t.columns, BK=padded(width), UNIT=unit is not None,
        **pair_flags(line, mask, causal), **t.options,
    )  # fmt: skip
    return y, index, soft, lse


def _fake(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, line: Tensor | None, mask: Tensor | None,
    causal: bool, temperature: float, winners: int, weight: float, unit: Tensor | None,
    surrogate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    kept = q.shape if surrogate else (0,)
    return (
        v.new_empty(q.shape),
        q.new_empty((*q.shape[:-1], winners), dtype=torch.int32),
        q.new_empty(kept, dtype=torch.float32),
        q.new_empty(kept[:-1] if surrogate else kept, dtype=torch.float32),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (causal, temperature, _, weight, unit, _) = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors, unit, *output[1:])
    ctx.causal, ctx.temperature, ctx.weight = causal, temperature, weight
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    q, k, v, scale, line, mask, unit, index, soft, lse = ctx.saved_tensors
    if gy is None:
        return (None,) * 12
    biased = line is not None and ctx.needs_input_grad[4]
    gq, gk, gv, gscale, gline = _softmax_gradients.operator(
        gy, q, k, v, scale, line, mask, index, None, soft, lse,
        ctx.causal, ctx.temperature, ctx.weight, 0, 0, 0, unit, biased,
    )  # fmt: skip
    return gq, gk, gv, gscale, gline if biased else None, *(None,) * 7


forward_operator = _launch.operator(
    "wta",
    "(Tensor q, Tensor k, Tensor v, Tensor scale, Tensor? line, Tensor? mask, bool causal, "
    "float temperature, int winners, float weight, Tensor? unit, bool surrogate) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
    _backward,
    _save,
)


def winner_take_all(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    line: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    temperature: float = 1.0,
    winners: int = 1,
    weight: float = 1.0,
    unit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output ``[SB, H, T, K]``, and the winners' keys ``[SB, H, T, W]``, best first, -1 for none.

    ``q`` ``[SB, H, T, K]``, ``k`` and ``v`` ``[SB, H, J, K]``, of one type (float32, bfloat16 or
    float16); ``scale`` ``[H]``; ``line`` ``[H, T + J - 1]``: the bias of query i and key j is
    ``line[h, T - 1 - i + j]``; ``mask`` (bool), which keys may be seen, ``[B or 1, J]``, or by
    which query, ``[B or 1, T, J]``, with B the fastest part of SB. ``causal``: the last query is
    at the last key. Scores before the scale are rounded to multiples of ``unit`` ``[1]``. See the
    limits in `spikeformers.kernels.triton`.
    """
    surrogate = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (q, k, v, scale, line)
    )
    y, index, _, _ = forward_operator(
        q, k, v, scale, line, mask, causal, temperature, winners, weight, unit, surrogate
    )
    return y, index
