"""Signed integer neuron with a learned dead zone.

    U[t] = H[t-1] + X[t]
    Z[t] = sign(U[t]) max(gain |U[t]| - theta, 0)      soft threshold; theta >= 0, one per layer
    N[t] = clip(round(Z[t] / step), -L, L)             without sign: 0 to L
    S[t] = unit N[t],   unit = step / gain             so that S[t] is in the units of U[t]
    H[t] = decay (U[t] - S[t])

This project's own: NI-LIF (Spike2Former, https://arxiv.org/abs/2412.14587) with a sign, a finer
step, and the soft threshold of shrinkage (Donoho 1995, https://doi.org/10.1109/18.382009), which is
learned. Behind a norm ``gain`` is 1. Where currents have no norm it is learned, one per layer, as
the step of LSQ is (Esser et al. 2020, https://arxiv.org/abs/1902.08153).

A threshold below zero acts as zero and has zero's gradient, so that it can return; a gain counts by
its size.

Gradients, with inside = gain |U| > theta and |Z| <= step L:

    dS/dU      1 inside, ``leak`` in the dead zone and beyond the window
    dS/dtheta  -sign(U) / gain inside
    dS/dgain   ([inside] U - S) / gain

The firing-rate term is the mean of step |N|, the rounded max(gain |U| - theta, 0), and its gradient
reaches theta alone, -density: it widens the dead zone and leaves the weights to the task, so that
silence costs a layer resolution at small values and not its gain.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Activity, BinaryUnits, Neuron, below

Kind = TypeVar("Kind", bound="DeadZone")
LEAST_GAIN = 1e-6
"""A smaller one counts as this, so that a layer whose gain vanished is silent."""
EPSILON = 1e-6  # of the window of gradients, relative: float32's own is 1.2e-7


class _Fire(torch.autograd.Function):
    """Spikes of potentials ``u``; ``theta`` and ``gain`` are tensors ``[1]``, ``gain`` or None.

    Both passes are bound by memory: each has few passes over tensors of the size of ``u``, and the
    backward pass no more than two such tensors at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        theta: Tensor,
        gain: Tensor | None,
        step: float,
        low: int,
        high: int,
        leak: float,
    ) -> Tensor:
        z = _shrunk(u if gain is None else u * gain, theta, low < 0)
        unit = step if gain is None else step / gain
        spikes = z.div_(step).round_().clamp_(low, high).mul_(unit)
        saved = (u, theta) if gain is None else (u, theta, gain, spikes)
        ctx.save_for_backward(*saved)
        ctx.step, ctx.low, ctx.high, ctx.leak = step, low, high, leak
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, theta, *scaled = ctx.saved_tensors
        (grad,), signed, limit = grads, ctx.low < 0, theta.clamp_min(0)
        beyond = _beyond(u.abs() if signed else u, limit, *scaled[:1])
        # The gradient where 0 < beyond <= step L, in one pass; hardtanh's window is open above.
        top = ctx.step * ctx.high * (1 + EPSILON)
        passed = torch.ops.aten.hardtanh_backward(grad, beyond, 0.0, top)
        outside = (beyond <= 0) | (beyond >= top) if ctx.leak else None
        g_theta = g_gain = None
        if ctx.needs_input_grad[1]:
            by_sign = _dot(passed, torch.sign(u, out=beyond)) if signed else passed.sum()
            g_theta = -by_sign.view_as(theta)
            g_theta = g_theta / scaled[0] if scaled else g_theta
        if scaled and ctx.needs_input_grad[2]:
            gain, spikes = scaled
            g_gain = ((_dot(passed, u) - _dot(grad, spikes)) / gain).view_as(gain)
        if outside is not None:
            passed = torch.where(outside, grad * ctx.leak, passed)
        return passed, g_theta, g_gain, None, None, None, None


def _beyond(size: Tensor, limit: Tensor, gain: Tensor | None = None) -> Tensor:
    """``gain * size - limit``, in one pass; a new tensor."""
    return size - limit if gain is None else torch.addcmul(-limit, size, gain)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of products; in single precision and above without a tensor of them."""
    if a.element_size() < 4:
        return (a * b).sum()  # which adds in single precision
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _shrunk(u: Tensor, theta: Tensor, signed: bool) -> Tensor:
    """``sign(u) max(|u| - theta, 0)``, or ``max(u - theta, 0)`` without a sign; a new tensor."""
    limit = theta.clamp_min(0)
    if signed:
        return u - u.clamp(-limit, limit)
    return (u - limit).clamp_min_(0)


class DeadZone(Neuron):
    """Counts -``levels`` to ``levels`` (or from 0) of currents beyond a learned threshold."""

    spike_type = "integer"
    learns_threshold = True

    def __init__(
        self,
        levels: int = 64,
        step_size: float = 0.25,
        threshold: float = 0.3,
        signed: bool = True,
        decay: float = 0.5,
        gain: float | None = None,
        leak: float = 0.0,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, not {levels}.")
        if not 1e-6 <= step_size <= 1e6:
            raise ConfigError(f"step_size must be 1e-6 to 1e6, not {step_size}.")
        if not 0 <= threshold <= 1e6:
            raise ConfigError(f"dead_zone must be 0 to 1e6, not {threshold}.")
        if gain is not None and not LEAST_GAIN <= gain <= 1e6:
            raise ConfigError(f"gain must be 1e-6 to 1e6, not {gain}.")
        self.levels, self.step_size, self.signed, self.decay = levels, step_size, signed, decay
        self.leak, self.initial_threshold, self.initial_gain = leak, threshold, gain
        self.threshold = nn.Parameter(torch.full((1,), float(threshold)))
        self.gain = None if gain is None else nn.Parameter(torch.full((1,), float(gain)))

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            config.levels,
            config.step_size,
            config.dead_zone,
            config.signed,
            config.decay,
            config.gain,
            config.surrogate_leak,
        )

    def engine_spec(self) -> dict[str, Any]:
        return {
            "type": "integer",
            "levels": self.levels,
            "unit": self.unit,
            "decay": self.decay,
            "signed": self.signed,
            "step": self.step_size,
            "dead_zone": max(0.0, float(self.threshold.detach())),
            "gain": self._gain(),
        }

    def binary_units(self, steps: int) -> BinaryUnits:
        """A unit per level: N is at least k where Z > (k - 1/2) step; of halves the odd rise."""
        if self.signed:
            raise ConfigError("its counts have a sign, and units of NIR have one value.")
        if steps > 1:
            raise ConfigError("its reset subtracts a count, and NIR only resets to a value.")
        theta = max(0.0, float(self.threshold.detach()))
        levels = range(1, self.levels + 1)
        halves = [(theta + (k - 0.5) * self.step_size) / self._gain() for k in levels]
        thresholds = tuple(h if k % 2 else below(h) for k, h in zip(levels, halves, strict=True))
        return BinaryUnits(0.0, thresholds, self.unit)

    @property
    def unit(self) -> float:
        return self.step_size / self._gain()

    def _gain(self) -> float:
        return 1.0 if self.gain is None else float(self._size_of_gain(self.gain.detach()))

    @property
    def exact_in_half(self) -> bool:
        """A learned gain makes no power of two; to read it would break a compiled graph."""
        return self.gain is None and super().exact_in_half

    @staticmethod
    def _size_of_gain(gain: Tensor) -> Tensor:
        return gain.abs().clamp_min(LEAST_GAIN)

    def spike_value(self) -> float | Tensor:
        if self.gain is None:
            return self.step_size
        return self.step_size / self._size_of_gain(self.gain.detach()).squeeze()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.threshold.fill_(self.initial_threshold)
        if self.gain is not None and self.initial_gain is not None:
            self.gain.fill_(self.initial_gain)

    def fire(self, u: Tensor) -> Tensor:
        low = -self.levels if self.signed else 0
        threshold = self.threshold.to(u.dtype)
        gain = None if self.gain is None else self._size_of_gain(self.gain).to(u.dtype)
        spikes: Tensor = _Fire.apply(
            u, threshold, gain, self.step_size, low, self.levels, self.leak
        )
        return spikes

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        return self.decay * (u - spikes)

    def _activity(self, current: Tensor, spikes: Tensor) -> Activity:
        size = spikes.detach().abs()
        (counted, values), (fired, _) = self.total(size), self.total(size.sign_())
        excess = counted / values
        if self.gain is not None:
            excess = excess * self._size_of_gain(self.gain.detach()).squeeze()
        density = fired / values
        threshold = self.threshold.squeeze()
        return self._reported(excess - density * (threshold - threshold.detach()), density)

    def operations(self, values: int, steps: int) -> dict[str, int]:
        """A comparison per level and one of the sign; the soft threshold is subtracted."""
        carried = values // steps * (steps - 1)
        scaled = 0 if self.step_size == 1 and self.gain is None else 1
        return {
            "compare": (self.levels + self.signed) * values,
            "add": values + 2 * carried,
            "mult": scaled * values + (1 + scaled) * carried,
        }

    def values(self) -> str:
        low = f"-{self.levels}" if self.signed else "0"
        factor = f"{self.step_size:g}" if self.gain is None else "a learned number"
        return f"{low}, ... {self.levels}, times {factor}"

    def extra_repr(self) -> str:
        return (
            f"levels={self.levels}, step_size={self.step_size}, signed={self.signed}, "
            f"threshold={self.initial_threshold}, gain={self.initial_gain}, decay={self.decay}"
        )
