"""Integrate-and-fire neurons whose threshold follows their token, in binary digits.

Of one row x, the D values of one token, with T steps, L = 2^(T-1) - 1 and a reach of w:

    m       = mean |x|                           summed in double, then rounded to float32
    unit    = min(max |x|, w m) / L              one number per token
    s_i     = round(x_i / unit)                  halves away from zero; 0 where |x_i| < tau m
    y       = unit * (W s)

    near_i  = s_i mod 2^(T-1)                    with the sign of s: T - 1 phase spikes and a sign
    far_i   = s_i div 2^(T-1)                    with the sign of s: fires only where |s_i| > L

    s = near + 2^(T-1) far                       |far| <= D / w, since max |x| <= D m

So a far neuron is a second, coarser one: one of its spikes is worth 2^(T-1) of the near neuron's,
and both share the product W s. It takes the few values beyond w times the mean, which clipping
would lose and which would make the unit of all other values coarse. A row of zeros has the unit 0
and no spikes. ``power_of_two`` rounds the unit up to a power of two, so that it is a shift.
``tau``, the dead zone, silences what is small beside the token's mean.

SpikingBrain, https://arxiv.org/abs/2509.05276 and https://arxiv.org/abs/2604.22575: a threshold of
mean |x| / k per token, counts sent in binary or ternary digits.
Differs: there every value has one neuron, whose count has no largest; here the largest value bounds
the unit from above (a token without large values gets a finer unit), what exceeds L is a neuron
of its own, and a dead zone is apart from the unit. k is L / w.
Unspecified: how halves round, whether the mean covers a token or a part of it, the digits of the
largest counts.

Gradient: straight through, ``d(unit * s) / dx = 1``; the unit and tau pass none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Neuron
from spikeformers.neurons.phase import digits
from spikeformers.neurons.qcfs import count_of

FEWEST_STEPS, MOST_STEPS = 2, 12
UNBOUNDED = 2**24  # whole numbers beyond it are not exact in float32


class TokenUnit(nn.Module):
    """The unit of each row: ``[..., D]`` to ``[..., 1]``, float32."""

    counted_as = "part of a neuron"

    def __init__(self, reach: float, largest: int, power_of_two: bool) -> None:
        super().__init__()
        self.reach, self.largest, self.power_of_two = reach, largest, power_of_two

    def forward(self, current: Tensor) -> Tensor:
        size = current.detach().float().abs()
        unit = torch.minimum(size.amax(-1, keepdim=True), self.reach * mean_size(size))
        unit = unit / self.largest
        return rounded_up_to_a_power_of_two(unit) if self.power_of_two else unit


def mean_size(size: Tensor) -> Tensor:
    """Mean over the last dimension, ``[..., D]`` to ``[..., 1]``, added in double precision."""
    total = size.sum(-1, keepdim=True, dtype=torch.float64)
    return (total / size.shape[-1]).to(torch.float32)


def relative_size(x: Tensor) -> Tensor:
    """|x| / mean |x| of each row ``[..., D]``, in the type of ``x``; the unit of dead zones."""
    size = x.abs()
    return size / mean_size(size.float()).to(size.dtype).clamp_min(1e-30)


def rounded_up_to_a_power_of_two(unit: Tensor) -> Tensor:
    """The smallest power of two that is not below ``unit``; 0 stays 0."""
    mantissa, exponent = torch.frexp(unit)
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    return torch.ldexp((unit > 0).to(unit.dtype), exponent)


class TokenIF(Neuron):
    """Integer counts of currents ``[1, ..., D]``, float32; ``value_of`` is the value of one spike.

    ``steps`` is T, ``reach`` w; ``dead_zone`` holds tau. ``unrolled`` emits single phases,
    ``[phases, ..., D]`` in {-2^p, 0, 2^p}: the far neuron's first. They sum to the counts.
    """

    spike_type = "integer"
    weighted = True
    signed = True
    value_per_token = True
    has_dead_zone = True

    def __init__(
        self,
        width: int,
        steps: int,
        reach: float = 8.0,
        power_of_two: bool = False,
        unrolled: bool = False,
    ) -> None:
        super().__init__()
        if not FEWEST_STEPS <= steps <= MOST_STEPS:
            raise ConfigError(
                f"a threshold per token takes {FEWEST_STEPS} to {MOST_STEPS} steps, of which one "
                f"is the sign; not {steps}."
            )
        if not (math.isfinite(reach) and reach > 0):
            raise ConfigError(
                f"the reach of a threshold per token, in means, must be above 0, not {reach}."
            )
        self.width, self.steps, self.unrolled = width, steps, unrolled
        self.levels = self.largest = 2 ** (steps - 1) - 1
        self.planes = steps + 1  # the near count, its sign, and a bit that marks far values
        self.unit_of = TokenUnit(reach, self.largest, power_of_two)
        self.dead_zone = nn.Parameter(torch.zeros(1))

    @property
    def reach(self) -> float:
        """w: the near neuron's largest count stands for this many times the mean."""
        return self.unit_of.reach

    @property
    def power_of_two(self) -> bool:
        """Whether units are powers of two."""
        return self.unit_of.power_of_two

    @property
    def far_steps(self) -> int:
        """Phases of the far neuron, enough for any row."""
        return int(self.width / self.reach).bit_length()

    @property
    def simulated(self) -> int:
        """Phases of the near neuron; the sign travels with each spike."""
        return self.steps - 1

    def value_of(self, current: Tensor) -> Tensor:
        """The value of one spike: the unit of each row, ``[..., D]`` to ``[..., 1]``, float32."""
        unit: Tensor = self.unit_of(current)
        return unit

    def forward(self, current: Tensor, value: Tensor | None = None) -> Tensor:
        """Counts of currents ``[1, ..., D]``; ``value`` is ``value_of(current)``, if known."""
        unit = self.value_of(current) if value is None else value
        x = current.float()
        count = count_of(x / torch.where(unit > 0, unit, 1.0), -UNBOUNDED, UNBOUNDED)
        size = x.detach().abs()
        silent = size < self.dead_zone.detach() * mean_size(size)
        count = count - count.detach() * silent
        return self._phases(count) if self.unrolled else count

    def _phases(self, count: Tensor) -> Tensor:
        """``[1, ...]`` counts as single phases, the most significant first; forward only."""
        if self.training and torch.is_grad_enabled() and count.requires_grad:
            raise ConfigError(
                "neurons that run step by step (unrolled) pass no gradient; train the model with "
                "unrolled=False, which has the same weights."
            )
        sign, left = count[0].sign(), count[0].abs()
        steps = []
        for phase in reversed(range(self.simulated + self.far_steps)):
            fired = (left >= 2.0**phase).to(left.dtype)
            left = left - 2.0**phase * fired
            steps.append(2.0**phase * fired * sign)
        return torch.stack(steps)

    def populations(self, spikes: Tensor) -> dict[str, Tensor]:
        """Counts of the near neurons, and of the far ones, each worth 2^(T-1) of those."""
        near, far = self.parts(spikes)
        return {"near": near, "far": far}

    def parts(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Near and far counts: ``counts = near + 2^(T-1) far``, all with one sign."""
        one_far = 2 ** (self.steps - 1)
        size, sign = counts.detach().abs(), counts.detach().sign()
        far = torch.floor(size / one_far)
        return (size - far * one_far) * sign, far * sign

    def events(self, spikes: Tensor) -> Tensor:
        """Spikes that each count stands for: its binary digits, of both neurons."""
        return digits(spikes.detach().abs())

    def values(self) -> str:
        """Its values, in words."""
        return (
            f"{-self.largest}, ... {self.largest}, the sum of {self.simulated} phases; beyond that "
            f"a far neuron, whose spikes are worth {2 ** (self.steps - 1)} each"
        )

    def operations(self, values: int, steps: int) -> dict[str, int]:
        """Per value: its part in mean and largest, the dead zone, whether it is far, x / unit by
        the reciprocal (a shift costs nothing), and per phase and sign what an IF neuron does. Per
        row: the mean's division, w m, the unit and its reciprocal.
        """
        values = values // steps
        rows, neurons = values // self.width, 2 * values * self.simulated
        return {
            "add": values + 2 * neurons,
            "compare": 3 * values + neurons,
            "mult": (0 if self.power_of_two else values) + 3 * rows,
            "function": rows,
        }

    def report(self, current: Tensor, spikes: Tensor) -> dict[str, float]:
        """As `IF.report`, with the share of far neurons that fired and the dead zone.

        Thresholds are those of the run's tokens: the value of L spikes. Nothing is clipped.
        """
        events, far = self.events(spikes).sum(0), self.parts(spikes.sum(0))[1]
        theta = self.value_of(current) * self.largest
        return {
            "clipped": 0.0,
            "far": float((far != 0).float().mean()),
            "rate": float(events.mean()) / self.simulated,
            "density": float((events > 0).float().mean()),
            "dead_zone": float(self.dead_zone.detach()),
            "threshold_mean": float(theta.mean()),
            "threshold_min": float(theta.min()),
            "threshold_max": float(theta.max()),
        }

    def engine_spec(self) -> dict[str, Any]:
        """T, w, tau and whether the unit is a power of two."""
        return {
            "type": "token",
            "steps": self.steps,
            "reach": self.reach,
            "dead_zone": float(self.dead_zone.detach()),
            "power_of_two": self.power_of_two,
        }

    def extra_repr(self) -> str:
        return (
            f"width={self.width}, steps={self.steps}, reach={self.reach}, "
            f"power_of_two={self.power_of_two}, unrolled={self.unrolled}"
        )
