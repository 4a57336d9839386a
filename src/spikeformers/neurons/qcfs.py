"""Quantisation-clip-floor-shift, QCFS, and the integrate-and-fire neurons that it becomes.

    QCFS      h(z) = theta * clip(floor(z L / theta + 1/2) / L, 0, 1)

    IF        v(0) = theta / 2;  v += x_t;  s_t = [v >= theta];  v -= theta s_t
    signed    two of them, one (ON) driven by x and one (OFF) by -x;  n_t = s_on - s_off
              sum_t n_t = clip(round(x T / theta), -T, T) for constant x, halves away from zero

Bu et al. 2022 (https://arxiv.org/abs/2303.04347); the pair after spiking neurons with negative
spikes, as https://arxiv.org/abs/2510.00133 needs them for GELU (it gives no equation).

``theta`` is the largest value that T steps can encode; one spike is worth ``theta / T``. Constant
input over T = L steps gives ``sum_t s_t theta / T = h(x)`` exactly: Tx + theta/2 crosses multiples
of theta ``floor(x T / theta + 1/2)`` times. An input that changes from step to step may not: when a
late step turns negative, spikes that should be undone have already been sent.

So ``forward`` of a constant input returns the sum over its T steps, ``[1, ...]`` counts, unless
``unrolled``; ``[T, ...]`` currents are always run step by step.

Gradient: straight through, ``d h / d z = 1`` where the count is within its limits, and, with
``h = theta n / T``, ``d h / d theta = n / T - z / theta`` there and ``n / T`` beyond.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Neuron, SpikeType

SMALLEST = 1e-8  # keeps thresholds positive during training


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, low: int, high: int) -> Tensor:
        # Halves go away from zero, as in two neurons that each start at half their threshold.
        count = torch.floor(u.abs() + 0.5) * u.sign()
        ctx.save_for_backward((count >= low) & (count <= high))
        return count.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


def count_of(u: Tensor, low: int, high: int) -> Tensor:
    """``clip(round(u), low, high)``, halves away from zero, straight through inside."""
    count: Tensor = _Count.apply(u, low, high)
    return count


def by_sign(x: Tensor, values: Tensor) -> Tensor:
    """``values`` ``[2, ...]`` of the ON and of the OFF neuron, chosen by the sign of ``x``.

    A single row, ``[1, ...]``, serves both.
    """
    if len(values) == 1:
        return values[0]
    # Not `torch.where`: on a CPU its branch per value takes five times as long. Exact: one
    # of the two products is zero.
    negative = x.detach().sign().clamp_(max=0).to(values.dtype)
    return torch.addcmul((negative + 1) * values[0], negative, values[1], value=-1)


class QCFS(nn.Module):
    """The quantised activation ``h``; ``threshold`` has one learnable theta per channel."""

    def __init__(self, channels: int, levels: int, threshold: float = 1.0) -> None:
        super().__init__()
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, not {levels}.")
        self.levels = levels
        self.threshold = nn.Parameter(torch.full((channels,), threshold))

    def forward(self, z: Tensor) -> Tensor:
        theta = self.threshold.clamp_min(SMALLEST)
        return theta * (count_of(z * self.levels / theta, 0, self.levels) / self.levels)

    def extra_repr(self) -> str:
        return f"channels={len(self.threshold)}, levels={self.levels}"


class IF(Neuron):
    """Non-negative spikes; ``threshold`` ``[1, *shape]`` broadcasts against the current."""

    power_of_two: bool = False
    """Whether every value is a power of two."""

    def __init__(self, shape: tuple[int, ...], steps: int, unrolled: bool = False) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, not {steps}.")
        self.simulated, self.unrolled = steps, unrolled
        self.levels = 1 if unrolled else steps
        self.spike_type = self._spike_type()
        self.threshold = nn.Parameter(torch.ones(1, *shape))

    def _spike_type(self) -> SpikeType:
        return "binary" if self.unrolled or self.simulated == 1 else "integer"

    @property
    def value(self) -> Tensor:
        """The value of one spike, ``theta / T``, in the shape of ``threshold``."""
        return self.threshold.clamp_min(SMALLEST) / self.largest

    @property
    def largest(self) -> int:
        """The largest count of T steps."""
        return self.simulated

    def value_of(self, current: Tensor) -> Tensor:
        """The value of one spike, which does not depend on the current."""
        return self.value

    def forward(self, current: Tensor, value: Tensor | None = None) -> Tensor:
        """Spikes of a constant current ``[1, ...]`` or of one per step, ``[T, ...]``.

        A constant one gives counts ``[1, ...]``, or ``[T, ...]`` spikes if unrolled; ``value``
        is ``value_of(current)`` if the caller has it.
        """
        if current.shape[0] == 1 and not self.unrolled:
            low = -self.largest if self.signed else 0
            each = by_sign(current, self.value if value is None else value)
            return count_of(current / each, low, self.largest)
        return self._run(current)

    def _run(self, current: Tensor) -> Tensor:
        """Step by step, ``[T, ...]``; forward only."""
        self._refuse_training(current)
        if current.shape[0] == 1:
            current = current.expand(self.simulated, *current.shape[1:])
        membrane: Tensor | None = None
        steps = []
        for now in current.unbind(0):
            spikes, membrane = self.step(now, membrane)
            steps.append(spikes)
        return torch.stack(steps)

    def _refuse_training(self, current: Tensor) -> None:
        """ConfigError if a gradient is needed: spikes of single steps pass none."""
        if self.training and torch.is_grad_enabled() and current.requires_grad:
            raise ConfigError(
                "neurons that run step by step (unrolled, pipelined) pass no gradient; train the "
                "model with unrolled=False and schedule='layerwise', which has the same weights."
            )

    def step(self, current: Tensor, carry: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step; the carry is the membrane of each neuron of the pair, ``[1 or 2, ...]``."""
        theta = self._thetas(current)
        u = (theta / 2 if carry is None else carry) + self._drive(current)
        spikes = (u >= theta).to(current.dtype)
        u = u - theta * spikes
        return (spikes[0] - spikes[1] if self.signed else spikes[0]), u

    def _thetas(self, current: Tensor) -> Tensor:
        theta = self.threshold.clamp_min(SMALLEST)
        rows = theta.expand(2 if self.signed else 1, *theta.shape[1:])
        missing = current.dim() - (theta.dim() - 1)
        return rows.reshape(len(rows), *([1] * missing), *theta.shape[1:])

    def _drive(self, current: Tensor) -> Tensor:
        return torch.stack((current, -current)) if self.signed else current.unsqueeze(0)

    @property
    def step_levels(self) -> int:
        return 1

    def values(self) -> str:
        """Its values, in words: unless unrolled, the sum of its T steps."""
        if self.spike_type == "integer":
            least = -self.largest if self.signed else 0
            return f"{least}, ... {self.largest}, the sum of {self.simulated} steps"
        return "-1, 0, 1" if self.spike_type == "ternary" else super().values()

    def events(self, spikes: Tensor) -> Tensor:
        """The number of spikes that each value of ``forward``'s output stands for."""
        return spikes.detach().abs()

    def report(self, current: Tensor, spikes: Tensor) -> dict[str, float]:
        """Statistics of the layer for ``current``; ``conversion.measure`` explains the names."""
        current = current.mean(0, keepdim=True)
        limit = by_sign(current, self.threshold) * (1 + 0.5 / self.largest)
        beyond = current.abs() > limit if self.signed else current > limit
        count, theta = self.events(spikes).sum(0), self.threshold
        return {
            "clipped": float(beyond.float().mean()),
            "rate": float(count.mean()) / self.simulated,
            "density": float((count > 0).float().mean()),
            "threshold_mean": float(theta.mean()),
            "threshold_min": float(theta.min()),
            "threshold_max": float(theta.max()),
        }

    def operations(self, values: int, steps: int) -> dict[str, int]:
        """Of ``values`` neurons, or pairs: an addition and a comparison per step, and the reset."""
        neurons = values // steps * self.simulated * (2 if self.signed else 1)
        return {"add": 2 * neurons, "compare": neurons}

    def extra_repr(self) -> str:
        shape = tuple(self.threshold.shape)
        return f"threshold={shape}, steps={self.simulated}, unrolled={self.unrolled}"


class SignedIF(IF):
    """A pair of IF neurons, ON and OFF; ``symmetric`` gives both one threshold."""

    signed = True

    def __init__(
        self,
        shape: tuple[int, ...],
        steps: int,
        unrolled: bool = False,
        symmetric: bool = False,
    ) -> None:
        super().__init__(shape, steps, unrolled)
        if not symmetric:
            self.threshold = nn.Parameter(torch.ones(2, *shape))

    def _spike_type(self) -> SpikeType:
        return "ternary" if self.unrolled or self.simulated == 1 else "integer"


class SignedNILIF(SignedIF):
    """ON and OFF NI-LIF neurons with D = T levels: the entire count in one step.

    ``S = clip(round(U), 0, D) / D`` with ``U = x D / theta`` (``neurons/nilif.py``), so the numbers
    are those of ``SignedIF``; what differs is time, one step of counts instead of T of spikes.
    """

    def __init__(self, shape: tuple[int, ...], steps: int, symmetric: bool = False) -> None:
        super().__init__(shape, steps, unrolled=False, symmetric=symmetric)

    def operations(self, values: int, steps: int) -> dict[str, int]:
        """A comparison per level and neuron; nothing recurs."""
        return {"compare": 2 * values * self.levels}
