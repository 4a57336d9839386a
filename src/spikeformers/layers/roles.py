"""Neurons behind the projections of Q, K and V, by the kind of values that they emit.

    "binary"    LIF, hard reset                 U = I + decay H;  S = [U >= V_th]
    "ternary"   T-LIF, hard reset, amplitude 1  U = I + ternary_decay H;  |S| = [|U| >= ratio V_th]
    "relu"      max(I, 0): real, no neuron

A2OS2A, https://arxiv.org/abs/2503.00226: Q binary (tau = 2, V_th = 1), K relu, V ternary, with the
ternary neuron of the same first author (decay 1/4, ratio 1/2, straight-through of clamp(U, -1, 1)).
Differs: currents are not divided by tau, since the norm before the neuron absorbs this factor; no
gradient passes through the ternary reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from spikeformers.errors import ConfigError, nearest
from spikeformers.neurons import LIF, TLIF, Rectifier

ROLE_NEURONS = ("binary", "relu", "ternary")


@dataclass(frozen=True)
class RoleNeurons:
    """Creates these neurons, each a layer of its own."""

    decay: float = 0.5
    threshold: float = 1.0
    ternary_decay: float = 0.25
    threshold_ratio: float = 0.5
    surrogate: str = "arctan"
    sharpness: float = 2.0

    @classmethod
    def from_config(cls, config: Any) -> RoleNeurons:
        """As a model's config describes them."""
        return cls(
            config.decay,
            config.threshold,
            config.ternary_decay,
            config.threshold_ratio,
            config.surrogate,
            config.surrogate_sharpness,
        )

    def make(self, kind: str) -> nn.Module:
        """A new neuron of this kind; ConfigError for an unknown kind."""
        if kind == "binary":
            return LIF(self.decay, self.threshold, "hard", self.surrogate, self.sharpness)
        if kind == "ternary":
            ratio = self.threshold_ratio * self.threshold
            return TLIF(self.ternary_decay, ratio, "hard", "fixed", 1.0)
        if kind == "relu":
            return Rectifier()
        raise ConfigError(
            f"unknown neuron {kind!r} for a projection; known: {', '.join(ROLE_NEURONS)}."
            f"{nearest(kind, ROLE_NEURONS)}"
        )
