"""Parts that `gap.py` tries and the library does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.neurons import Activity, DeadZone

OnStep = Callable[[int, Mapping[str, float]], None]


class ByChannel(DeadZone):
    """A dead zone with a threshold for each channel; its gain stays one number."""

    def per_channel(self, width: int) -> None:
        """Give each of ``width`` channels the threshold that the layer has."""
        self.threshold = nn.Parameter(self.threshold.detach().repeat(width))

    def fire(self, u: Tensor) -> Tensor:
        limit = self.threshold + (self.threshold.clamp_min(0) - self.threshold).detach()
        scaled = u if self.gain is None else u * self._size_of_gain(self.gain)
        size = (scaled.abs() if self.signed else scaled) - limit
        top = self.step_size * self.levels
        z = size.clamp(0, top)
        z = z + ((z.detach() / self.step_size).round() * self.step_size - z.detach())
        z = z * scaled.detach().sign() if self.signed else z
        return z if self.gain is None else z / self._size_of_gain(self.gain)

    def _activity(self, current: Tensor, spikes: Tensor) -> Activity:
        size = spikes.detach().abs()
        excess, fired = size.mean(), size.sign()
        if self.gain is not None:
            excess = excess * self._size_of_gain(self.gain.detach()).squeeze()
        by_channel = fired.mean(dim=tuple(range(fired.dim() - 1)))
        held = by_channel * (self.threshold - self.threshold.detach())
        return self._reported(excess - held.mean(), fired.mean())


def thresholds_by_channel(model: Any) -> None:
    """Every dead zone of ``model`` gets a threshold for each of its channels."""
    for name, module in model.named_modules():
        if isinstance(module, DeadZone):
            wide = "hidden" in name
            module.__class__ = ByChannel
            module.per_channel(model.config.intermediate_size if wide else model.config.hidden_size)


class Gate(torch.autograd.Function):
    """1 where a current is above 0; backward as the sigmoid of four times it."""

    @staticmethod
    def forward(ctx: Any, current: Tensor) -> Tensor:
        ctx.save_for_backward(current)
        return (current > 0).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (current,) = ctx.saved_tensors
        open_share = torch.sigmoid(4 * current)
        return grads[0] * 4 * open_share * (1 - open_share)


def gate_hidden(model: Any) -> None:
    """Let a binary spike of a map of its own pass or stop each hidden current of the MLP."""
    first = model.model.layers[0].mlp
    kind, mlp = type(first.up), type(first)

    class Gated(mlp):  # type: ignore[misc, valid-type]
        """An MLP whose hidden neurons see what the gate lets through."""

        def maps(self) -> list[tuple[nn.Module, Any]]:
            return [*super().maps(), (self.gate, self.fire_in.neuron)]

        def forward(self, x: Tensor, cache: Any = None, present: Any = None) -> Tensor:
            spikes = self.fire_in(x)
            current = self.up(spikes) * Gate.apply(self.gate(spikes))
            y: Tensor = self.out_norm(self.down(self.fire_hidden(current)))
            return y

    for layer in model.model.layers:
        block = layer.mlp
        block.__class__ = Gated
        block.gate = kind(block.up.in_features, block.up.out_features, block.up.bias is not None)
        model._init_weights(block.gate)


@torch.no_grad()
def neighbours_first(model: Any) -> None:
    """Heads prefer, in turns, the key behind the query and the one before it, not the query's own.

    That one is a mask token's wherever a masked model is asked.
    """
    for relative in model.base_model.relative:
        heads, entries = relative.bias.shape
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads) * relative.slope
        distance = torch.arange(entries) - (relative.max_distance - 1)
        beside = 1 - 2 * (torch.arange(heads) % 2)
        relative.bias.copy_(-slopes[:, None] * (distance - beside[:, None]).abs())


def falling_budget(model: Any, steps: int) -> OnStep:
    """The budget falls from all to the config's own over the first half of the run, in a line.

    The first step after an interruption sees all of it again.
    """
    start, end, until = 0.999, model.config.budget, steps // 2  # a config's is less than 1
    model.config.budget = start

    def after(step: int, metrics: Mapping[str, float]) -> None:
        model.config.budget = start + (end - start) * min(1.0, step / until)

    return after
