"""Gradients of SFSA, and what both passes share; see ``sfsa``."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch
from spikeformers.kernels.triton._launch import (
    Diagonals,
    Tile,
    diagonals,
    dot,
    first_mask,
    mask_bytes,
    padded,
    pair_flags,
    read_rows,
    tile,
    visible,
    write_rows,
)
from spikeformers.kernels.triton.scan import kept, through_step


@triton.jit
def current_of(
    products, i, j, seen, scale, LINE, queries, BIASED: tl.constexpr
):  # fmt: skip
    current = products * scale
    if BIASED:
        current = current + tl.load(LINE + (queries - 1 - i + j), mask=seen, other=0.0)
    return tl.where(seen, current, 0.0)


@triton.jit
def take(stack, step, SLOTS: tl.constexpr):
    slot = tl.arange(0, SLOTS)[:, None, None]
    return tl.sum(tl.where(slot == step, stack, 0.0), 0)


@triton.jit
def add(stack, step, values, SLOTS: tl.constexpr):
    slot = tl.arange(0, SLOTS)[:, None, None]
    return stack + tl.where(slot == step, values[None, :, :], 0.0)


@triton.jit
def _membranes(
    A, B, a_rows, b_rows, dims, a_height, b_height, a_step, b_step, i, j, seen, scale, v_th, LINE,
    queries, width, decay, steps, SLOTS: tl.constexpr, BIASED: tl.constexpr, RESET: tl.constexpr,
    BA: tl.constexpr, BB: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """U of all steps ``[SLOTS, BA, BB]``, of scores ``A B^T`` in either orientation."""
    slot = tl.arange(0, SLOTS)[:, None, None]
    membranes = tl.zeros([SLOTS, BA, BB], tl.float32)
    carry = tl.zeros([BA, BB], tl.float32)
    for step in range(steps):
        a = read_rows(A + step * a_step, a_rows, dims, a_height, width)
        b = read_rows(B + step * b_step, b_rows, dims, b_height, width)
        u = carry + current_of(dot(a, tl.trans(b), WIDE), i, j, seen, scale, LINE, queries, BIASED)
        membranes = tl.where(slot == step, u[None, :, :], membranes)
        carry = kept(u, tl.where(u >= v_th, 1.0, 0.0), v_th, decay, RESET)
    return membranes


@triton.jit
def _backward_queries(
    Q, K, V, SCALE, V_TH, LINE, MASK, GY, GQ, GSCALE, GTH,
    steps, numbers, heads, queries, keys, width, batch, decay, sharpness,
    SLOTS: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    RESET: tl.constexpr, KIND: tl.constexpr, LEARNED: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(queries, BT)
    block, number = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    n, h, b = number.to(tl.int64), number % heads, (number // heads) % batch
    rows, dims = block * BT + tl.arange(0, BT), tl.arange(0, BK)
    Q += n * queries * width
    GY += n * queries * width
    GQ += n * queries * width
    K += n * keys * width
    V += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    q_step = numbers.to(tl.int64) * queries * width
    k_step = numbers.to(tl.int64) * keys * width
    scale, v_th = tl.load(SCALE + h), tl.load(V_TH + h)
    gq = tl.zeros([SLOTS, BT, BK], tl.float32)
    g_th = tl.zeros([BT, BJ], tl.float32)
    end = keys
    if CAUSAL and not LEARNED:
        end = tl.minimum(keys, (block + 1) * BT + keys - queries)
    for start in range(0, end, BJ):
        j = start + tl.arange(0, BJ)
        seen = visible(rows[:, None], j[None, :], MASK, queries, keys, MASKED, CAUSAL)
        membranes = _membranes(
            Q, K, rows, j, dims, queries, keys, q_step, k_step, rows[:, None], j[None, :], seen,
            scale, v_th, LINE, queries, width, decay, steps, SLOTS, BIASED, RESET, BT, BJ, WIDE,
        )  # fmt: skip
        later = tl.zeros([BT, BJ], tl.float32)
        for back in range(steps):
            step = steps - 1 - back
            u = take(membranes, step, SLOTS)
            gy = read_rows(GY + step * q_step, rows, dims, queries, width)
            k = read_rows(K + step * k_step, j, dims, keys, width)
            v = read_rows(V + step * k_step, j, dims, keys, width)
            edges = tl.where(u >= v_th, 1.0, 0.0)
            later, share = through_step(
                dot(gy, tl.trans(v), WIDE), later, u, edges, v_th, decay, sharpness, RESET, KIND
            )
            g_th += share
            gs = tl.where(seen, later, 0.0)
            gq = add(gq, step, dot(gs.to(k.dtype), k, WIDE), SLOTS)
    g_scale = tl.zeros([BT], tl.float32)
    for step in range(steps):
        mine = take(gq, step, SLOTS)
        q = read_rows(Q + step * q_step, rows, dims, queries, width)
        g_scale += tl.sum(mine * q.to(tl.float32), 1)
        write_rows(GQ + step * q_step, mine * scale, rows, dims, queries, width)
    tl.store(GSCALE + tl.program_id(0), tl.sum(g_scale, 0))
    tl.store(GTH + tl.program_id(0), tl.sum(tl.sum(g_th, 1), 0))


@triton.jit
def _backward_keys(
    Q, K, V, SCALE, V_TH, LINE, MASK, GY, GK, GV,
    steps, numbers, heads, queries, keys, width, batch, decay, sharpness,
    SLOTS: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    RESET: tl.constexpr, KIND: tl.constexpr, LEARNED: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Pairs are transposed, ``[BJ, BT]``."""
    blocks = tl.cdiv(keys, BJ)
    block, number = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    n, h, b = number.to(tl.int64), number % heads, (number // heads) % batch
    j, dims = block * BJ + tl.arange(0, BJ), tl.arange(0, BK)
    Q += n * queries * width
    GY += n * queries * width
    K += n * keys * width
    V += n * keys * width
    GK += n * keys * width
    GV += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    q_step = numbers.to(tl.int64) * queries * width
    k_step = numbers.to(tl.int64) * keys * width
    scale, v_th = tl.load(SCALE + h), tl.load(V_TH + h)
    gk = tl.zeros([SLOTS, BJ, BK], tl.float32)
    gv = tl.zeros([SLOTS, BJ, BK], tl.float32)
    first = 0
    if CAUSAL:
        first = tl.maximum(block * BJ - (keys - queries), 0) // BT * BT
    for start in range(first, queries, BT):
        rows = start + tl.arange(0, BT)
        seen = visible(rows[None, :], j[:, None], MASK, queries, keys, MASKED, CAUSAL)
        membranes = _membranes(
            K, Q, j, rows, dims, keys, queries, k_step, q_step, rows[None, :], j[:, None], seen,
            scale, v_th, LINE, queries, width, decay, steps, SLOTS, BIASED, RESET, BJ, BT, WIDE,
        )  # fmt: skip
        later = tl.zeros([BJ, BT], tl.float32)
        for back in range(steps):
            step = steps - 1 - back
            u = take(membranes, step, SLOTS)
            q = read_rows(Q + step * q_step, rows, dims, queries, width)
            gy = read_rows(GY + step * q_step, rows, dims, queries, width)
            v = read_rows(V + step * k_step, j, dims, keys, width)
            edges = tl.where(u >= v_th, 1.0, 0.0)
            later, _share = through_step(
                dot(v, tl.trans(gy), WIDE), later, u, edges, v_th, decay, sharpness, RESET, KIND
            )
            gs = tl.where(seen, later, 0.0)
            gk = add(gk, step, dot(gs.to(q.dtype), q, WIDE), SLOTS)
            gv = add(gv, step, dot(edges.to(gy.dtype), gy, WIDE), SLOTS)
    for step in range(steps):
        write_rows(GK + step * k_step, take(gk, step, SLOTS) * scale, j, dims, keys, width)
        write_rows(GV + step * k_step, take(gv, step, SLOTS), j, dims, keys, width)


@triton.jit
def _backward_line(
    Q, K, V, SCALE, V_TH, LINE, MASK, GY, PARTS,
    steps, numbers, heads, queries, keys, width, batch, decay, sharpness, number,
    SLOTS: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, RESET: tl.constexpr,
    KIND: tl.constexpr, SIZE: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of the scores, summed along one diagonal of tiles."""
    block, sequence = tl.program_id(0) % number, tl.program_id(0) // number
    n, h, b = sequence.to(tl.int64), sequence % heads, (sequence // heads) % batch
    dims = tl.arange(0, BK)
    Q += n * queries * width
    GY += n * queries * width
    K += n * keys * width
    V += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    q_step = numbers.to(tl.int64) * queries * width
    k_step = numbers.to(tl.int64) * keys * width
    scale, v_th = tl.load(SCALE + h), tl.load(V_TH + h)
    shift = block - tl.cdiv(queries, SIZE) + 1
    upper = tl.zeros([SIZE], tl.float32)
    lower = tl.zeros([SIZE], tl.float32)
    last = tl.minimum(tl.cdiv(queries, SIZE), tl.cdiv(keys, SIZE) - shift)
    for row_block in range(tl.maximum(-shift, 0), last):
        rows = row_block * SIZE + tl.arange(0, SIZE)
        j = (row_block + shift) * SIZE + tl.arange(0, SIZE)
        seen = visible(rows[:, None], j[None, :], MASK, queries, keys, MASKED, CAUSAL)
        membranes = _membranes(
            Q, K, rows, j, dims, queries, keys, q_step, k_step, rows[:, None], j[None, :], seen,
            scale, v_th, LINE, queries, width, decay, steps, SLOTS, True, RESET, SIZE, SIZE, WIDE,
        )  # fmt: skip
        later = tl.zeros([SIZE, SIZE], tl.float32)
        total = tl.zeros([SIZE, SIZE], tl.float32)
        for back in range(steps):
            step = steps - 1 - back
            u = take(membranes, step, SLOTS)
            gy = read_rows(GY + step * q_step, rows, dims, queries, width)
            v = read_rows(V + step * k_step, j, dims, keys, width)
            edges = tl.where(u >= v_th, 1.0, 0.0)
            later, _share = through_step(
                dot(gy, tl.trans(v), WIDE), later, u, edges, v_th, decay, sharpness, RESET, KIND
            )
            total += tl.where(seen, later, 0.0)
        right, left = diagonals(total, SIZE)
        upper += right
        lower += left
    PARTS += tl.program_id(0).to(tl.int64) * 2 * SIZE + tl.arange(0, SIZE)
    tl.store(PARTS, upper)
    tl.store(PARTS + SIZE, lower)


TILES = {64: Tile(32, 32, 4, 2), 128: Tile(32, 32, 8, 1)}
FULL = {64: Tile(32, 32, 4, 1), 128: Tile(16, 16, 4, 1)}


def launching(q: Tensor, line: Tensor | None, mask: Tensor | None, causal: bool, reset: int) -> Any:
    width = max(64, padded(q.shape[-1]))
    t = tile(TILES[width], FULL[width], q.dtype)
    flags = {
        "SLOTS": triton.next_power_of_2(q.shape[0]),
        "RESET": reset,
        "BK": padded(q.shape[-1]),
        **pair_flags(line, mask, causal),
    }
    return t, flags


def sizes_of(q: Tensor, k: Tensor, mask: Tensor | None) -> tuple[int, ...]:
    steps, batch, heads, queries, width = q.shape
    rows = 1 if mask is None else mask.shape[0]
    return steps, batch * heads, heads, queries, k.shape[-2], width, rows


def operands_of(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, v_th: Tensor, line: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Contiguous; what is missing is replaced by a tensor that is not read."""
    line = scale if line is None else line.contiguous()
    q, k, v, scale, v_th = (x.contiguous() for x in (q, k, v, scale, v_th))
    return q, k, v, scale, v_th, line, mask_bytes(mask, q)


def run(
    gy: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, v_th: Tensor, line: Tensor | None,
    mask: Tensor | None, causal: bool, learned: bool, decay: float, reset: int, kind: int,
    sharpness: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sizes, (t, flags) = sizes_of(q, k, mask), launching(q, line, mask, causal, reset)
    operands = (*operands_of(q, k, v, scale, v_th, line, mask), gy.to(v.dtype).contiguous())
    numbers, heads, queries, keys = sizes[1:5]
    blocks = triton.cdiv(queries, t.rows)
    gq, gk, gv = (_launch.empty(x, x.shape) for x in (q, k, v))
    sums = [_launch.empty(q, (q.shape[1], heads, blocks), torch.float32) for _ in range(2)]
    options = {"KIND": kind, **flags, **t.options}
    both = {"LEARNED": learned, "BT": t.rows, "BJ": t.columns, **options}
    _backward_queries[(blocks * numbers,)](*operands, gq, *sums, *sizes, decay, sharpness, **both)
    _backward_keys[(triton.cdiv(keys, t.columns) * numbers,)](
        *operands, gk, gv, *sizes, decay, sharpness, **both
    )
    gline = scale.new_empty(0)
    if line is not None:
        cut = Diagonals.of(t.columns, queries, keys, causal)
        parts = _launch.empty(q, (q.shape[1], heads, cut.number, 2, cut.size), torch.float32)
        del options["BIASED"]
        _backward_line[(cut.number * numbers,)](
            *operands, parts, *sizes, decay, sharpness, cut.number, SIZE=cut.size, **options
        )
        gline = cut.line(parts.sum(0), queries, keys).contiguous()
    g_scale, g_th = (part.sum((0, 2)) for part in sums)
    return gq, gk, gv, g_scale, g_th, gline


def fake(
    gy: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, v_th: Tensor, line: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    gline = scale.new_empty(0 if line is None else line.shape)
    return (*(x.new_empty(x.shape) for x in (q, k, v, scale, v_th)), gline)
