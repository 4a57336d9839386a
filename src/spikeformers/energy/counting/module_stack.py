"""The modules that are running, innermost last, and how the tracer treats each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spikeformers.energy.counting.rules import norm_kind
from spikeformers.neurons import Neuron

ATTENTION = "attention scores and values"
CLOSED = (
    *("linear", "conv", "embedding", "norm", "neuron", "core", "sdpa", "expanded"),
    *("decodes", "part of a product", "part of a neuron"),
)
"""Kinds whose elementwise operations are counted with the module, or belong to a product."""
ACCOUNTS = ("linear", "conv", "core", "sdpa", "expanded")
"""Kinds that account for the matrix products inside them."""


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
    """Of an attention core: name and module of the neuron that fires its weights, and spikes."""
    decoded: Tensor | None = None
    """Decoded values of the spikes that the module's own neurons fired last."""
    listed: Counter[str] = field(default_factory=Counter)
    """How many operations of each name an audit has recorded here."""

    @property
    def running(self) -> Any:
        """The module, for a counter that its ``kind`` was chosen for."""
        return self.module


def layer_of(name: str) -> int | None:
    """The number of the module's block: the first number in its path; None outside the blocks."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(number[1]) if number else None


def kind_of(module: nn.Module) -> str:
    """linear, conv, embedding, neuron, core, expanded, norm, activation or open.

    A module may state its kind itself (``counted_as``), as a "neuron" and a "core" (of attention)
    do. One that "decodes" turns the spikes that it reads into the values that they stand for, the
    additions of one that is "part of a product" are counted with that product, and what is "part of
    a neuron" is counted with the neuron.
    """
    own: str | None = getattr(module, "counted_as", None)
    if own is not None:
        return own
    if isinstance(module, (nn.Linear, Conv1D)):
        return "linear"
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        return "conv"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if getattr(module, "sums_sub_steps", False):
        return "expanded"
    if norm_kind(module) is not None:
        return "norm"
    home = type(module).__module__
    if home in ("transformers.activations", "torch.nn.modules.activation"):
        return "activation"
    return "open"


def key_heads_of(model: nn.Module) -> int | None:
    """Heads of keys and values by the config (or that of a converted model's source), or None."""
    config = getattr(model, "config", None)
    source = getattr(config, "source", None)
    if isinstance(source, dict):
        return source.get("num_key_value_heads")
    return getattr(config, "num_key_value_heads", None)


def attention_written_out(frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """q, k, v and the allowed pairs, from two products around one softmax of masked scores."""
    if len(frame.products) != 2 or len(frame.softmaxes) != 1:
        return None
    (_, q, k), (_, _, v) = frame.products
    scores = frame.softmaxes[0]
    lead = scores.shape[:-2]
    width, keys = q.shape[-1], scores.shape[-1]
    expected = (
        scores.numel() // keys * width,
        lead.numel() * keys * width,
        lead.numel() * keys * v.shape[-1],
    )
    if (q.numel(), k.numel(), v.numel()) != expected:
        return None
    return (
        q.reshape(*lead, -1, width),
        k.transpose(-1, -2).reshape(*lead, -1, width),
        v.reshape(*lead, -1, v.shape[-1]),
        scores > torch.finfo(scores.dtype).min / 2,
    )


def in_attention(stack: list[Frame]) -> bool:
    """Whether an attention module is running: one with a core, or with Attention in its name.

    For modules of dense models in Transformers the name is the only evidence.
    """
    return any(
        "Attention" in type(frame.module).__name__
        or any(getattr(part, "counted_as", None) == "core" for part in frame.module.children())
        for frame in stack
    )


def linear_component(stack: list[Frame], name: str) -> str:
    """The component that a linear map or convolution called ``name`` belongs to."""
    if layer_of(name) is None:
        return "embedding" if "embed" in name else "head"
    return "attention projections" if in_attention(stack) else "mlp"


def elementwise_component(
    stack: list[Frame], frame: Frame, name: str, *, joins_stream: bool
) -> str:
    """The component of the elementwise operation ``name`` that runs in ``frame``."""
    if frame.kind == "activation":
        return "activations"
    if layer_of(frame.name) is None:
        return "embedding" if name == "add" else "other"
    if joins_stream:
        return "residual"
    return ATTENTION if in_attention(stack) else "activations"


def product_in_words(op: str, left: Tensor, right: Tensor, name: str) -> str:
    """A product, its shapes and the module it ran in, for messages."""
    return f"aten.{op} {list(left.shape)} x {list(right.shape)} in {name or 'the model'}"


def complaint(model: str, unaccounted: list[str]) -> str:
    """The error message for products that belong to no counted module."""
    shown, further = "; ".join(unaccounted[:8]), len(unaccounted) - 8
    return (
        f"{len(unaccounted)} matrix products of {model} belong to no counted module, so the count "
        f"would be wrong: {shown}{f'; and {further} more' if further > 0 else ''}. Counted modules "
        "are Linear, Conv1D, Conv2d, scaled_dot_product_attention, spiking attention cores and "
        "softmax attention."
    )
