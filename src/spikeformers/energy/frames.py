"""Which module is running, and how the tracer treats it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spikeformers.attention import Attention
from spikeformers.energy.count import norm_kind
from spikeformers.models._block import SpikingAttention
from spikeformers.neurons import Neuron


@dataclass
class Frame:
    """A module (or SDPA call) that is running."""

    name: str
    module: nn.Module
    kind: str
    dispatched: int = 0
    products: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    softmaxes: list[Tensor] = field(default_factory=list)
    edges: tuple[str, Neuron, Tensor] | None = None
    """Of an attention core: the neuron that fired its weights, and what it fired."""
    listed: Counter[str] = field(default_factory=Counter)
    """How many operations of each name an audit has seen here."""


def layer_of(name: str) -> int | None:
    """The block a module is in: the first number in its path; None outside the blocks."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def kind_of(module: nn.Module) -> str:
    """linear, conv, embedding, neuron, core, expanded, norm, activation or open."""
    if isinstance(module, (nn.Linear, Conv1D)):
        return "linear"
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        return "conv"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, Neuron):
        return "neuron"
    if isinstance(module, Attention):
        return "core"
    if isinstance(module, SpikingAttention) and module.fire_in.neuron.expanded:
        return "expanded"
    if norm_kind(module) is not None:
        return "norm"
    home = type(module).__module__
    if home in ("transformers.activations", "torch.nn.modules.activation"):
        return "activation"
    return "open"
