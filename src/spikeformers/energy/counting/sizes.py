"""Sizes of matrix products: those of a run, and those that follow from a transformer's shape.

Of a run: rows, pairs, and the weights that some token needs. How many weights a machine reads
depends on how many tokens it works on at a time: the weights of an input that is zero in all of
them are not read. ``touched`` counts the other inputs for tiles of 1, 2, 4 ... 64 consecutive
tokens, over all their simulation steps.

From a shape (``TransformerShape``), which the count of a run must match: multiply-accumulates of
one sequence of T tokens, without biases, norms or softmax:

    projections   T * layers * (2 D^2 + 2 D K)   Q and output, K and V (K = D unless grouped)
    attention     pairs * layers * 2 D           Q K^T and A V
    mlp           T * layers * (2, gated 3) * D * hidden
    head          T * D * vocabulary

``pairs`` is T (T + 1) / 2 for causal attention (as the tracer counts), T^2 if all entries of the
square are counted (as FLOP counters do), 0 if attention is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from spikeformers.attention import Attention
from spikeformers.energy.counting.trace import Attending, Weights
from spikeformers.errors import ConfigError

LARGEST_TILE = 64


def weights_of(
    x: Tensor, shape: tuple[int, int], keep: Tensor | None, stored: int, outputs: int, rows: int
) -> Weights:
    """Sizes of a linear map of ``x`` ``[..., B, T, D]`` or ``[..., B * T, D]``.

    ``shape`` is (B, T), or (images, 1); ``keep`` ``[B, T]`` masks padding, and with it only tiles
    of one token are counted.
    """
    inputs = x.shape[-1]
    active = _by_token(x != 0, shape)
    steps = max(1, x.numel() // inputs // max(1, active.shape[0] * active.shape[1]))
    if shape[1] == 1 and active.shape[1] == 1 and x.dim() >= 3:
        steps = 1  # rows of an image are patches and steps alike
    weights = Weights(stored, inputs, steps, rows, outputs)
    if keep is not None:
        if active.shape[:2] == keep.shape:
            active = active[keep]
        weights.tiles[1] = active.numel() // inputs
        weights.touched[1] = int(active.sum())
        return weights
    return _tiled(weights, active)


def weights_of_convolution(x: Tensor, images: int, module: nn.Conv2d, outputs: int) -> Weights:
    """Sizes of a convolution of ``x`` ``[S * B, C, H, W]``; all weights of a channel are read
    together.
    """
    steps = x.shape[0] // images
    active = (x != 0).flatten(2).any(-1).unflatten(0, (steps, images)).any(0)
    rows = outputs // module.out_channels
    weights = Weights(module.weight.numel(), x.shape[1], 1, rows, outputs)
    return _tiled(weights, active.unsqueeze(1))


def attending_of(
    q: Tensor, k: Tensor, queries: int, pairs: int, batch: int, core: Attention | None = None
) -> Attending:
    """Sizes of attention with q ``[..., H, T, K]`` and k ``[..., H', J, K]``, done by ``core``."""
    heads = q.shape[-3] if q.dim() >= 3 else 1
    steps = max(1, q.numel() // (batch * heads * q.shape[-2] * q.shape[-1]))
    key_heads = k.shape[-3] if k.dim() >= 3 else 1
    size = Attending(steps, queries, pairs, q.shape[-1], heads, key_heads)
    if core is not None:
        size.reads_per_query, size.weights_are_fired = core.reads_per_query, core.weights_are_fired
    return size


def _by_token(active: Tensor, shape: tuple[int, int]) -> Tensor:
    """Whether an input of a token (or an image) is active in any step, ``[B, T, D]``."""
    width = active.shape[-1]
    batch, tokens = shape
    if tuple(active.shape[-3:-1]) == shape:
        return active.reshape(-1, batch, tokens, width).any(0)
    if tokens == 1:  # images: all patches of one, and all steps
        if active.dim() >= 3 and active.shape[-3] == batch:
            return active.reshape(-1, batch, active.shape[-2], width).any(2).any(0).unsqueeze(1)
        if active.dim() >= 2 and active.shape[-2] == batch:
            return active.reshape(-1, batch, 1, width).any(0)
    if active.dim() >= 2 and active.shape[-2] == batch * tokens:
        return active.reshape(-1, batch, tokens, width).any(0)
    return active.reshape(1, -1, width)


def _tiled(weights: Weights, active: Tensor) -> Weights:
    """Count tiles of 1, 2, 4 ... consecutive tokens of ``active`` ``[B, T, D]``."""
    tile = 1
    while True:
        weights.touched[tile] = int(torch.count_nonzero(active))
        weights.tiles[tile] = active.shape[0] * active.shape[1]
        if tile * 2 > LARGEST_TILE or active.shape[1] < 2:
            return weights
        tile *= 2
        number = active.shape[1] // 2
        pairs = active[:, : 2 * number].unflatten(1, (number, 2))
        active = pairs.any(2)


Pairs = Literal["causal", "square", "none"]


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sequence by part of the model."""

    projections: int
    attention: int
    mlp: int
    head: int

    @property
    def blocks(self) -> int:
        """Sum of all parts except the head."""
        return self.projections + self.attention + self.mlp

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.blocks + self.head


@dataclass(frozen=True)
class TransformerShape:
    """The sizes that the matrix products of a transformer depend on."""

    width: int
    layers: int
    hidden: int
    vocabulary: int
    key_width: int | None = None
    """Width of all keys together if keys have fewer heads than queries; None: ``width``."""
    gated: bool = False
    """The MLP has three matrices."""

    def macs(self, tokens: int, pairs: Pairs = "causal") -> Macs:
        """Multiply-accumulates of one sequence of ``tokens``; ConfigError for other ``pairs``."""
        if pairs not in get_args(Pairs):
            raise ConfigError(f"pairs are {', '.join(get_args(Pairs))}, not {pairs!r}.")
        keys = self.width if self.key_width is None else self.key_width
        pairs_per_head = {"causal": tokens * (tokens + 1) // 2, "square": tokens**2, "none": 0}[
            pairs
        ]
        return Macs(
            projections=tokens * self.layers * 2 * self.width * (self.width + keys),
            attention=pairs_per_head * self.layers * 2 * self.width,
            mlp=tokens * self.layers * (3 if self.gated else 2) * self.width * self.hidden,
            head=tokens * self.width * self.vocabulary,
        )
