"""Which module is running, and how the tracer treats it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spikeformers.attention import Attention
from spikeformers.energy.count import Rows, norm_kind
from spikeformers.models._block import SpikingAttention
from spikeformers.neurons import Neuron

CLOSED = (
    *("linear", "conv", "embedding", "norm", "neuron", "core", "sdpa", "expanded"),
    *("says", "part of a product"),
)
"""Kinds whose elementwise operations are counted with the whole, or belong to a product."""
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
    """Of an attention core: the neuron that fired its weights, and what it fired."""
    listed: Counter[str] = field(default_factory=Counter)
    """How many operations of each name an audit has seen here."""


def layer_of(name: str) -> int | None:
    """The block a module is in: the first number in its path; None outside the blocks."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def kind_of(module: nn.Module) -> str:
    """linear, conv, embedding, neuron, core, expanded, norm, activation or open.

    A module may say so itself (``counted_as``): one that "says" hands on what the spikes that it
    read mean, and one that is "part of a product" does additions that belong to it.
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


def rows_of(model: nn.Module, inputs: Mapping[str, Any]) -> Rows:
    """Which rows of a batch count."""
    if "pixel_values" in inputs:
        rows = Rows(inputs["pixel_values"].shape[0], 1, None, images=True)
    else:
        batch_size, tokens = inputs["input_ids"].shape[:2]
        rows = Rows(batch_size, tokens, inputs.get("attention_mask"))
    rows.key_heads = key_heads_of(model)
    return rows


def key_heads_of(model: nn.Module) -> int | None:
    """Heads of keys and values, where the config (or that of a converted source) names them."""
    config = getattr(model, "config", None)
    source = getattr(config, "source", None)
    if isinstance(source, dict):
        return source.get("num_key_value_heads")
    return getattr(config, "num_key_value_heads", None)


def attention_written_out(frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """q, k, v and what is allowed, of two products around one softmax of the masked scores."""
    if len(frame.products) != 2 or len(frame.softmaxes) != 1:
        return None
    (_, q, k), (_, _, v) = frame.products
    scores = frame.softmaxes[0]
    lead = scores.shape[:-2]
    width, keys = q.shape[-1], scores.shape[-1]
    whole = scores.numel() // keys * width, lead.numel() * keys * width
    values = lead.numel() * keys * v.shape[-1]
    if (q.numel(), k.numel(), v.numel()) != (*whole, values):
        return None
    return (
        q.reshape(*lead, -1, width),
        k.transpose(-1, -2).reshape(*lead, -1, width),
        v.reshape(*lead, -1, v.shape[-1]),
        scores > torch.finfo(scores.dtype).min / 2,
    )


def said(op: str, left: Tensor, right: Tensor, name: str) -> str:
    """A product in words."""
    return f"aten.{op} {list(left.shape)} x {list(right.shape)} in {name or 'the model'}"


def complaint(model: str, unaccounted: list[str]) -> str:
    """What to say of products that belong to no counted module."""
    shown, more = "; ".join(unaccounted[:8]), len(unaccounted) - 8
    return (
        f"{len(unaccounted)} matrix products of {model} belong to no counted module, so the count "
        f"would be wrong: {shown}{f'; and {more} more' if more > 0 else ''}. Counted are Linear, "
        "Conv1D, Conv2d, scaled_dot_product_attention, spiking attention cores, softmax attention."
    )
