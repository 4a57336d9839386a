"""Sizes of the products of a trace: rows, weights that some token needs, pairs.

How many weights a machine reads depends on how many tokens it works on at a time: the weights of an
input that is zero in all of them are not read. ``touched`` counts the other inputs for tiles of 1,
2, 4 ... 64 consecutive tokens, over all their simulation steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeformers.attention import Attention
from spikeformers.energy.counting.trace import Attending, Weights

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
