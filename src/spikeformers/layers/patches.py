"""Spiking patch splitting, SPS: from an image to input currents, one per patch.

    stage i < last    conv 3x3, BN, LIF, (max pool)      width D / 2^(stages - 1 - i)
    last stage        conv 3x3, BN, (max pool)           currents: the block has the neuron
    position "conv"   U <- U + BN(conv 3x3(SN(U)))

Spikformer, https://arxiv.org/abs/2209.15425; the last ``pools`` stages pool (3x3, stride 2). The
first convolution reads pixels; of an image they are the same at every step, so that it is computed
once, and of a recording of events there is a frame per step; all others
read spikes. Differs: the output is currents instead of spikes, since the shortcut that follows adds
membranes (Spikformer's position branch also ends in a neuron).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from spikeformers.layers.norm import BatchNorm


class SpikingPatches(nn.Module):
    """Images ``[B, C, H, W]``, or frames ``[B, S, C, H, W]``, to currents ``[S, B, T, D]``.

    T patches row by row.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        stages: int,
        pools: int,
        steps: int,
        make_neuron: Callable[[], nn.Module],
        *,
        conv_position: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.steps, self.names = steps, [f"stage{i + 1}" for i in range(stages)]
        read = channels
        for i, name in enumerate(self.names):
            out = width // 2 ** (stages - 1 - i)
            last = i + 1 == stages
            stage = PatchStage(read, out, None if last else make_neuron(), stages - i <= pools, eps)
            self.add_module(name, stage)  # not a bare number, which would mark a block
            read = out
        self.position_neuron = make_neuron() if conv_position else None
        self.position = PatchStage(width, width, None, False, eps) if conv_position else None

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """Modules that data pass through one after another, by name."""
        return tuple(self.names), ("position_neuron", "position")

    def forward(self, pixels: Tensor) -> Tensor:
        u = pixels.unsqueeze(0) if pixels.dim() == 4 else pixels.transpose(0, 1)
        for name in self.names:
            u = getattr(self, name)(u, self.steps)
        if len(u) == 1 and self.steps > 1:  # a single stage contains no neuron
            u = u.expand(self.steps, *u.shape[1:])
        if self.position is not None and self.position_neuron is not None:
            u = u + self.position(self.position_neuron(u), self.steps)
        return u.flatten(-2).transpose(-1, -2)


class PatchStage(nn.Module):
    """Convolution, batch norm, and optionally a neuron and pooling."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (("conv", "norm", "neuron", "pool"),)
    """Modules that data pass through one after another, by name."""

    def __init__(
        self, read: int, out: int, neuron: nn.Module | None, pool: bool, eps: float
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(read, out, 3, padding=1, bias=False)
        self.norm = BatchNorm(out, eps=eps)
        self.neuron = neuron
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """``[S or 1, B, C, H, W]`` in; a single step is repeated in front of the neuron."""
        lead = x.shape[:2]
        y = self.conv(x.flatten(0, 1))
        y = self.norm(y.movedim(1, -1)).movedim(-1, 1).unflatten(0, lead)
        if self.neuron is not None:
            y = self.neuron(y.expand(steps, *y.shape[1:]))
        if self.pool is None:
            return y
        return self.pool(y.flatten(0, 1)).unflatten(0, y.shape[:2])
