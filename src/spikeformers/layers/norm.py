"""Norms, by name. ``gain`` is the initial scale: 1/threshold if a neuron follows."""

from __future__ import annotations

from torch import Tensor, nn

from spikeformers.errors import ConfigError, nearest

NORMS = ("layer", "rms", "none")


def make_norm(name: str, width: int, eps: float, gain: float = 1.0) -> nn.Module:
    """LayerNorm (Ba et al. 2016), RMSNorm (Zhang & Sennrich 2019), or the identity."""
    norm: nn.Module
    if name == "layer":
        norm = nn.LayerNorm(width, eps=eps)
    elif name == "rms":
        norm = nn.RMSNorm(width, eps=eps)
    elif name == "none":
        return nn.Identity()
    else:
        raise ConfigError(
            f"unknown norm {name!r}; known: {', '.join(NORMS)}.{nearest(name, NORMS)}"
        )
    norm.initial_gain = gain  # type: ignore[assignment]
    nn.init.constant_(norm.weight, gain)  # type: ignore[arg-type]
    return norm


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last dimension of ``[..., D]`` (Ioffe & Szegedy 2015).

    With the statistics of training it is a scale and a shift, which can be folded into the
    preceding weights. Each process computes statistics of its own share of the batch; those of the
    first process are kept.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, input.shape[-1])).view(input.shape)
