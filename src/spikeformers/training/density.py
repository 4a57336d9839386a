"""Firing density during training: the share of non-zero spikes, overall and by neuron layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spikeformers.neurons import Neuron, observe

logger = logging.getLogger(__name__)


class DensityMeter:
    """Counts spikes while ``measuring``; names a layer that never fires, once."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._counts: dict[str, tuple[list[Tensor], int]] = {}

    @contextmanager
    def measuring(self, model: nn.Module) -> Iterator[None]:
        self._counts = {}
        with observe(model, self._count):
            yield

    def _count(self, name: str, neuron: Neuron, spikes: Tensor) -> None:
        counts, size = self._counts.get(name, ([], 0))
        counts.append(torch.count_nonzero(spikes.detach()))
        self._counts[name] = (counts, size + spikes.numel())

    def by_layer(self) -> dict[str, float]:
        return {
            name: sum(int(count) for count in counts) / size
            for name, (counts, size) in self._counts.items()
        }

    def report(self, step: int) -> dict[str, object]:
        """``density``, ``density_by_layer``, ``dead_layers``; empty for a model of real numbers."""
        if not self._counts:
            return {}
        layers = self.by_layer()
        sizes = {name: size for name, (_, size) in self._counts.items()}
        dead = [name for name, density in layers.items() if density == 0]
        for name in dead:
            if name not in self._warned:
                self._warned.add(name)
                logger.warning("%s does not fire at all (step %d)", name, step)
        overall = sum(layers[name] * size for name, size in sizes.items()) / sum(sizes.values())
        return {"density": overall, "density_by_layer": layers, "dead_layers": dead}
