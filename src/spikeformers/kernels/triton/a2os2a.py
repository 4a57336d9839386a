"""A2OS2A, causal, by chunks: Y_i = Q_i (sum over j <= i of K_j V_j^T) in O(T K^2).

`spikeformers.attention.a2os2a` is the definition. Three steps, all of them parallel over chunks:

    G_c = K_c^T V_c                          each chunk's gain
    Z_c = sum of G over chunks before c      a running sum
    Y_c = ((Q_c K_c^T) o L) V_c + Q_c Z_c    L: 1 where j <= i

The gradients have the same form, with Z or with R, the sum of Q^T dY over chunks after c:

    dQ_c = ((dY V^T) o L) K + dY Z^T
    dK_c = ((V dY^T) o L^T) Q + V R^T
    dV_c = ((K Q^T) o L^T) dY + K R

Shapes: N sequences times heads, T tokens, K per head.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch
from spikeformers.kernels.triton._launch import (
    INTERPRETED,
    OPTIONS,
    dot,
    padded,
    read_rows,
    write_rows,
)

CHUNK = 16 if INTERPRETED else 64


@triton.jit
def _gains(
    A, B, GAIN, tokens, width, CHUNK: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """``A_c^T B_c`` of one chunk."""
    chunks = tl.cdiv(tokens, CHUNK)
    n, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    rows, dims = chunk * CHUNK + tl.arange(0, CHUNK), tl.arange(0, BK)
    a = read_rows(A + n * tokens * width, rows, dims, tokens, width)
    b = read_rows(B + n * tokens * width, rows, dims, tokens, width)
    gain = dot(tl.trans(a), b, WIDE)
    write_rows(GAIN + (n * chunks + chunk) * width * width, gain, dims, dims, width, width)


@triton.jit
def _chunk(
    A, B, C, STATE, OUT, tokens, width,
    AFTER: tl.constexpr, TURNED: tl.constexpr, CHUNK: tl.constexpr, BK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """``((A B^T) o M) C + A STATE``; M has the pairs j <= i, or with AFTER j >= i."""
    chunks = tl.cdiv(tokens, CHUNK)
    n, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    rows, dims = chunk * CHUNK + tl.arange(0, CHUNK), tl.arange(0, BK)
    a = read_rows(A + n * tokens * width, rows, dims, tokens, width)
    b = read_rows(B + n * tokens * width, rows, dims, tokens, width)
    c = read_rows(C + n * tokens * width, rows, dims, tokens, width)
    state = read_rows(STATE + (n * chunks + chunk) * width * width, dims, dims, width, width)
    if TURNED:
        state = tl.trans(state)
    pairs = dot(a, tl.trans(b), WIDE)
    if AFTER:
        seen = rows[None, :] >= rows[:, None]
    else:
        seen = rows[None, :] <= rows[:, None]
    pairs = tl.where(seen, pairs, 0.0)
    out = dot(pairs.to(c.dtype), c, WIDE) + dot(a.to(tl.float32), state, WIDE)
    write_rows(OUT + n * tokens * width, out, rows, dims, tokens, width)


def _launching(x: Tensor) -> tuple[tuple[int], dict[str, Any]]:
    numbers, tokens, width = x.shape
    constants = {"CHUNK": CHUNK, "BK": padded(width), "WIDE": INTERPRETED}
    warps = 8 if width > 64 else 4
    return (numbers * triton.cdiv(tokens, CHUNK),), {**constants, "num_warps": warps, **OPTIONS}


def _sums(a: Tensor, b: Tensor, after: bool) -> Tensor:
    """Sums of ``A_c^T B_c`` over the chunks before, or ``after``, each: ``[N, chunks, K, K]``."""
    grid, options = _launching(a)
    numbers, tokens, width = a.shape
    shape = (numbers, triton.cdiv(tokens, CHUNK), width, width)
    gains = _launch.empty(a, shape, torch.float32)
    _gains[grid](a, b, gains, tokens, width, **options)
    if after:
        return gains.flip(1).cumsum(1).flip(1) - gains
    return gains.cumsum(1) - gains


def _part(
    a: Tensor, b: Tensor, c: Tensor, state: Tensor, *, after: bool = False, turned: bool = False
) -> Tensor:
    grid, options = _launching(a)
    out = _launch.empty(c, c.shape)
    _chunk[grid](a, b, c, state, out, a.shape[1], a.shape[2], AFTER=after, TURNED=turned, **options)
    return out


def _run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    before = _sums(k, v, after=False)
    return _part(q, k, v, before), before


def _fake(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    chunks = (q.shape[1] + CHUNK - 1) // CHUNK
    state = (q.shape[0], chunks, q.shape[2], q.shape[2])
    return v.new_empty(v.shape), q.new_empty(state, dtype=torch.float32)


def _run_backward(
    gy: Tensor, q: Tensor, k: Tensor, v: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gy, q, k, v = gy.to(v.dtype).contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    later = _sums(q, gy, after=True)
    gq = _part(gy, v, k, before, turned=True)
    gk = _part(v, gy, q, later, after=True, turned=True)
    return gq, gk, _part(k, q, gy, later, after=True)


def _fake_backward(gy: Tensor, q: Tensor, k: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gy: Tensor | None, _: Any) -> tuple[Any, ...]:
    return (None,) * 3 if gy is None else backward_operator(gy, *ctx.saved_tensors)


backward_operator = _launch.operator(
    "a2os2a_backward",
    "(Tensor gy, Tensor q, Tensor k, Tensor v, Tensor before) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
forward_operator = _launch.operator(
    "a2os2a",
    "(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)",
    _run,
    _fake,
    _backward,
    _save,
)


def addition_only(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output ``[N, T, K]``, and the state before each chunk, ``[N, chunks, K, K]``.

    ``q``, ``k`` and ``v`` ``[N, T, K]`` have one type; rows of ``k`` that are padding are zero.
    """
    y, before = forward_operator(q, k, v)
    return y, before
