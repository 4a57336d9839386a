"""Leaky integrate-and-fire.

    U[t] = H[t-1] + I[t];   S[t] = [U[t] >= V_th]

    reset "soft"      H[t] = decay * (U[t] - V_th * S[t])
    reset "hard"      H[t] = decay * U[t] * (1 - S[t])
    reset "delayed"   H[t] = decay * U[t] - V_th * S[t]     (the subtraction does not decay)

Neftci et al. 2019, https://arxiv.org/abs/1901.09948; "soft" is the form in the WTA spiking
transformer (https://arxiv.org/abs/2604.11321), "delayed" the one in BiSpikCLM
(https://arxiv.org/abs/2605.13859). The reset stays in the graph.
Differs: no synaptic current.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Neuron
from spikeformers.neurons.surrogate import step, surrogate

Reset = Literal["soft", "hard", "delayed"]


class LIF(Neuron):
    """Binary spikes; ``decay`` per step in (0, 1], ``threshold`` in units of the membrane."""

    spike_type = "binary"

    def __init__(
        self,
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: Reset = "soft",
        surrogate_name: str = "arctan",
        sharpness: float = 2.0,
    ) -> None:
        super().__init__()
        if reset not in get_args(Reset):
            raise ConfigError(f"unknown reset {reset!r}; known: {', '.join(get_args(Reset))}.")
        self.decay, self.threshold, self.reset = decay, threshold, reset
        self.derivative, self.sharpness = surrogate(surrogate_name), sharpness
        self.surrogate_name = surrogate_name

    def fire(self, u: Tensor) -> Tensor:
        return step(u - self.threshold, self.derivative, self.sharpness)

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        if self.reset == "soft":
            return self.decay * (u - self.threshold * spikes)
        if self.reset == "hard":
            return self.decay * u * (1 - spikes)
        return self.decay * u - self.threshold * spikes

    def extra_repr(self) -> str:
        return (
            f"decay={self.decay}, threshold={self.threshold}, reset={self.reset}, "
            f"surrogate={self.surrogate_name}({self.sharpness})"
        )
