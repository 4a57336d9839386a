"""The values of an operand: which of its rows count, and whether they are spikes.

A row is a (sequence, token) pair; padding does not count. Spikes are stated by the neuron that made
them, or recognised by their values. Stated: a neuron's output keeps its ``(kind, unit)`` through
operations that only move values (view, transpose, cat, gather ...). Otherwise the values x decide;
u is the smallest non-zero ``|x|`` (u = 1 if all x are integers):

    x in {0, u}          binary           x in u * {0, 1 .. 4096} (or negative)   integer
    x in {-u, 0, u}      ternary          anything else, or all zeros             real
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from spikeformers.energy.counting.trace import Kind, Operand
from spikeformers.layers import merge_heads
from spikeformers.neurons.phase import digits

LARGEST_COUNT = 4096
_PROBE = 64


class Spikes(NamedTuple):
    """The values of a tensor are multiples of ``unit``.

    ``weighted``: the multiples are encoded in binary, with one spike per digit that is 1.
    ``planes``: bits per value, as the neuron states them; 0 if the largest count decides.
    ``per_token``: the value of a spike differs per token, and the neuron hands it on separately.
    """

    kind: Kind
    unit: float
    weighted: bool = False
    planes: int = 0
    per_token: bool = False


def spikes_of(x: Tensor, stated: Spikes | None = None) -> Spikes | None:
    """Kind and unit of the spikes in ``x``; None if ``x`` holds real numbers."""
    x = x.detach()
    if x.dtype == torch.bool:
        return Spikes("binary", 1.0)
    if x.is_complex():
        return None
    if stated is not None and _is(x, stated):
        return stated
    size = x.abs()
    largest = float(size.max()) if size.numel() else 0.0
    if not 0 < largest < float("inf"):
        return None
    probe = x.flatten()[:_PROBE]  # enough to recognise most dense tensors
    if _multiples(probe, 1.0, tolerance=0.0) and _multiples(x, 1.0, tolerance=0.0):
        unit = 1.0
    else:
        unit = float(size.masked_fill(size == 0, float("inf")).min())
        if not _multiples(probe, unit, tolerance=1e-3) or not _multiples(x, unit, tolerance=1e-3):
            return None
    if largest / unit > LARGEST_COUNT:
        return None
    if largest / unit > 1.5:
        return Spikes("integer", unit)
    return Spikes("ternary" if bool((x < 0).any()) else "binary", unit)


def counts(x: Tensor, spikes: Spikes | None) -> Tensor:
    """Number of spikes in each value of ``x``, float32; 1 everywhere for a real operand."""
    if spikes is None:
        return torch.ones_like(x, dtype=torch.float32)
    count = (x.float().abs() / spikes.unit).round_()
    return digits(count) if spikes.weighted else count


def in_digits(spikes: Spikes | None) -> Spikes | None:
    """``spikes``, with integer counts encoded in binary."""
    return spikes._replace(weighted=True) if has_two_prices(spikes) else spikes


def has_two_prices(spikes: Spikes | None) -> TypeGuard[Spikes]:
    """Whether counts cost one amount as a rate and another as binary digits."""
    return spikes is not None and spikes.kind == "integer" and not spikes.weighted


def operand(x: Tensor, spikes: Spikes | None) -> Operand:
    """Sizes and sums of ``x``."""
    nonzero = int(torch.count_nonzero(x))
    if spikes is None:
        return Operand("real", x.numel(), nonzero, 0)
    count = counts(x, spikes)
    total = ones = int(count.sum(dtype=torch.float64))
    if has_two_prices(spikes):
        ones = int(digits(count).sum(dtype=torch.float64))
    return Operand(spikes.kind, x.numel(), nonzero, total, planes_of(x, spikes), ones)


def planes_of(x: Tensor, spikes: Spikes) -> int:
    """Bits per value of ``x``: those of the largest count, and one for a sign."""
    if x.numel() == 0 or x.dtype == torch.bool:
        return 1
    if spikes.planes:
        return spikes.planes
    least, most = (float(value) for value in x.detach().float().aminmax())
    largest = round(max(-least, most) / spikes.unit)
    return max(1, largest.bit_length()) + (1 if least < 0 or spikes.kind == "ternary" else 0)


def _is(x: Tensor, stated: Spikes) -> bool:
    """Whether the values of ``x`` agree with the statement of the neuron that made it."""
    if not _multiples(x, stated.unit, tolerance=2e-2):
        return False
    if stated.kind == "integer" or x.numel() == 0:
        return True
    least, most = (float(value) for value in x.aminmax())
    return (
        most <= 1.5 * stated.unit
        and least >= (-1.5 if stated.kind == "ternary" else 0) * stated.unit
    )


def _multiples(x: Tensor, unit: float, tolerance: float) -> bool:
    if unit <= 0:
        return False
    ratio = x.float() / unit
    return x.numel() == 0 or float((ratio - ratio.round()).abs().max()) <= tolerance


Batch = Tensor | Mapping[str, Tensor]
"""Ids ``[B, T]``, or the inputs by name: input_ids and attention_mask, or pixel_values."""


class Place(NamedTuple):
    """A place in the model: module name, component and block number."""

    name: str
    component: str
    layer: int | None


class Rows:
    """The (sequence, token) rows that count: those that are not padding.

    With ``images`` all rows count, and an image takes the place of a token.
    """

    def __init__(
        self, batch: int, tokens: int, mask: Tensor | None, *, images: bool = False
    ) -> None:
        self.shape, self.images = (batch, tokens), images
        self.key_heads: int | None = None
        """Number of heads of keys and values if query heads share them, from the model's config."""
        self.keep = None if mask is None or bool(mask.all()) else mask.bool()
        self.tokens = batch * tokens if self.keep is None else int(self.keep.sum())

    @property
    def share(self) -> float:
        """Real tokens per token of the batch."""
        return self.tokens / (self.shape[0] * self.shape[1])

    def select(self, x: Tensor) -> Tensor:
        """Rows of ``[..., B, T, D]`` or ``[..., B * T, D]`` that count; other shapes unchanged."""
        if self.keep is None:
            return x
        if tuple(x.shape[-3:-1]) == self.shape:
            return x[..., self.keep, :]
        if x.dim() >= 2 and x.shape[-2] == self.keep.numel():
            return x[..., self.keep.flatten(), :]
        return x

    def select_heads(self, x: Tensor) -> Tensor:
        """Rows of ``[..., B, H, T, K]`` that count."""
        if x.dim() < 4:
            return x
        return self.select(merge_heads(x))

    def own_heads(self, x: Tensor) -> Tensor:
        """Keys or values ``[..., H, J, K]`` without the copies that query heads share."""
        heads = self.key_heads
        if heads is None or x.dim() < 3 or x.shape[-3] <= heads or x.shape[-3] % heads:
            return x
        return x[..., :: x.shape[-3] // heads, :, :]

    def join_stream(self, args: tuple[Any, ...], width: int) -> bool:
        """Whether an addition of ``args`` joins the residual stream of that width."""
        if not all(isinstance(x, Tensor) for x in args[:2]):
            return False
        left, right = (tuple(x.shape) for x in args[:2])
        if self.images:
            return left == right and len(left) >= 3
        stream = (*self.shape, width)
        return left[-3:] == stream and right[-3:] == stream

    def queries(self, queries: int) -> Tensor | bool:
        """Mask of the queries that count, ``[B, 1, T, 1]``; True if all of them do."""
        return True if self.keep is None else self.keep[:, None, -queries:, None]


def inputs_of(batch: Batch) -> tuple[dict[str, Any], Rows]:
    """The arguments of a model's call, without labels, and the rows that count."""
    inputs: dict[str, Any] = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
    inputs.pop("labels", None)
    if "pixel_values" in inputs:
        return inputs, Rows(inputs["pixel_values"].shape[0], 1, None, images=True)
    batch_size, tokens = inputs["input_ids"].shape[:2]
    return inputs, Rows(batch_size, tokens, inputs.get("attention_mask"))
