"""SFSA over S steps, streaming: mask, membrane and edge of a pair live only in a tile.

    A[t] = (Q[t] K[t]^T * s + bias) * M;   edges = LIF(A) over t;   O[t] = edges[t] V[t]

`spikeformers.attention.sfsa` with `spikeformers.neurons.lif` is the definition. A tile of queries
passes over the keys; for each tile of pairs all steps run, since nothing but their membranes joins
them. Backward computes the membranes again. A masked pair has no current, so its edge is silent;
but the surrogate of its threshold is not zero, and a learned threshold reads all pairs, as in the
definition. Every sum has a fixed order.

Shapes: S steps, N = B times H heads, T queries, J keys, K per head.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch, _sfsa_gradients
from spikeformers.kernels.triton._launch import dot, first_mask, read_rows, visible, write_rows
from spikeformers.kernels.triton._sfsa_gradients import (
    add,
    current_of,
    launching,
    operands_of,
    sizes_of,
    take,
)
from spikeformers.kernels.triton.scan import RESETS, SURROGATES, kept


@triton.jit
def _forward(
    Q, K, V, SCALE, V_TH, LINE, MASK, Y,
    steps, numbers, heads, queries, keys, width, batch, decay,
    SLOTS: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    RESET: tl.constexpr, BT: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(queries, BT)
    block, number = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    n, h, b = number.to(tl.int64), number % heads, (number // heads) % batch
    rows, dims = block * BT + tl.arange(0, BT), tl.arange(0, BK)
    Q += n * queries * width
    Y += n * queries * width
    K += n * keys * width
    V += n * keys * width
    LINE += h * (queries + keys - 1)
    MASK = first_mask(MASK, b, queries, keys, MASKED)
    q_step = numbers.to(tl.int64) * queries * width
    k_step = numbers.to(tl.int64) * keys * width
    scale, v_th = tl.load(SCALE + h), tl.load(V_TH + h)
    sums = tl.zeros([SLOTS, BT, BK], tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, (block + 1) * BT + keys - queries)
    for start in range(0, end, BJ):
        j = start + tl.arange(0, BJ)
        seen = visible(rows[:, None], j[None, :], MASK, queries, keys, MASKED, CAUSAL)
        carry = tl.zeros([BT, BJ], tl.float32)
        for step in range(steps):
            q = read_rows(Q + step * q_step, rows, dims, queries, width)
            k = read_rows(K + step * k_step, j, dims, keys, width)
            v = read_rows(V + step * k_step, j, dims, keys, width)
            u = carry + current_of(
                dot(q, tl.trans(k), WIDE), rows[:, None], j[None, :], seen, scale, LINE,
                queries, BIASED,
            )  # fmt: skip
            edges = tl.where(u >= v_th, 1.0, 0.0)
            carry = kept(u, edges, v_th, decay, RESET)
            sums = add(sums, step, dot(edges.to(v.dtype), v, WIDE), SLOTS)
    for step in range(steps):
        write_rows(Y + step * q_step, take(sums, step, SLOTS), rows, dims, queries, width)


def _run(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, v_th: Tensor, line: Tensor | None,
    mask: Tensor | None, causal: bool, learned: bool, decay: float, reset: int, kind: int,
    sharpness: float,
) -> Tensor:  # fmt: skip
    sizes, (t, flags) = sizes_of(q, k, mask), launching(q, line, mask, causal, reset)
    y = _launch.empty(v, q.shape)
    _forward[(triton.cdiv(q.shape[-2], t.rows) * sizes[1],)](
        *operands_of(q, k, v, scale, v_th, line, mask), y, *sizes, decay,
        BT=t.rows, BJ=t.columns, **flags, **t.options,
    )  # fmt: skip
    return y


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return v.new_empty(q.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options = inputs[7:]


def _backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
    *grads, gline = backward_operator(gy, *ctx.saved_tensors, *ctx.options)
    return *grads, gline if ctx.saved_tensors[5] is not None else None, *(None,) * 7


_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor scale, Tensor v_th, Tensor? line, Tensor? mask, "
    "bool causal, bool learned, float decay, int reset, int kind, float sharpness)"
)
backward_operator = _launch.operator(
    "sfsa_backward",
    f"(Tensor gy, {_INPUTS} -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _sfsa_gradients.run,
    _sfsa_gradients.fake,
)
forward_operator = _launch.operator("sfsa", f"({_INPUTS} -> Tensor", _run, _fake, _backward, _save)


def fired_edges(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    v_th: Tensor,
    line: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    decay: float,
    reset: str,
    surrogate: str,
    sharpness: float,
) -> Tensor:
    """Sums of V's spikes ``[S, B, H, T, K]``; ``v_th`` and ``scale`` ``[H]``, float32.

    ``q`` ``[S, B, H, T, K]``, ``k`` and ``v`` ``[S, B, H, J, K]`` of one type; ``line`` and
    ``mask`` as of `spikeformers.kernels.triton.wta.winner_take_all`.
    """
    y: Tensor = forward_operator(
        q, k, v, scale, v_th, line, mask, causal, v_th.requires_grad,
        decay, RESETS[reset], SURROGATES[surrogate], sharpness,
    )  # fmt: skip
    return y
