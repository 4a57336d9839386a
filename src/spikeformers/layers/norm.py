"""Norms, by name. ``gain`` is the initial scale: 1/threshold if a neuron follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError, nearest
from spikeformers.neurons import NormTerms

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


def terms_of(norm: nn.Module, x: Tensor) -> NormTerms | None:
    """The norm over the last dimension as numbers, for a kernel that computes it together with what
    follows; None if it is another one, or if hooks want to see its output.
    """
    if norm._forward_hooks or norm._forward_pre_hooks:
        return None
    if type(norm) is nn.Identity:
        return NormTerms("none")
    if type(norm) not in (nn.LayerNorm, nn.RMSNorm) or norm.normalized_shape != x.shape[-1:]:
        return None
    terms: Any = norm
    if terms.weight is None:
        return None
    kind = "layer" if type(norm) is nn.LayerNorm else "rms"
    eps = torch.finfo(x.dtype).eps if terms.eps is None else terms.eps
    return NormTerms(kind, terms.weight, getattr(terms, "bias", None), eps)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last dimension of ``[..., D]`` (Ioffe & Szegedy 2015).

    With the statistics of training it is a scale and a shift, which can be folded into the
    preceding weights. Each process computes statistics of its own share of the batch; those of the
    first process are kept.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, input.shape[-1])).view(input.shape)
