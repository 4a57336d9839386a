"""Signed integer neuron with a learned dead zone.

    U[t] = H[t-1] + X[t]
    Z[t] = sign(U[t]) max(|U[t]| - theta, 0)          soft threshold; theta >= 0, one per layer
    N[t] = clip(round(Z[t] / step), -L, L)            without sign: 0 to L
    S[t] = unit N[t]
    H[t] = decay (U[t] - step N[t])

This project's own: NI-LIF (Spike2Former, https://arxiv.org/abs/2412.14587) with a sign, a finer
step and the soft threshold of shrinkage (Donoho 1995, https://doi.org/10.1109/18.382009), which is
learned. ``unit`` is 1 / L in the blocks, as NI-LIF's, and ``step`` before a head.

Gradients, with inside = |U| > theta and |Z| <= step L:

    dS/dU      unit / step inside, ``leak`` of it in the dead zone and beyond the window
    dS/dtheta  -sign(U) unit / step inside

The firing-rate term is the mean of max(|U| - theta, 0), whose gradient reaches theta alone: it
widens the dead zone and leaves the weights to the task, so that a target density is met whatever
the weight of the term.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Activity, Neuron

Kind = TypeVar("Kind", bound="DeadZone")


class _Shrink(torch.autograd.Function):
    """``unit * clip(round(shrink(u, theta) / step), low, high)``."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        theta: Tensor,
        step: float,
        low: int,
        high: int,
        unit: float,
        leak: float,
    ) -> Tensor:
        ctx.save_for_backward(u, theta)
        ctx.step, ctx.low, ctx.high, ctx.unit, ctx.leak = step, low, high, unit, leak
        z = _shrunk(u, theta, low < 0)
        return z.div_(step).round_().clamp_(low, high).mul_(unit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, theta = ctx.saved_tensors
        size = u.abs() if ctx.low < 0 else u
        limit = theta.clamp_min(0)
        inside = (size > limit) & (size <= limit + ctx.step * ctx.high)
        grad = grads[0] * (ctx.unit / ctx.step)
        passed = grad * inside
        g_theta = None
        if ctx.needs_input_grad[1]:
            g_theta = -(passed * u.sign()).sum().view_as(theta)
        if ctx.leak:
            passed = torch.where(inside, grad, grad * ctx.leak)
        return passed, g_theta, None, None, None, None, None


def _shrunk(u: Tensor, theta: Tensor, signed: bool) -> Tensor:
    """``sign(u) max(|u| - theta, 0)``, or ``max(u - theta, 0)`` without a sign; a new tensor."""
    limit = theta.clamp_min(0)
    inner = u.clamp(-limit, limit) if signed else u.clamp_max(limit)
    shrunk = u - inner
    return shrunk if signed else shrunk.clamp_min_(0)


class _Excess(torch.autograd.Function):
    """``max(|u| - theta, 0)``, whose gradient reaches theta alone, also where theta is at 0."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, theta: Tensor, signed: bool) -> Tensor:
        excess = _shrunk(u.detach(), theta, signed).abs_()
        ctx.save_for_backward(excess, theta)
        return excess

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        excess, theta = ctx.saved_tensors
        return None, -(grads[0] * (excess > 0)).sum().view_as(theta), None


class DeadZone(Neuron):
    """Counts -``levels`` to ``levels`` (or from 0) of currents beyond a learned threshold."""

    spike_type = "integer"

    def __init__(
        self,
        levels: int = 64,
        step: float = 0.25,
        threshold: float = 0.3,
        signed: bool = True,
        decay: float = 0.5,
        unit: float | None = None,
        leak: float = 0.0,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, not {levels}.")
        if not 1e-6 <= step <= 1e6:
            raise ConfigError(f"step must be 1e-6 to 1e6, not {step}.")
        if not 0 <= threshold <= 1e6:
            raise ConfigError(f"dead_zone must be 0 to 1e6, not {threshold}.")
        self.levels, self.size_of_step, self.signed, self.decay = levels, step, signed, decay
        self.leak, self._unit = leak, 1.0 / levels if unit is None else unit
        self.initial_threshold = threshold
        self.threshold = nn.Parameter(torch.full((1,), float(threshold)))

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            config.levels,
            config.step,
            config.dead_zone,
            config.signed,
            config.decay,
            leak=config.surrogate_leak,
        )

    @classmethod
    def head_from_config(cls, config: Any) -> DeadZone:
        """With the step as the value of a spike: 1/L would starve logits."""
        neuron = cls.from_config(config)
        neuron._unit = config.step
        return neuron

    def engine_spec(self) -> dict[str, Any]:
        return {
            "type": "integer",
            "levels": self.levels,
            "unit": self.unit,
            "decay": self.decay,
            "signed": self.signed,
            "step": self.size_of_step,
            "dead_zone": max(0.0, float(self.threshold.detach())),
        }

    @property
    def unit(self) -> float:
        return self._unit

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.threshold.fill_(self.initial_threshold)

    def fire(self, u: Tensor) -> Tensor:
        low = -self.levels if self.signed else 0
        threshold = self.threshold.to(u.dtype)
        spikes: Tensor = _Shrink.apply(
            u, threshold, self.size_of_step, low, self.levels, self.unit, self.leak
        )
        return spikes

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        return self.decay * (u - spikes / self.unit * self.size_of_step)

    def _activity(self, current: Tensor, spikes: Tensor) -> Activity:
        fired, size = self.total(spikes.detach().sign().abs_())
        potentials = self._potentials(current.detach())
        excess, _ = self.total(_Excess.apply(potentials, self.threshold, self.signed))
        return Activity(
            excess / size, fired / size, self.rate_target, torch.is_grad_enabled(), self.rate_weight
        )

    @torch.no_grad()
    def _potentials(self, current: Tensor) -> Tensor:
        """U of every step."""
        potentials, carry = [], torch.zeros_like(current[0])
        if current.shape[0] == 1:
            return current
        for now in current.unbind(0):
            potentials.append(carry + now)
            carry = self.keep(potentials[-1], self.fire(potentials[-1]))
        return torch.stack(potentials)

    def operations(self, values: int, steps: int) -> dict[str, int]:
        """A comparison per level and one of the sign; the soft threshold is subtracted."""
        carried = values // steps * (steps - 1)
        scaled = 0 if self.size_of_step == 1 else 1
        return {
            "compare": (self.levels + self.signed) * values,
            "add": values + 2 * carried,
            "mult": scaled * values + (1 + scaled) * carried,
        }

    def values(self) -> str:
        fraction = math.isclose(self.unit * self.levels, 1)
        size = [
            f"{count}/{self.levels}" if fraction else f"{count * self.unit:g}"
            for count in (1, self.levels)
        ]
        low = f"-{size[1]}, ... -{size[0]}, " if self.signed else ""
        return f"{low}0, {size[0]}, ... {size[1]}"

    def extra_repr(self) -> str:
        return (
            f"levels={self.levels}, step={self.size_of_step}, signed={self.signed}, "
            f"threshold={self.initial_threshold}, decay={self.decay}"
        )
