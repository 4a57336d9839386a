"""Gradients of attention whose surrogate is a softmax, and the scores that both passes compute.

``wta`` has the formulas. Those of V need the weights of the forward pass: ones at the winners, or
grades, which are computed again from each row's best score and place.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch
from spikeformers.kernels.triton._grades import octaves_of, power_of
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
    rint,
    tile,
    visible,
    write_rows,
)


@triton.jit
def scores_of(
    products, i, j, scale, LINE, MASK, queries, keys, unit,
    UNIT: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Scaled and biased scores of queries i and keys j, -inf where a query may not look."""
    scores = products
    if UNIT:
        scores = rint(scores / unit) * unit
    scores = scores * scale
    seen = visible(i, j, MASK, queries, keys, MASKED, CAUSAL)
    if BIASED:
        scores = scores + tl.load(LINE + (queries - 1 - i + j), mask=seen, other=0.0)
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def place(pid, count, heads, batch):
    """Of a program: its block of ``count``, the number of head and sequence, head, and batch row.

    The number has 64 bits, since offsets into whole tensors may need them.
    """
    n = pid // count
    return pid % count, n.to(tl.int64), n % heads, (n // heads) % batch


@triton.jit
def _backward_queries(
    Q, K, V, SCALE, LINE, MASK, GY, LSE, DELTA, UNITS, GQ, GSCALE,
    heads, queries, keys, width, batch, temperature,
    UNIT: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    block, n, h, b = place(tl.program_id(0), tl.cdiv(queries, BT), heads, batch)
    rows, columns, dims = block * BT + tl.arange(0, BT), tl.arange(0, BJ), tl.arange(0, BK)
    K += n * keys * width
    V += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    q = read_rows(Q + n * queries * width, rows, dims, queries, width)
    gy = read_rows(GY + n * queries * width, rows, dims, queries, width)
    lse = tl.load(LSE + n * queries + rows, mask=rows < queries, other=float("inf"))
    delta = tl.load(DELTA + n * queries + rows, mask=rows < queries, other=0.0)
    scale, unit = tl.load(SCALE + h), tl.load(UNITS)
    gq = tl.zeros([BT, BK], tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, (block + 1) * BT + keys - queries)
    for start in range(0, end, BJ):
        j = start + columns
        k = read_rows(K, j, dims, keys, width)
        v = read_rows(V, j, dims, keys, width)
        s = scores_of(
            dot(q, tl.trans(k), WIDE), rows[:, None], j[None, :], scale, LINE, MASK,
            queries, keys, unit, UNIT, BIASED, MASKED, CAUSAL,
        )  # fmt: skip
        p = tl.exp(s / temperature - lse[:, None])
        gs = p * (dot(gy, tl.trans(v), WIDE) - delta[:, None]) / temperature
        gq += dot(gs.to(k.dtype), k, WIDE)
    write_rows(GQ + n * queries * width, gq * scale, rows, dims, queries, width)
    tl.store(GSCALE + tl.program_id(0), tl.sum(tl.sum(gq * q.to(tl.float32), 1), 0))


@triton.jit
def _backward_keys(
    Q, K, V, SCALE, LINE, MASK, GY, LSE, DELTA, UNITS, INDEX, GRADES, GK, GV,
    heads, queries, keys, width, batch, temperature, weight,
    W: tl.constexpr, DIGITS: tl.constexpr, FURTHEST: tl.constexpr, SILENT: tl.constexpr,
    UNIT: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Scores are computed transposed, ``[BJ, BT]``, so that no product has to turn them.

    Weights are ones at W winners, or grades if DIGITS is not 0.
    """
    block, n, h, b = place(tl.program_id(0), tl.cdiv(keys, BJ), heads, batch)
    j, dims = block * BJ + tl.arange(0, BJ), tl.arange(0, BK)
    Q += n * queries * width
    GY += n * queries * width
    LSE += n * queries
    DELTA += n * queries
    INDEX += n * queries * W
    GRADES += n * queries * 2
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    k = read_rows(K + n * keys * width, j, dims, keys, width)
    v = read_rows(V + n * keys * width, j, dims, keys, width)
    scale, unit = tl.load(SCALE + h), tl.load(UNITS)
    gk = tl.zeros([BJ, BK], tl.float32)
    gv = tl.zeros([BJ, BK], tl.float32)
    first = 0
    if CAUSAL:
        first = tl.maximum(block * BJ - (keys - queries), 0) // BT * BT
    for start in range(first, queries, BT):
        rows = start + tl.arange(0, BT)
        q = read_rows(Q, rows, dims, queries, width)
        gy = read_rows(GY, rows, dims, queries, width)
        lse = tl.load(LSE + rows, mask=rows < queries, other=float("inf"))
        delta = tl.load(DELTA + rows, mask=rows < queries, other=0.0)
        s = scores_of(
            dot(k, tl.trans(q), WIDE), rows[None, :], j[:, None], scale, LINE, MASK,
            queries, keys, unit, UNIT, BIASED, MASKED, CAUSAL,
        )  # fmt: skip
        p = tl.exp(s / temperature - lse[None, :])
        gs = p * (dot(v, tl.trans(gy), WIDE) - delta[None, :]) / temperature
        gk += dot(gs.to(q.dtype), q, WIDE)
        if DIGITS > 0:
            best = tl.load(GRADES + rows * 2, mask=rows < queries, other=0.0)
            down = tl.load(GRADES + rows * 2 + 1, mask=rows < queries, other=0.0)
            octaves = octaves_of(s, best[None, :], DIGITS, FURTHEST, SILENT) - down[None, :]
            gv += dot(power_of(octaves, DIGITS, SILENT).to(gy.dtype), gy, WIDE)
        for rank in tl.static_range(W):
            index = tl.load(INDEX + rows * W + rank, mask=rows < queries, other=-1)
            near = ((index >= block * BJ) & (index < (block + 1) * BJ)).to(tl.int32)
            if tl.max(near, 0) > 0:
                won = tl.where(index[None, :] == j[:, None], 1.0, 0.0).to(gy.dtype)
                gv += dot(won, gy, WIDE)
    write_rows(GK + n * keys * width, gk * scale, j, dims, keys, width)
    write_rows(GV + n * keys * width, gv * weight, j, dims, keys, width)


@triton.jit
def _backward_line(
    Q, K, V, SCALE, LINE, MASK, GY, LSE, DELTA, UNITS, PARTS,
    heads, queries, keys, width, batch, temperature, number,
    UNIT: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    SIZE: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums of dS along diagonals: a program takes one diagonal of tiles."""
    block, n, h, b = place(tl.program_id(0), number, heads, batch)
    dims = tl.arange(0, BK)
    Q += n * queries * width
    GY += n * queries * width
    K += n * keys * width
    V += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    scale, unit = tl.load(SCALE + h), tl.load(UNITS)
    shift = block - tl.cdiv(queries, SIZE) + 1
    upper = tl.zeros([SIZE], tl.float32)
    lower = tl.zeros([SIZE], tl.float32)
    last = tl.minimum(tl.cdiv(queries, SIZE), tl.cdiv(keys, SIZE) - shift)
    for row_block in range(tl.maximum(-shift, 0), last):
        rows = row_block * SIZE + tl.arange(0, SIZE)
        j = (row_block + shift) * SIZE + tl.arange(0, SIZE)
        q = read_rows(Q, rows, dims, queries, width)
        k = read_rows(K, j, dims, keys, width)
        v = read_rows(V, j, dims, keys, width)
        gy = read_rows(GY, rows, dims, queries, width)
        lse = tl.load(LSE + n * queries + rows, mask=rows < queries, other=float("inf"))
        delta = tl.load(DELTA + n * queries + rows, mask=rows < queries, other=0.0)
        s = scores_of(
            dot(q, tl.trans(k), WIDE), rows[:, None], j[None, :], scale, LINE, MASK,
            queries, keys, unit, UNIT, True, MASKED, CAUSAL,
        )  # fmt: skip
        p = tl.exp(s / temperature - lse[:, None])
        gs = p * (dot(gy, tl.trans(v), WIDE) - delta[:, None]) / temperature
        right, left = diagonals(gs, SIZE)
        upper += right
        lower += left
    PARTS += tl.program_id(0).to(tl.int64) * 2 * SIZE + tl.arange(0, SIZE)
    tl.store(PARTS, upper)
    tl.store(PARTS + SIZE, lower)


BACKWARD = {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 8, 2), 256: Tile(32, 32, 8, 1)}
FULL = {64: Tile(32, 32, 4, 2), 128: Tile(32, 32, 8, 1), 256: Tile(16, 16, 8, 1)}


def tile_of(tiles: dict[int, Tile], q: Tensor) -> Tile:
    """The tile for the width of ``q``, of ``tiles`` if it has half precision."""
    width = max(64, padded(q.shape[-1]))
    return tile(tiles[width], FULL[width], q.dtype)


def sizes_of(q: Tensor, k: Tensor, mask: Tensor | None) -> tuple[int, int, int, int, int]:
    """Heads, queries, keys, width, and rows of the mask."""
    return q.shape[1], q.shape[2], k.shape[2], q.shape[3], 1 if mask is None else mask.shape[0]


def unit_of(unit: Tensor | None, scale: Tensor) -> Tensor:
    """What the kernels read the unit of scores from; any number where there is none."""
    return scale if unit is None else unit.float().contiguous()


def _run(
    gy: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, line: Tensor | None,
    mask: Tensor | None, index: Tensor | None, grades: Tensor | None, soft: Tensor, lse: Tensor,
    causal: bool, temperature: float, weight: float, digits: int, furthest: int, silent: int,
    unit: Tensor | None, line_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    heads, queries, keys, width, batch = sizes_of(q, k, mask)
    gy, q, k, v, scale = (x.contiguous() for x in (gy.to(v.dtype), q, k, v, scale))
    delta = (gy * soft).sum(-1)
    line_ = scale if line is None else line.contiguous()
    operands = (q, k, v, scale, line_, mask_bytes(mask, q), gy, lse, delta, unit_of(unit, scale))
    sizes = (heads, queries, keys, width, batch, temperature)
    flags = {"UNIT": unit is not None, "BK": padded(width), **pair_flags(line, mask, causal)}
    numbers, t = q.shape[0] * heads, tile_of(BACKWARD, q)
    blocks = triton.cdiv(queries, t.rows)
    gq, gk, gv = (_launch.empty(x, x.shape) for x in (q, k, v))
    gscale = _launch.empty(q, (q.shape[0], heads, blocks), torch.float32)
    _backward_queries[(blocks * numbers,)](
        *operands, gq, gscale, *sizes,
        BT=t.rows, BJ=t.columns, **flags, **t.options,
    )  # fmt: skip
    _backward_keys[(triton.cdiv(keys, t.columns) * numbers,)](
        *operands, scale if index is None else index, scale if grades is None else grades,
        gk, gv, *sizes, weight, W=0 if index is None else index.shape[-1],
        DIGITS=digits, FURTHEST=furthest, SILENT=silent,
        BT=t.rows, BJ=t.columns, **flags, **t.options,
    )  # fmt: skip
    gline = q.new_zeros(0, dtype=torch.float32)
    if line_gradient:
        cut = Diagonals.of(t.columns, queries, keys, causal)
        parts = _launch.empty(q, (q.shape[0], heads, cut.number, 2, cut.size), torch.float32)
        del flags["BIASED"]
        _backward_line[(cut.number * numbers,)](
            *operands, parts, *sizes, cut.number,
            SIZE=cut.size, **flags, **t.options,
        )  # fmt: skip
        gline = cut.line(parts.sum(0), queries, keys).contiguous()
    return gq, gk, gv, gscale.sum((0, 2)), gline


def _fake(
    gy: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, line: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gline = line if line is not None and rest[-1] else scale.new_empty(0)
    gq, gk, gv, gscale, gline = (x.new_empty(x.shape) for x in (q, k, v, scale, gline))
    return gq, gk, gv, gscale, gline


operator = _launch.operator(
    "softmax_backward",
    "(Tensor gy, Tensor q, Tensor k, Tensor v, Tensor scale, Tensor? line, Tensor? mask, "
    "Tensor? index, Tensor? grades, Tensor soft, Tensor lse, bool causal, float temperature, "
    "float weight, int digits, int furthest, int silent, Tensor? unit, bool line_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
