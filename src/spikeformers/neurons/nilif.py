"""Normalised integer leaky integrate-and-fire, NI-LIF.

    U[t] = H[t-1] + X[t]
    S[t] = clip(round(U[t]), 0, D) / D
    H[t] = decay * (U[t] - S[t] * D)

Spike2Former, https://arxiv.org/abs/2412.14587; used as "T x D" by the WTA spiking transformer,
https://arxiv.org/abs/2604.11321. With T = 1 nothing recurs. At inference S * D is D binary spikes
(``expanded``), and the 1/D is folded into the weights that follow.

Gradient of the count, ``D * dS/dU``, by ``gradient``:

    rectangular   1 for U in [0, D], 0 outside: the source's straight-through rule
    sigmoid       sigmoid(sharpness * U), the derivative of a softplus

Differs: the second, which leaves no unit without a gradient; for the first, ``margin`` widens the
window to [-margin, D + margin] and ``leak`` passes a share beyond it (both zero in the source).
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.kernels.triton import WIDEST, runs, type_refusal
from spikeformers.neurons._base import BinaryUnits, Neuron, NormTerms, below, expand
from spikeformers.neurons.surrogate import round_clip, round_clip_soft

IntegerGradient = Literal["rectangular", "sigmoid"]
Kind = TypeVar("Kind", bound="NILIF")


class NILIF(Neuron):
    """Integer counts 0..``levels`` per step, divided by ``levels``."""

    spike_type = "integer"

    def __init__(
        self,
        levels: int = 4,
        decay: float = 0.5,
        gradient: IntegerGradient = "rectangular",
        sharpness: float = 2.0,
        margin: float = 0.0,
        leak: float = 0.0,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, not {levels}.")
        if gradient not in get_args(IntegerGradient):
            raise ConfigError(
                f"gradients of an integer neuron are {get_args(IntegerGradient)}, not {gradient!r}."
            )
        self.levels, self.decay, self.gradient = levels, decay, gradient
        self.sharpness, self.margin, self.leak = sharpness, margin, leak

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            config.levels,
            config.decay,
            config.integer_gradient,
            config.surrogate_sharpness,
            config.surrogate_margin,
            config.surrogate_leak,
        )

    @classmethod
    def head_from_config(cls, config: Any) -> NILIF:
        """Whole counts, I-LIF: the 1/D of NI-LIF starves logits."""
        from spikeformers.neurons.ilif import ILIF  # which derives from this one

        return ILIF.from_config(config)

    def engine_spec(self) -> dict[str, Any]:
        return {
            "type": "integer",
            "levels": self.levels,
            "unit": self.unit,
            "decay": self.decay,
        }

    def binary_units(self, steps: int) -> BinaryUnits:
        """A unit per level: round(U) is at least k where U > k - 1/2; of halves the odd rise."""
        if steps > 1:
            raise ConfigError("its reset subtracts a count, and NIR only resets to a value.")
        halves = ((k, k - 0.5) for k in range(1, self.levels + 1))
        thresholds = tuple(half if k % 2 else below(half) for k, half in halves)
        return BinaryUnits(0.0, thresholds, self.unit)

    @property
    def unit(self) -> float:
        return 1.0 / self.levels

    def fuses_norm(self, current: Tensor) -> bool:
        refusal = type_refusal(current)
        if current.shape[-1] > WIDEST["norm_fire"]:
            refusal = f"rows are at most {WIDEST['norm_fire']} wide, not {current.shape[-1]}"
        return runs(current.device.type, refusal)

    def forward(self, current: Tensor, norm: NormTerms | None = None) -> Tensor:
        """Spikes of currents ``[S, ...]``, or of ``norm`` of them (``fuses_norm``)."""
        if norm is None:
            return super().forward(current)
        from spikeformers.kernels.triton.norm_fire import norm_fire

        autocast = torch.is_autocast_enabled(current.device.type)
        spikes, total, fired = norm_fire(
            current.reshape(len(current), -1, current.shape[-1]),
            norm.gain,
            norm.shift,
            norm=norm.kind,
            eps=norm.eps,
            levels=self.levels,
            unit=self.unit,
            decay=self.decay,
            gradient=self.gradient,
            sharpness=self.sharpness,
            margin=self.margin,
            leak=self.leak,
            wide=autocast and norm.kind != "none",  # as autocast computes norms
        )
        spikes = spikes.view(current.shape)
        if self.activity is not None:
            rows, width = (*current.shape[:-1], 1), current.shape[-1]
            counted, size = self.total(total.view(rows))
            number, _ = self.total(fired.view(rows))
            mean = counted / (size * width * self.unit)
            self.activity.append(self._reported(mean, number / (size * width)))
        return expand(spikes, self.levels, self.unit) if self.expanded else spikes

    def fire(self, u: Tensor) -> Tensor:
        if self.gradient == "sigmoid":
            return round_clip_soft(u, self.levels, self.unit, self.sharpness)
        return round_clip(u, self.levels, self.unit, self.margin, self.leak)

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        return self.decay * (u - spikes / self.unit)

    def extra_repr(self) -> str:
        shape = f"margin={self.margin}, leak={self.leak}"
        if self.gradient == "sigmoid":
            shape = f"sharpness={self.sharpness}"
        return f"levels={self.levels}, decay={self.decay}, gradient={self.gradient}, {shape}"
