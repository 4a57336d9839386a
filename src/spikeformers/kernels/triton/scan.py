"""LIF, ternary LIF and IF over S steps: the membrane stays in registers.

`spikeformers.neurons.lif`, ``tlif`` and ``_scan`` are the definitions; IF is LIF without decay. One
pass writes spikes and membranes U, from which backward needs no more. Spikes and membranes have
the definitions' bits in float32; bfloat16 is computed in float32.

Shapes: S steps, M neurons.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeformers.kernels.triton import _launch
from spikeformers.kernels.triton._launch import INTERPRETED, OPTIONS

BLOCK = 128 if INTERPRETED else 1024
RESETS = {"soft": 0, "hard": 1, "delayed": 2}
SURROGATES = {"rectangular": 0, "triangle": 1, "arctan": 2, "sigmoid": 3}


@triton.jit
def derivative(x, sharpness, KIND: tl.constexpr):
    """The surrogate derivatives of `spikeformers.neurons.surrogate`, by number."""
    if KIND == 0:
        return tl.where(tl.abs(x) <= 0.5 / sharpness, sharpness, 0.0)
    elif KIND == 1:
        return tl.maximum(1.0 - tl.abs(x) * sharpness, 0.0) * sharpness
    elif KIND == 2:
        scaled = 1.5707963267948966 * sharpness * x
        return (sharpness / 2) / (1.0 + scaled * scaled)
    else:
        s = tl.sigmoid(sharpness * x)
        return sharpness * s * (1.0 - s)


@triton.jit
def kept(u, spikes, v_th, decay, RESET: tl.constexpr):
    """What the membrane hands to the next step: soft, hard or delayed reset."""
    if RESET == 0:
        return (u - spikes * v_th) * decay
    elif RESET == 1:
        return (u * (1.0 - spikes)) * decay
    else:
        return u * decay - spikes * v_th


@triton.jit
def through_step(
    g, later, u, spikes, v_th, decay, sharpness, RESET: tl.constexpr, KIND: tl.constexpr
):
    """Gradients of U and of V_th from those of the spikes and of the next step's U."""
    if RESET == 0:
        g = g - later * v_th * decay
    elif RESET == 1:
        g = g - later * u * decay
    else:
        g = g - later * v_th
    g = g * derivative(u - v_th, sharpness, KIND)
    g_th = -g
    if RESET == 0:
        g_th -= decay * later * spikes
    elif RESET == 2:
        g_th -= later * spikes
    if RESET == 1:
        later = later * (1.0 - spikes)
    return g + decay * later, g_th


@triton.jit
def _lif(
    CURRENT, V_TH, SPIKES, U, steps, size, decay,
    EACH: tl.constexpr, RESET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    if EACH:
        v_th = tl.load(V_TH + at, mask=inside, other=1.0)
    else:
        v_th = tl.load(V_TH)
    carry = tl.zeros([BLOCK], tl.float32)
    for _ in range(steps):
        u = tl.load(CURRENT + at, mask=inside, other=0.0).to(tl.float32) + carry
        spikes = tl.where(u >= v_th, 1.0, 0.0)
        carry = kept(u, spikes, v_th, decay, RESET)
        tl.store(SPIKES + at, spikes.to(SPIKES.dtype.element_ty), mask=inside)
        tl.store(U + at, u, mask=inside)
        CURRENT += size
        SPIKES += size
        U += size


@triton.jit
def _lif_backward(
    G, U, V_TH, GI, GTH, steps, size, decay, sharpness,
    EACH: tl.constexpr, RESET: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    if EACH:
        v_th = tl.load(V_TH + column, mask=inside, other=1.0)
    else:
        v_th = tl.load(V_TH)
    later = tl.zeros([BLOCK], tl.float32)
    g_th = tl.zeros([BLOCK], tl.float32)
    for back in range(steps):
        at = column + (steps - 1 - back) * size
        g = tl.load(G + at, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(U + at, mask=inside, other=0.0)
        spikes = tl.where(u >= v_th, 1.0, 0.0)
        later, share = through_step(g, later, u, spikes, v_th, decay, sharpness, RESET, KIND)
        g_th += share
        tl.store(GI + at, later.to(GI.dtype.element_ty), mask=inside)
    if EACH:
        tl.store(GTH + column, g_th, mask=inside)
    else:
        tl.store(GTH + tl.program_id(0), tl.sum(tl.where(inside, g_th, 0.0), 0))


@triton.jit
def _ternary(u, a, ratio):
    x = u / a
    sign = tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))
    return x, tl.where(tl.abs(x) >= ratio, sign, 0.0)


@triton.jit
def _tlif(
    CURRENT, AMPLITUDE, SPIKES, U, steps, size, decay, ratio,
    HARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    a = tl.load(AMPLITUDE)
    carry = tl.zeros([BLOCK], tl.float32)
    for _ in range(steps):
        u = tl.load(CURRENT + at, mask=inside, other=0.0).to(tl.float32) + carry
        _x, sign = _ternary(u, a, ratio)
        spikes = a * sign
        if HARD:
            carry = tl.where(spikes == 0, decay * u, 0.0)
        else:
            carry = decay * (u - spikes)
        tl.store(SPIKES + at, spikes.to(SPIKES.dtype.element_ty), mask=inside)
        tl.store(U + at, u, mask=inside)
        CURRENT += size
        SPIKES += size
        U += size


@triton.jit
def _tlif_backward(
    G, U, AMPLITUDE, GI, GA, steps, size, decay, ratio,
    HARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    a = tl.load(AMPLITUDE)
    later = tl.zeros([BLOCK], tl.float32)
    g_a = tl.zeros([BLOCK], tl.float32)
    for back in range(steps):
        at = column + (steps - 1 - back) * size
        g = tl.load(G + at, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(U + at, mask=inside, other=0.0)
        x, sign = _ternary(u, a, ratio)
        passes = tl.where(tl.abs(x) <= 1, 1.0, 0.0)
        if HARD:
            later = tl.where(a * sign == 0, decay * later, 0.0)
        else:
            g = g - decay * later
            later = decay * later
        g_a += g * (sign - x * passes)
        later = later + g * passes
        tl.store(GI + at, later.to(GI.dtype.element_ty), mask=inside)
    tl.store(GA + tl.program_id(0), tl.sum(tl.where(inside, g_a, 0.0), 0))


def _sizes(current: Tensor) -> tuple[int, int, tuple[int]]:
    """Steps, neurons, and the grid."""
    steps, size = current.shape
    return steps, size, (triton.cdiv(size, BLOCK),)


def _run_lif(
    current: Tensor, v_th: Tensor, decay: float, reset: int, kind: int, sharpness: float
) -> tuple[Tensor, Tensor]:
    steps, size, grid = _sizes(current)
    current = current.contiguous()
    spikes = _launch.empty(current, current.shape)
    u = _launch.empty(current, current.shape, torch.float32)
    each = {"EACH": v_th.numel() != 1, "RESET": reset, "BLOCK": BLOCK}
    _lif[grid](current, v_th.contiguous(), spikes, u, steps, size, decay, **each, **OPTIONS)
    return spikes, u


def _run_lif_backward(
    g: Tensor, u: Tensor, v_th: Tensor, decay: float, reset: int, kind: int, sharpness: float
) -> tuple[Tensor, Tensor]:
    steps, size, grid = _sizes(u)
    each = v_th.numel() != 1
    gi = _launch.empty(g, g.shape)
    gth = _launch.empty(u, (size,) if each else grid, torch.float32)
    flags = {"EACH": each, "RESET": reset, "KIND": kind, "BLOCK": BLOCK}
    _lif_backward[grid](
        g.contiguous(), u, v_th.contiguous(), gi, gth, steps, size, decay, sharpness,
        **flags, **OPTIONS,
    )  # fmt: skip
    return gi, gth if each else gth.sum(0, keepdim=True)


def _run_tlif(
    current: Tensor, amplitude: Tensor, decay: float, ratio: float, hard: bool
) -> tuple[Tensor, Tensor]:
    steps, size, grid = _sizes(current)
    current = current.contiguous()
    spikes = _launch.empty(current, current.shape)
    u = _launch.empty(current, current.shape, torch.float32)
    flags = {"HARD": hard, "BLOCK": BLOCK}
    _tlif[grid](current, amplitude, spikes, u, steps, size, decay, ratio, **flags, **OPTIONS)
    return spikes, u


def _run_tlif_backward(
    g: Tensor, u: Tensor, amplitude: Tensor, decay: float, ratio: float, hard: bool
) -> tuple[Tensor, Tensor]:
    steps, size, grid = _sizes(u)
    gi = _launch.empty(g, g.shape)
    ga = _launch.empty(u, grid, torch.float32)
    flags = {"HARD": hard, "BLOCK": BLOCK}
    _tlif_backward[grid](
        g.contiguous(), u, amplitude, gi, ga, steps, size, decay, ratio, **flags, **OPTIONS
    )
    return gi, ga.sum(0, keepdim=True)


def _fake(current: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    spikes = current.new_empty(current.shape)
    return spikes, current.new_empty(current.shape, dtype=torch.float32)


def _fake_backward(g: Tensor, u: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return g.new_empty(g.shape), u.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], inputs[1])
    ctx.options = inputs[2:]
    ctx.set_materialize_grads(False)


def _backward_by(operator: Any) -> Any:
    def backward(ctx: Any, g: Tensor | None, _u: Any) -> tuple[Any, ...]:
        grads = (None, None) if g is None else operator(g, *ctx.saved_tensors, *ctx.options)
        return *grads, *(None,) * len(ctx.options)

    return backward


_LIF = "float decay, int reset, int kind, float sharpness) -> (Tensor, Tensor)"
lif_backward = _launch.operator(
    "lif_backward", f"(Tensor g, Tensor u, Tensor v_th, {_LIF}", _run_lif_backward, _fake_backward
)
lif_operator = _launch.operator(
    "lif", f"(Tensor current, Tensor v_th, {_LIF}", _run_lif, _fake, _backward_by(lif_backward),
    _save,
)  # fmt: skip
_TLIF = "float decay, float ratio, bool hard) -> (Tensor, Tensor)"
tlif_backward = _launch.operator(
    "tlif_backward", f"(Tensor g, Tensor u, Tensor amplitude, {_TLIF}", _run_tlif_backward,
    _fake_backward,
)  # fmt: skip
tlif_operator = _launch.operator(
    "tlif", f"(Tensor current, Tensor amplitude, {_TLIF}", _run_tlif, _fake,
    _backward_by(tlif_backward), _save,
)  # fmt: skip


def lif(
    current: Tensor,
    v_th: float | Tensor,
    decay: float,
    reset: str = "soft",
    surrogate: str = "arctan",
    sharpness: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Spikes of currents ``[S, ...]``, and the membranes U (float32), which have no gradient.

    ``v_th`` is a number, or a tensor that broadcasts to one step of the current; ``reset`` is
    soft, hard or delayed, ``surrogate`` a name of `spikeformers.neurons.SURROGATES`.
    """
    if isinstance(v_th, Tensor):
        v_th = v_th.float()
        v_th = v_th.reshape(1) if v_th.numel() == 1 else v_th.expand(current.shape[1:]).flatten()
    else:
        v_th = torch.full((1,), v_th, dtype=torch.float32, device=current.device)
    spikes, u = lif_operator(
        current.flatten(1) if current.dim() > 1 else current.unsqueeze(1),
        v_th, decay, RESETS[reset], SURROGATES[surrogate], sharpness,
    )  # fmt: skip
    return spikes.view(current.shape), u.view(current.shape)


def tlif(
    current: Tensor, amplitude: Tensor, decay: float, ratio: float = 0.5, reset: str = "soft"
) -> tuple[Tensor, Tensor]:
    """Ternary spikes times ``amplitude`` ``[1]`` (positive), and membranes, as `lif`."""
    flat = current.flatten(1) if current.dim() > 1 else current.unsqueeze(1)
    spikes, u = tlif_operator(flat, amplitude.float(), decay, ratio, reset == "hard")
    return spikes.view(current.shape), u.view(current.shape)
