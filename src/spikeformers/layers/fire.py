"""Norm, then neuron: ``SN(Norm(x))``, in front of every map of spikes."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from spikeformers.layers.norm import terms_of


class Fire(nn.Module):
    """Spikes ``[S, ..., D]`` of currents ``[S, ..., D]``, which ``norm`` (if any) scales first."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (("norm", "neuron"),)
    """Modules that data pass through one after another, by name."""

    def __init__(self, neuron: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.neuron: Any = neuron
        """A `Neuron`, or the rectifier that takes its place behind a projection."""

    def forward(self, x: Tensor) -> Tensor:
        fuses = getattr(self.neuron, "fuses_norm", None)
        terms = terms_of(self.norm, x) if fuses is not None and fuses(x) else None
        spikes: Tensor = self.neuron(self.norm(x)) if terms is None else self.neuron(x, terms)
        return spikes
