"""Firing density during training: the share of non-zero spikes, overall and by neuron layer.

Padding is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from spikeformers.neurons import Neuron, observe

logger = logging.getLogger(__name__)


class DensityMeter:
    """Counts spikes while ``measuring``; warns once of each layer that never fires."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._counts: dict[str, list[tuple[Tensor, int | Tensor]]] = {}

    @contextmanager
    def measuring(self, model: nn.Module) -> Iterator[None]:
        self._counts = {}
        with observe(model, self._count):
            yield

    def _count(self, name: str, neuron: Neuron, spikes: Tensor) -> None:
        self._counts.setdefault(name, []).append(neuron.total(spikes.detach() != 0))

    def by_layer(self) -> dict[str, float]:
        return {name: fired / size for name, (fired, size) in self._sums().items()}

    def _sums(self) -> dict[str, tuple[int, int]]:
        """Numbers of spikes and of neurons, by layer."""
        return {
            name: (sum(int(fired) for fired, _ in counts), sum(int(size) for _, size in counts))
            for name, counts in self._counts.items()
        }

    def report(self, step: int) -> dict[str, object]:
        """``density``, ``density_by_layer``, ``dead_layers``; empty for a model of real numbers."""
        if not self._counts:
            return {}
        sums = self._sums()
        layers = {name: fired / size for name, (fired, size) in sums.items()}
        dead = [name for name, density in layers.items() if density == 0]
        for name in dead:
            if name not in self._warned:
                self._warned.add(name)
                logger.warning("%s does not fire at all (step %d)", name, step)
        overall = sum(fired for fired, _ in sums.values()) / sum(size for _, size in sums.values())
        return {"density": overall, "density_by_layer": layers, "dead_layers": dead}
