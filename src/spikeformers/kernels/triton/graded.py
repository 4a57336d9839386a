"""Winners graded by powers of two, streaming: memory grows with T, not with T x J.

`spikeformers.attention.power_of_two` is the definition. A weight depends on its row's best score
and on the sum over the row, so a block of queries passes over the keys three times: for the best
score (and the surrogate's softmax, as in ``wta``), for the sum, and for the weighted rows of V.
Each pass computes the scores again; memory has none of them.

Shapes: N = S * B times H heads, T queries, J keys, K per head.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch, _softmax_gradients
from spikeformers.kernels.triton._grades import octaves_of, place_of, power_of
from spikeformers.kernels.triton._launch import (
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
from spikeformers.kernels.triton.wta import FORWARD


@triton.jit
def _scores(
    q, K, rows, j, dims, scale, LINE, MASK, queries, keys, width, unit,
    UNIT: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Scores of a block of queries and the keys j, which are read for them."""
    products = dot(q, tl.trans(read_rows(K, j, dims, keys, width)), WIDE)
    return scores_of(
        products, rows[:, None], j[None, :], scale, LINE, MASK,
        queries, keys, unit, UNIT, BIASED, MASKED, CAUSAL,
    )  # fmt: skip


@triton.jit
def _forward(
    Q, K, V, SCALE, LINE, MASK, UNITS, Y, GRADES, SOFT, LSE,
    heads, queries, keys, width, batch, temperature,
    DIGITS: tl.constexpr, FURTHEST: tl.constexpr, SILENT: tl.constexpr, UNIT: tl.constexpr,
    BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, SURROGATE: tl.constexpr,
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
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, (block + 1) * BT + keys - queries)

    best = tl.full([BT], float("-inf"), tl.float32)
    highest = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    soft = tl.zeros([BT, BK], tl.float32)
    for start in range(0, end, BJ):
        j = start + columns
        s = _scores(
            q, K, rows, j, dims, scale, LINE, MASK, queries, keys, width, unit,
            UNIT, BIASED, MASKED, CAUSAL, WIDE,
        )  # fmt: skip
        best = tl.maximum(best, tl.max(s, 1))
        if SURROGATE:
            raised = best / temperature
            shift = tl.where(raised == float("-inf"), 0.0, raised)
            fade = tl.exp(highest - shift)
            p = tl.exp(s / temperature - shift[:, None])
            v = read_rows(V, j, dims, keys, width)
            total = total * fade + tl.sum(p, 1)
            soft = soft * fade[:, None] + dot(p.to(v.dtype), v, WIDE)
            highest = raised
    inside = rows < queries
    if SURROGATE:
        sees = total > 0
        soft = soft / tl.where(sees, total, 1.0)[:, None]
        write_rows(SOFT + n * queries * width, soft, rows, dims, queries, width)
        lse = highest + tl.log(tl.where(sees, total, 1.0))
        tl.store(LSE + n * queries + rows, tl.where(sees, lse, float("inf")), mask=inside)

    best = tl.where(best == float("-inf"), 0.0, best)
    heard = tl.zeros([BT], tl.float32)
    for start in range(0, end, BJ):
        j = start + columns
        s = _scores(
            q, K, rows, j, dims, scale, LINE, MASK, queries, keys, width, unit,
            UNIT, BIASED, MASKED, CAUSAL, WIDE,
        )  # fmt: skip
        octaves = octaves_of(s, best[:, None], DIGITS, FURTHEST, SILENT)
        heard += tl.sum(power_of(octaves, DIGITS, SILENT), 1)
    steps: tl.constexpr = 2 ** (DIGITS - 1)
    down = place_of(heard) * steps

    y = tl.zeros([BT, BK], tl.float32)
    for start in range(0, end, BJ):
        j = start + columns
        v = read_rows(V, j, dims, keys, width)
        s = _scores(
            q, K, rows, j, dims, scale, LINE, MASK, queries, keys, width, unit,
            UNIT, BIASED, MASKED, CAUSAL, WIDE,
        )  # fmt: skip
        octaves = octaves_of(s, best[:, None], DIGITS, FURTHEST, SILENT) - down[:, None]
        y += dot(power_of(octaves, DIGITS, SILENT).to(v.dtype), v, WIDE)
    write_rows(Y + n * queries * width, y, rows, dims, queries, width)
    GRADES += (n * queries + rows) * 2
    tl.store(GRADES, best, mask=inside)
    tl.store(GRADES + 1, down, mask=inside)


def _run(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, line: Tensor | None, mask: Tensor | None,
    causal: bool, temperature: float, digits: int, furthest: int, silent: int,
    unit: Tensor | None, surrogate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    heads, queries, keys, width, batch = sizes_of(q, k, mask)
    q, k, v, scale = (x.contiguous() for x in (q, k, v, scale))
    y = _launch.empty(v, q.shape, torch.float32)
    grades = _launch.empty(q, (*q.shape[:-1], 2), torch.float32)
    kept = q.shape if surrogate else (0,)
    soft = _launch.empty(q, kept, torch.float32)
    lse = _launch.empty(q, kept[:-1] if surrogate else kept, torch.float32)
    t = tile_of(FORWARD, q)
    line_ = scale if line is None else line.contiguous()
    _forward[(triton.cdiv(queries, t.rows) * q.shape[0] * heads,)](
        q, k, v, scale, line_, mask_bytes(mask, q), unit_of(unit, scale), y, grades, soft, lse,
        heads, queries, keys, width, batch, temperature,
        DIGITS=digits, FURTHEST=furthest, SILENT=silent, SURROGATE=surrogate,
        BT=t.rows, BJ=t.columns, BK=padded(width), UNIT=unit is not None,
        **pair_flags(line, mask, causal), **t.options,
    )  # fmt: skip
    return y, grades, soft, lse


def _fake(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, line: Tensor | None, mask: Tensor | None,
    causal: bool, temperature: float, digits: int, furthest: int, silent: int,
    unit: Tensor | None, surrogate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    kept = q.shape if surrogate else (0,)
    return (
        v.new_empty(q.shape, dtype=torch.float32),
        q.new_empty((*q.shape[:-1], 2), dtype=torch.float32),
        q.new_empty(kept, dtype=torch.float32),
        q.new_empty(kept[:-1] if surrogate else kept, dtype=torch.float32),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (causal, temperature, *rule, unit, _) = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors, unit, *output[1:])
    ctx.causal, ctx.temperature, ctx.rule = causal, temperature, rule
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    q, k, v, scale, line, mask, unit, grades, soft, lse = ctx.saved_tensors
    if gy is None:
        return (None,) * 13
    biased = line is not None and ctx.needs_input_grad[4]
    gq, gk, gv, gscale, gline = _softmax_gradients.operator(
        gy, q, k, v, scale, line, mask, None, grades, soft, lse,
        ctx.causal, ctx.temperature, 1.0, *ctx.rule, unit, biased,
    )  # fmt: skip
    return gq, gk, gv, gscale, gline if biased else None, *(None,) * 8


forward_operator = _launch.operator(
    "graded",
    "(Tensor q, Tensor k, Tensor v, Tensor scale, Tensor? line, Tensor? mask, bool causal, "
    "float temperature, int digits, int furthest, int silent, Tensor? unit, bool surrogate) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
    _backward,
    _save,
)


def graded_sum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    line: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    digits: int,
    furthest: int,
    silent: int,
    causal: bool = False,
    temperature: float = 1.0,
    unit: Tensor | None = None,
) -> Tensor:
    """Output ``[SB, H, T, K]``, float32: rows of V by weights of ``digits`` binary digits.

    Keys more than ``furthest`` octaves below the row's winner are put at ``silent`` octaves and
    weigh nothing. Operands and the other options are those of `wta.winner_take_all`.
    """
    surrogate = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (q, k, v, scale, line)
    )
    y: Tensor
    y, *_ = forward_operator(
        q, k, v, scale, line, mask, causal, temperature, digits, furthest, silent, unit, surrogate
    )
    return y
