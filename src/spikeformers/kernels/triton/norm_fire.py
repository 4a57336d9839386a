"""Norm and integer neuron in one pass: NI-LIF and I-LIF behind LayerNorm or RMSNorm.

    n = Norm(x);  U[t] = H[t-1] + n[t];  S[t] = unit * clip(round(U[t]), 0, D)
    H[t] = decay * (U[t] - S[t] / unit)

`spikeformers.neurons.nilif` and torch's norms are the definitions. Each row is read once and its
spikes are written once, with their sum and the number of those that are not zero, from which the
firing-rate term is made; backward takes the gradient of the sums as one number per row.

Shapes: S steps, R rows (batch times tokens), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch
from spikeformers.kernels.triton._launch import INTERPRETED, OPTIONS, padded, rint

PROGRAMS = 2 if INTERPRETED else 512
"""Programs of the backward pass; each adds up the gradients of gain and shift over its rows."""
NORMS = {"none": 0, "rms": 1, "layer": 2}


@triton.jit
def _normed(x, inside, width, eps, NORM: tl.constexpr):
    """A row with its mean removed (LayerNorm), its divided form, and 1 / its deviation."""
    rstd = 1.0
    if NORM == 2:
        x = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    if NORM > 0:
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    return x * rstd, rstd


@triton.jit
def _forward(
    X, GAIN, SHIFT, SPIKES, U, TOTAL, FIRED, rows, width, steps, eps, levels, unit, decay,
    NORM: tl.constexpr, SHIFTED: tl.constexpr, KEEP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    d = tl.arange(0, BD)
    inside = d < width
    gain = tl.load(GAIN + d, mask=inside, other=0.0).to(tl.float32)
    shift = tl.zeros([BD], tl.float32)
    if SHIFTED:
        shift = tl.load(SHIFT + d, mask=inside, other=0.0).to(tl.float32)
    carry = tl.zeros([BD], tl.float32)
    for step in range(steps):
        at = (step * rows + row).to(tl.int64) * width + d
        x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
        hat, _rstd = _normed(x, inside, width, eps, NORM)
        u = hat
        if NORM > 0:
            u = hat * gain + shift
        u = carry + u
        count = rint(tl.minimum(tl.maximum(u, 0.0), levels))
        count = tl.where(inside & (u == u), count, tl.where(inside, u, 0.0))  # NaN stays NaN
        carry = decay * (u - count)
        spikes = count * unit
        tl.store(SPIKES + at, spikes.to(SPIKES.dtype.element_ty), mask=inside)
        if KEEP:
            tl.store(U + at, u, mask=inside)
        tl.store(TOTAL + step * rows + row, tl.sum(spikes, 0))
        tl.store(FIRED + step * rows + row, tl.sum(tl.where(count != 0, 1.0, 0.0), 0))


@triton.jit
def _slope(u, levels, margin, leak, sharpness, SIGMOID: tl.constexpr):
    """Derivative of the count: a window with a leak, or that of a softplus."""
    if SIGMOID:
        return tl.sigmoid(sharpness * u)
    else:
        return tl.where((u >= -margin) & (u <= levels + margin), 1.0, leak)


@triton.jit
def _backward(
    G, GTOTAL, X, GAIN, SHIFT, U, GX, GGAIN, GSHIFT, rows, width, steps, programs,
    eps, levels, unit, decay, margin, leak, sharpness,
    NORM: tl.constexpr, SHIFTED: tl.constexpr, KEEP: tl.constexpr, SIGMOID: tl.constexpr,
    SUMMED: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    d = tl.arange(0, BD)
    inside = d < width
    gain = tl.load(GAIN + d, mask=inside, other=0.0).to(tl.float32)
    shift = tl.zeros([BD], tl.float32)
    if SHIFTED:
        shift = tl.load(SHIFT + d, mask=inside, other=0.0).to(tl.float32)
    g_gain = tl.zeros([BD], tl.float32)
    g_shift = tl.zeros([BD], tl.float32)
    for row in range(program, rows, programs):
        later = tl.zeros([BD], tl.float32)
        for back in range(steps):
            number = (steps - 1 - back) * rows + row
            at = number.to(tl.int64) * width + d
            x = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
            hat, rstd = _normed(x, inside, width, eps, NORM)
            if KEEP:
                u = tl.load(U + at, mask=inside, other=0.0)
            else:
                u = hat
                if NORM > 0:
                    u = hat * gain + shift
            g = tl.load(G + at, mask=inside, other=0.0).to(tl.float32)
            if SUMMED:
                g += tl.load(GTOTAL + number)
            slope = unit * _slope(u, levels, margin, leak, sharpness, SIGMOID)
            later = (g - later * (decay / unit)) * slope + later * decay
            later = tl.where(inside, later, 0.0)
            gx = later
            if NORM > 0:
                g_gain += later * hat
                g_shift += later
                gh = later * gain
                gx = gh - hat * (tl.sum(gh * hat, 0) / width)
                if NORM == 2:
                    gx -= tl.sum(gh, 0) / width
                gx = gx * rstd
            tl.store(GX + at, gx.to(GX.dtype.element_ty), mask=inside)
    if NORM > 0:
        tl.store(GGAIN + program * width + d, g_gain, mask=inside)
        tl.store(GSHIFT + program * width + d, g_shift, mask=inside)


def _launching(width: int, norm: int, shift: Tensor | None, steps: int) -> dict[str, Any]:
    block = padded(width)
    return {
        "NORM": norm,
        "SHIFTED": shift is not None,
        "KEEP": steps > 1,
        "BD": block,
        "num_warps": min(16, max(1, block // 256)),
        **OPTIONS,
    }


def _run(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, wide: bool, norm: int, eps: float,
    levels: int, unit: float, decay: float, *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    steps, rows, width = x.shape
    x = x.contiguous()
    spikes = _launch.empty(x, x.shape, torch.float32 if wide else x.dtype)
    u = _launch.empty(x, x.shape if steps > 1 else (0,), torch.float32)
    total, fired = (_launch.empty(x, (steps, rows), torch.float32) for _ in range(2))
    _forward[(rows,)](
        x, x if gain is None else gain, x if shift is None else shift, spikes, u, total, fired,
        rows, width, steps, eps, float(levels), unit, decay,
        **_launching(width, norm, shift, steps),
    )  # fmt: skip
    return spikes, total, fired, u


def _fake(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, wide: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = [x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2)]
    spikes = x.new_empty(x.shape, dtype=torch.float32 if wide else x.dtype)
    kept = x.shape if x.shape[0] > 1 else (0,)
    return spikes, sums[0], sums[1], x.new_empty(kept, dtype=torch.float32)


def _run_backward(
    g: Tensor, gtotal: Tensor | None, x: Tensor, gain: Tensor | None, shift: Tensor | None,
    u: Tensor, norm: int, eps: float, levels: int, unit: float, decay: float, sigmoid: bool,
    sharpness: float, margin: float, leak: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    steps, rows, width = x.shape
    programs = min(rows, PROGRAMS)
    x, gx = x.contiguous(), _launch.empty(x, x.shape)
    parts = programs if norm else 0
    g_gain, g_shift = (_launch.empty(x, (parts, width), torch.float32) for _ in range(2))
    _backward[(programs,)](
        g.contiguous(), x if gtotal is None else gtotal.contiguous(),
        x, x if gain is None else gain, x if shift is None else shift, u, gx, g_gain, g_shift,
        rows, width, steps, programs, eps, float(levels), unit, decay, margin, leak, sharpness,
        SIGMOID=sigmoid, SUMMED=gtotal is not None, **_launching(width, norm, shift, steps),
    )  # fmt: skip
    g_gain = g_gain.sum(0) if gain is not None else x.new_empty(0, dtype=torch.float32)
    return gx, g_gain, g_shift.sum(0) if shift is not None else g_gain.new_empty(0)


def _fake_backward(
    g: Tensor, gtotal: Tensor | None, x: Tensor, gain: Tensor | None, shift: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    sums = [
        x.new_empty(0 if terms is None else x.shape[-1], dtype=torch.float32)
        for terms in (gain, shift)
    ]
    return x.new_empty(x.shape), sums[0], sums[1]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3], output[3])
    ctx.options = inputs[4:]
    ctx.set_materialize_grads(False)


def _backward_of(ctx: Any, g: Tensor | None, gtotal: Tensor | None, *_: Any) -> tuple[Any, ...]:
    x, gain, shift, u = ctx.saved_tensors
    if g is None and gtotal is None:
        return (None,) * 13
    if g is None:
        g = torch.zeros_like(x)
    gx, g_gain, g_shift = backward_operator(g, gtotal, x, gain, shift, u, *ctx.options)
    g_gain = None if gain is None else g_gain.to(gain.dtype)
    g_shift = None if shift is None else g_shift.to(shift.dtype)
    return gx, g_gain, g_shift, *(None,) * 10


_OPTIONS = (
    "int norm, float eps, int levels, float unit, float decay, bool sigmoid, float sharpness, "
    "float margin, float leak)"
)
backward_operator = _launch.operator(
    "norm_fire_backward",
    "(Tensor g, Tensor? gtotal, Tensor x, Tensor? gain, Tensor? shift, Tensor u, "
    f"{_OPTIONS} -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
forward_operator = _launch.operator(
    "norm_fire",
    f"(Tensor x, Tensor? gain, Tensor? shift, bool wide, {_OPTIONS} "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
    _backward_of,
    _save,
)


def norm_fire(
    x: Tensor,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    norm: str,
    eps: float = 1e-5,
    levels: int,
    unit: float,
    decay: float = 0.5,
    gradient: str = "rectangular",
    sharpness: float = 2.0,
    margin: float = 0.0,
    leak: float = 0.0,
    wide: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes of currents ``x`` ``[S, R, D]``, and of each row ``[S, R]`` their sum and number.

    ``norm`` is layer, rms or none. ``wide``: spikes in float32 whatever the
    type of ``x``. The number of spikes that are not zero has no gradient, the sum has.
    """
    spikes, total, fired, _ = forward_operator(
        x, gain, shift, wide, NORMS[norm], eps, levels, unit, decay,
        gradient == "sigmoid", sharpness, margin, leak,
    )  # fmt: skip
    return spikes, total, fired.detach()
