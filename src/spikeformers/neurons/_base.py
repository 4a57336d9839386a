"""What a neuron is: ``step(current, carry) -> (spikes, carry)``, looped over simulation steps.

S simulation steps lead every shape, ``[S, ...]``. The carry is what the membrane hands to the
next step; it starts at zero with every call, so nothing leaks between batches, and it is not a
buffer, so it never enters ``state_dict``.

``unit`` is the value of one spike: ``spikes / unit`` are the integers that ``spike_type`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

SpikeType = Literal["binary", "ternary", "integer"]


class Neuron(nn.Module):
    """Base of all neurons; ``step`` in each subclass is its specification."""

    spike_type: SpikeType = "binary"
    levels: int = 1
    """Largest count a single step can emit."""
    activity: list[Tensor] | None = None
    """When a list, every forward appends its mean count per unit (differentiable)."""
    expanded: bool = False
    """Emit binary sub-steps ``[levels, S, ...]`` instead of counts (see ``expand``)."""

    @property
    def unit(self) -> float:
        """Value of one spike."""
        return 1.0

    def step(self, current: Tensor, carry: Tensor | None) -> tuple[Tensor, Tensor]:
        """Advance one simulation step; ``carry`` is None at the first."""
        raise TypeError(f"{type(self).__name__} does not define step()")

    def forward(self, current: Tensor) -> Tensor:
        """Map currents ``[S, ...]`` to spikes of the same shape."""
        carry: Tensor | None = None
        steps = []
        for now in current.unbind(0):
            spikes, carry = self.step(now, carry)
            steps.append(spikes)
        spikes_S = torch.stack(steps) if len(steps) > 1 else steps[0].unsqueeze(0)
        if self.activity is not None:
            self.activity.append(spikes_S.abs().mean() / self.unit)
        return expand(spikes_S, self.levels, self.unit) if self.expanded else spikes_S


def expand(spikes: Tensor, levels: int, unit: float = 1.0) -> Tensor:
    """Unroll counts ``[S, ...]`` into binary sub-steps ``[levels, S, ...]`` that sum to them."""
    count = torch.round(spikes / unit)
    thresholds = torch.arange(levels, device=spikes.device, dtype=spikes.dtype)
    return (count.unsqueeze(0) > thresholds.view(-1, *([1] * spikes.dim()))).to(spikes.dtype)


@contextmanager
def observe(model: nn.Module, fn: Callable[[str, Neuron, Tensor], None]) -> Iterator[None]:
    """Call ``fn(name, neuron, spikes)`` at every neuron's forward inside the ``with`` block."""

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def call(module: nn.Module, _: Any, spikes: Tensor) -> None:
            assert isinstance(module, Neuron)
            fn(name, module, spikes)

        return call

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, Neuron)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
