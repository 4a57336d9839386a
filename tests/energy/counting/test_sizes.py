from __future__ import annotations

import torch
from torch import nn

from spikeformers.energy.counting.sizes import weights_of, weights_of_convolution

TOKENS = torch.zeros(2, 1, 5, 3)  # two steps, one sentence of five tokens, three inputs
TOKENS[0, 0, 0, 0] = TOKENS[1, 0, 0, 1] = TOKENS[0, 0, 2, 0] = TOKENS[1, 0, 4, 2] = 1.0


def test_tiles_of_tokens_and_their_steps() -> None:
    weights = weights_of(TOKENS, (1, 5), None, stored=12, outputs=40, rows=10)
    # Token 0 needs inputs 0 and 1, token 2 input 0, token 4 input 2. Whole tiles only.
    assert weights.touched == {1: 4, 2: 3, 4: 2}
    assert weights.tiles == {1: 5, 2: 2, 4: 1}
    assert (weights.steps, weights.inputs, weights.rows, weights.outputs) == (2, 3, 10, 40)


def test_padding_needs_nothing() -> None:
    keep = torch.tensor([[False, True, True, True, True]])
    weights = weights_of(TOKENS, (1, 5), keep, stored=12, outputs=32, rows=8)
    assert (weights.touched, weights.tiles) == ({1: 2}, {1: 4})


def test_a_flat_batch_is_taken_apart() -> None:
    flat = weights_of(TOKENS.flatten(1, 2), (1, 5), None, stored=12, outputs=40, rows=10)
    assert flat == weights_of(TOKENS, (1, 5), None, stored=12, outputs=40, rows=10)


def test_patches_of_an_image_share_its_weights() -> None:
    x = torch.zeros(2, 3, 5, 4)  # two steps, three images, five patches, four inputs
    x[0, 0, 1, 2] = x[1, 0, 4, 2] = x[1, 2, 0, 0] = 1.0
    weights = weights_of(x, (3, 1), None, stored=16, outputs=120, rows=30)
    assert (weights.touched, weights.tiles) == ({1: 2}, {1: 3})


def test_channels_of_a_convolution() -> None:
    x = torch.zeros(2 * 3, 4, 2, 2)  # two steps of three images, four channels
    x[0, 1, 0, 0] = x[3, 1, 1, 1] = x[5, 3, 0, 1] = 1.0
    weights = weights_of_convolution(x, 3, nn.Conv2d(4, 8, 1), outputs=6 * 8 * 4)
    assert (weights.touched, weights.tiles) == ({1: 2}, {1: 3})
    assert (weights.stored, weights.inputs, weights.rows) == (32, 4, 24)
