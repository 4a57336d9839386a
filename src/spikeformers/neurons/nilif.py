"""Normalised integer leaky integrate-and-fire, NI-LIF.

    U[t] = H[t-1] + X[t]
    S[t] = clip(round(U[t]), 0, D) / D
    H[t] = decay * (U[t] - S[t] * D)

Spike2Former, https://arxiv.org/abs/2412.14587; used as "T x D" by the WTA spiking transformer,
https://arxiv.org/abs/2604.11321. With T = 1 nothing recurs. At inference S * D is D binary spikes
(``expanded``), and the 1/D is folded into the weights that follow.

Gradient: straight-through, dS/dU = 1/D for U in [0, D] and zero outside.
Differs: ``margin`` widens that window to [-margin, D + margin] and ``leak`` passes a share of the
gradient beyond it; both are zero in the source.
"""

from __future__ import annotations

from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Neuron
from spikeformers.neurons.surrogate import round_clip


class NILIF(Neuron):
    """Integer counts 0..``levels`` per step, divided by ``levels``."""

    spike_type = "integer"

    def __init__(
        self, levels: int = 4, decay: float = 0.5, margin: float = 0.0, leak: float = 0.0
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, not {levels}.")
        self.levels, self.decay, self.margin, self.leak = levels, decay, margin, leak

    @property
    def unit(self) -> float:
        return 1.0 / self.levels

    def step(self, current: Tensor, carry: Tensor | None) -> tuple[Tensor, Tensor]:
        u = current if carry is None else carry + current
        count = round_clip(u, self.levels, self.margin, self.leak)
        return count / self.levels, self.decay * (u - count)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, decay={self.decay}, margin={self.margin}, leak={self.leak}"
