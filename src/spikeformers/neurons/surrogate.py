"""Surrogate gradients: they replace the derivative of the step function.

A spike is ``s = [x >= 0]`` with x the distance to the threshold. Its derivative is zero almost
everywhere; the backward pass uses one of these instead (x in units of the membrane potential):

    rectangular   1/width * [|x| <= width/2]                    Wu et al. 2018, 1706.02609, eq. 23
    triangle      1/width * max(0, 1 - |x|/width)               Esser et al. 2016, 1603.08270
    arctan        alpha/2 / (1 + (pi/2 * alpha * x)^2)          Fang et al. 2021, 2007.05785
    sigmoid       alpha * sig(alpha x) * (1 - sig(alpha x))     Zenke & Ganguli 2018, 1705.11146

``sharpness`` is alpha for arctan and sigmoid and 1/width for rectangular and triangle. Each
integrates to one over x, so that they differ in shape and not in size.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikeformers.errors import ConfigError, nearest

Derivative = Callable[[Tensor, float], Tensor]


def rectangular(x: Tensor, sharpness: float) -> Tensor:
    """Boxcar of width ``1/sharpness`` and area one."""
    return (x.abs() <= 0.5 / sharpness).to(x.dtype) * sharpness


def triangle(x: Tensor, sharpness: float) -> Tensor:
    """Tent of half-width ``1/sharpness`` and area one."""
    return torch.relu(1 - x.abs() * sharpness) * sharpness


def arctan(x: Tensor, sharpness: float) -> Tensor:
    """Derivative of ``arctan(pi/2 * alpha * x) / pi``."""
    return (sharpness / 2) / (1 + (math.pi / 2 * sharpness * x) ** 2)


def sigmoid(x: Tensor, sharpness: float) -> Tensor:
    """Derivative of the logistic function of slope ``alpha``."""
    s = torch.sigmoid(sharpness * x)
    return sharpness * s * (1 - s)


SURROGATES: dict[str, Derivative] = {
    "rectangular": rectangular,
    "triangle": triangle,
    "arctan": arctan,
    "sigmoid": sigmoid,
}


def surrogate(name: str) -> Derivative:
    """Return the derivative called ``name``; ConfigError names the known ones."""
    if name not in SURROGATES:
        raise ConfigError(
            f"unknown surrogate {name!r}; known: {', '.join(SURROGATES)}."
            f"{nearest(name, SURROGATES)}"
        )
    return SURROGATES[name]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Derivative, sharpness: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative, ctx.sharpness = derivative, sharpness
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.derivative(x, ctx.sharpness), None, None


def step(x: Tensor, derivative: Derivative, sharpness: float) -> Tensor:
    """Heaviside step, ``1 where x >= 0``, with ``derivative(x, sharpness)`` as its gradient."""
    spikes: Tensor = _Step.apply(x, derivative, sharpness)
    return spikes


class _RoundClip(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, levels: int, unit: float, margin: float, leak: float
    ) -> Tensor:
        ctx.save_for_backward(u)
        ctx.window, ctx.unit, ctx.leak = (-margin, levels + margin), unit, leak
        return torch.round(u).clamp_(0, levels).mul_(unit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (u,) = ctx.saved_tensors
        low, high = ctx.window
        return _inside(grads[0], u, low, high, ctx.leak).mul_(ctx.unit), None, None, None, None


def _inside(grad: Tensor, u: Tensor, low: float, high: float, leak: float) -> Tensor:
    """``grad`` where ``low <= u <= high``, ``leak * grad`` elsewhere; a new tensor."""
    if leak or not 0 <= -low < math.inf:
        return torch.where((u >= low) & (u <= high), grad, grad * leak)
    # One pass over floats. Its bounds are outside themselves, hence the next numbers beyond.
    beyond = _beyond(low, u.dtype), _beyond(high, u.dtype)
    inside: Tensor = torch.ops.aten.hardtanh_backward(grad, u, *beyond)
    return inside


def _beyond(x: float, dtype: torch.dtype) -> float:
    """``x`` as a ``dtype``, and then the next number away from zero.

    In plain floats: torch.compile cannot follow torch.nextafter into a number.
    """
    info = torch.finfo(dtype)
    gap = max(math.ulp(x) / sys.float_info.epsilon * info.eps, info.smallest_normal * info.eps)
    return round(x / gap) * gap + math.copysign(gap, x)


class _RoundClipSoft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, levels: int, unit: float, sharpness: float) -> Tensor:
        ctx.save_for_backward(torch.sigmoid(sharpness * u))
        ctx.unit = unit
        return torch.round(u).clamp_(0, levels).mul_(unit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (grads[0] * slope).mul_(ctx.unit), None, None, None


def round_clip(
    u: Tensor, levels: int, unit: float = 1.0, margin: float = 0.0, leak: float = 0.0
) -> Tensor:
    """``unit * clip(round(u), 0, levels)``.

    The gradient is ``unit`` for u in [-margin, levels + margin] and ``unit * leak`` outside; with
    both zero that is the straight-through rule of Spike2Former (NI-LIF). Halves round to even.
    """
    spikes: Tensor = _RoundClip.apply(u, levels, unit, margin, leak)
    return spikes


def round_clip_soft(u: Tensor, levels: int, unit: float, sharpness: float) -> Tensor:
    """``unit * clip(round(u), 0, levels)`` with the gradient of a softplus.

    That is ``unit * sigmoid(sharpness * u)``: silent units keep a gradient that fades with their
    distance, saturated ones keep all of it.
    """
    spikes: Tensor = _RoundClipSoft.apply(u, levels, unit, sharpness)
    return spikes
