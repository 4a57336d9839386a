"""The place in the model where something is counted, and the rows (tokens) that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from spikeformers.layers import merge_heads

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
