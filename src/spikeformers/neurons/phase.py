"""A pair of IF neurons that encode a value in binary digits: phase coding.

    u(0) = |x| / s + 1/2, at most 2^T - 1/2;     s = theta / (2^T - 1)
    step t:  w_t = 2^(T-t);  fires if u >= w_t;  u -= w_t          t = 1 ... T
    value    s * sum_t w_t * n_t,  n_t = +1 (ON, x > 0), -1 (OFF) or 0

    sum_t w_t n_t = clip(round(x / s), -(2^T - 1), 2^T - 1)        halves away from zero

A spike at step t weighs ``2^-t``, so T steps distinguish 2^T - 1 sizes where equal spikes
distinguish T, with at most T spikes and T/2 on average. Kim et al. 2018, Deep neural networks with
weighted spikes, https://doi.org/10.1016/j.neucom.2018.05.087. Differs: two neurons, for the sign;
the whole input is the initial membrane, not a current per step. Not in the NeurTransformer paper:
an option of this project.

The counts that it emits are the sums of ``w_t n_t``. With a shifter in front of the adder they cost
one accumulate per digit that is 1, not one per unit (``weighted``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import SpikeType
from spikeformers.neurons.qcfs import SignedIF, by_sign

MOST_STEPS = 16
MOST_STEPS_OF_PRODUCTS = 8
"""Of q and k, so that products of two counts add up exactly in float32, over 256 channels."""


def digits(count: Tensor) -> Tensor:
    """The number of binary digits of each integer that are 1."""
    left, ones = count.to(torch.int32), torch.zeros_like(count)
    for _ in range(int(left.max()).bit_length() if left.numel() else 0):
        ones += left & 1
        left >>= 1
    return ones


class PhaseIF(SignedIF):
    """Unrolled it emits ``[T, ...]`` values in {-w_t, 0, w_t}."""

    weighted = True

    def __init__(
        self,
        shape: tuple[int, ...],
        steps: int,
        unrolled: bool = False,
        symmetric: bool = False,
    ) -> None:
        if steps > MOST_STEPS:
            raise ConfigError(
                f"phase coding takes at most {MOST_STEPS} steps, which distinguish "
                f"{2**MOST_STEPS - 1} sizes; not {steps}."
            )
        super().__init__(shape, steps, unrolled, symmetric)

    @property
    def largest(self) -> int:
        return 2**self.simulated - 1

    def _spike_type(self) -> SpikeType:
        return "ternary" if self.simulated == 1 else "integer"

    def events(self, spikes: Tensor) -> Tensor:
        return digits(spikes.detach().abs())

    def _run(self, current: Tensor) -> Tensor:
        if current.shape[0] != 1:
            raise ConfigError(
                "phase coding encodes one constant value; it takes no current per step."
            )
        self._refuse_training(current)
        u = (current[0].abs() / by_sign(current, self.value)[0] + 0.5).clamp(max=self.largest + 0.5)
        steps = []
        for t in range(1, self.simulated + 1):
            weight = 2.0 ** (self.simulated - t)
            fired = (u >= weight).to(u.dtype)
            u = u - weight * fired
            steps.append(weight * fired * current[0].sign())
        return torch.stack(steps)
