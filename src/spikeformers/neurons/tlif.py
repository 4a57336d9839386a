"""Ternary leaky integrate-and-fire, T-LIF.

    U[t] = H[t-1] + I[t];   S[t] = a * sign(U[t]) * [|U[t]| >= ratio * a]

    reset "soft"   H[t] = decay * (U[t] - S[t])
    reset "hard"   H[t] = decay * U[t] * [S[t] = 0]

Named, without a formula, by the WTA spiking transformer (https://arxiv.org/abs/2604.11321);
rebuilt here from the elastic bi-spiking neuron of SpikeLM (https://arxiv.org/abs/2406.03287).
Unspecified by the paper: threshold ratio (1/2 in SpikeLM), amplitude a (learnable, or 2 * mean|I|
of the first batch, padding left out, and then frozen), decay, reset.

Gradient: ``S = a * ternary(U / a)`` with the straight-through rule of clamp(x, -1, 1), so that
dS/dU = [|U| <= a] and dS/da = S/a - (U/a) [|U| <= a].
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.kernels.triton import runs, type_refusal
from spikeformers.neurons._base import Neuron

Amplitude = Literal["learnable", "first-batch", "fixed"]
TernaryReset = Literal["soft", "hard"]
Kind = TypeVar("Kind", bound="TLIF")


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ratio: float) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return torch.sign(x) * (x.abs() >= ratio)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None


class TLIF(Neuron):
    """Spikes in {-a, 0, +a}; one amplitude a per neuron layer."""

    spike_type = "ternary"
    signed = True
    calibrated: Tensor

    def __init__(
        self,
        decay: float = 0.5,
        threshold_ratio: float = 0.5,
        reset: TernaryReset = "soft",
        amplitude: Amplitude = "learnable",
        initial_amplitude: float = 1.0,
    ) -> None:
        super().__init__()
        if reset not in get_args(TernaryReset):
            raise ConfigError(f"T-LIF resets are {get_args(TernaryReset)}, not {reset!r}.")
        if amplitude not in get_args(Amplitude):
            raise ConfigError(f"T-LIF amplitudes are {get_args(Amplitude)}, not {amplitude!r}.")
        self.decay, self.threshold_ratio, self.reset = decay, threshold_ratio, reset
        self.mode, self.initial_amplitude = amplitude, initial_amplitude
        self.amplitude = nn.Parameter(
            torch.tensor([initial_amplitude]), requires_grad=amplitude == "learnable"
        )
        self.register_buffer("calibrated", torch.tensor([amplitude != "first-batch"]))

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            config.decay,
            config.threshold_ratio,
            config.reset,
            config.amplitude,
            config.threshold,
        )

    def engine_spec(self) -> dict[str, Any]:
        return {
            "type": "ternary",
            "unit": self.unit,
            "decay": self.decay,
            "ratio": self.threshold_ratio,
            "reset": self.reset,
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the amplitude back to its initial value; a measured one is calibrated again."""
        self.amplitude.fill_(self.initial_amplitude)
        self.calibrated.fill_(self.mode != "first-batch")

    @property
    def unit(self) -> float:
        return float(self.amplitude.detach().abs())

    def forward(self, current: Tensor) -> Tensor:
        if self.training and self.mode == "first-batch" and not bool(self.calibrated):
            with torch.no_grad():
                total, size = self.total(current.abs())
                amplitude = 2 * total / size
                if amplitude > 0:  # a silent batch has no information
                    self.amplitude.copy_(amplitude)
                    self.calibrated.fill_(True)
        return super().forward(current)

    def fire(self, u: Tensor) -> Tensor:
        a = self.amplitude.abs()
        sign: Tensor = _Ternary.apply(u / a, self.threshold_ratio)
        return a * sign

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        if self.reset == "soft":
            return self.decay * (u - spikes)
        return self.decay * u * (spikes == 0)

    def run(self, current: Tensor) -> Tensor:
        if runs(current.device.type, type_refusal(current)):
            from spikeformers.kernels.triton.scan import tlif

            a = self.amplitude.abs()
            return tlif(current, a, self.decay, self.threshold_ratio, self.reset)[0]
        return super().run(current)

    def extra_repr(self) -> str:
        return (
            f"decay={self.decay}, threshold_ratio={self.threshold_ratio}, reset={self.reset}, "
            f"amplitude={self.mode}"
        )
