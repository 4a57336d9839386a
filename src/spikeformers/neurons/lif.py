"""Leaky integrate-and-fire.

    U[t] = H[t-1] + I[t];   S[t] = [U[t] >= V_th]

    reset "soft"      H[t] = decay * (U[t] - V_th * S[t])
    reset "hard"      H[t] = decay * U[t] * (1 - S[t])
    reset "delayed"   H[t] = decay * U[t] - V_th * S[t]     (the subtraction does not decay)

Neftci et al. 2019, https://arxiv.org/abs/1901.09948; "soft" is the form in the WTA spiking
transformer (https://arxiv.org/abs/2604.11321), "delayed" the one in BiSpikCLM
(https://arxiv.org/abs/2605.13859). The reset stays in the graph.
Differs: no synaptic current; with ``threshold_shape`` V_th is learned, ``exp(log_threshold)``.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.kernels.triton import runs, type_refusal
from spikeformers.neurons._base import BinaryUnits, Neuron, ScanRule, below
from spikeformers.neurons._scan import LIFScan
from spikeformers.neurons.surrogate import step, surrogate

Reset = Literal["soft", "hard", "delayed"]
Kind = TypeVar("Kind", bound="LIF")


class LIF(Neuron):
    """Binary spikes; ``decay`` per step in (0, 1], ``threshold`` in units of the membrane.

    ``threshold_shape``, which broadcasts to the current, makes the threshold a parameter.
    """

    spike_type = "binary"

    def __init__(
        self,
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: Reset = "soft",
        surrogate_name: str = "arctan",
        sharpness: float = 2.0,
        threshold_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if reset not in get_args(Reset):
            raise ConfigError(f"unknown reset {reset!r}; known: {', '.join(get_args(Reset))}.")
        self.decay, self.threshold, self.reset = decay, threshold, reset
        self.derivative, self.sharpness = surrogate(surrogate_name), sharpness
        self.surrogate_name = surrogate_name
        self.log_threshold: nn.Parameter | None = None
        if threshold_shape is not None:
            self.log_threshold = nn.Parameter(torch.empty(threshold_shape))
            self.reset_parameters()

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            config.decay,
            config.threshold,
            config.reset,
            config.surrogate,
            config.surrogate_sharpness,
        )

    def engine_spec(self) -> dict[str, Any]:
        return {
            "type": "binary",
            "decay": self.decay,
            "threshold": float(torch.as_tensor(self.v_th).detach()),
            "reset": self.reset,
        }

    def binary_units(self, steps: int) -> BinaryUnits:
        threshold = torch.as_tensor(self.v_th).detach()
        if threshold.numel() > 1:
            raise ConfigError("it has a learned threshold per head or channel.")
        if steps > 1 and self.reset != "hard":
            raise ConfigError(
                f"a {self.reset} reset subtracts the threshold, and NIR only resets to a value "
                "(reset='hard', or one step)."
            )
        return BinaryUnits(self.decay if steps > 1 else 0.0, (below(float(threshold)),), 1.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set a learned threshold back to its initial value."""
        if self.log_threshold is not None:
            self.log_threshold.fill_(math.log(self.threshold))

    @property
    def v_th(self) -> float | Tensor:
        """The current threshold."""
        return self.threshold if self.log_threshold is None else self.log_threshold.exp()

    def fire(self, u: Tensor) -> Tensor:
        return step(u - self.v_th, self.derivative, self.sharpness)

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        if self.reset == "soft":
            return self.decay * (u - self.v_th * spikes)
        if self.reset == "hard":
            return self.decay * u * (1 - spikes)
        return self.decay * u - self.v_th * spikes

    def scan_rule(self) -> ScanRule:
        return ScanRule(self.v_th, self.decay, self.reset, self.surrogate_name, self.sharpness)

    def run(self, current: Tensor) -> Tensor:
        if runs(current.device.type, type_refusal(current)):
            from spikeformers.kernels.triton.scan import lif

            return lif(current, *self.scan_rule())[0]
        spikes: Tensor = LIFScan.apply(
            current, self.v_th, self.decay, self.reset, self.derivative, self.sharpness
        )
        return spikes

    def extra_repr(self) -> str:
        return (
            f"decay={self.decay}, threshold={self.threshold}"
            f"{'' if self.log_threshold is None else ' (learned)'}, reset={self.reset}, "
            f"surrogate={self.surrogate_name}({self.sharpness})"
        )
