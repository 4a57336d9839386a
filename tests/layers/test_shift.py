"""The token shift: which token's spikes stand where, worked by hand."""

from __future__ import annotations

import torch

from spikeformers.layers import TokenShift

# Tokens 1, 2, 3 of width 5, of which the first two features move.
SPIKES = torch.tensor([[10 * t + f for f in range(5)] for t in (1, 2, 3)]).float().view(1, 1, 3, 5)


def rows(x: torch.Tensor) -> list[list[float]]:
    values: list[list[float]] = x[0, 0].tolist()
    return values


def test_half_of_the_features_come_from_the_token_before() -> None:
    assert rows(TokenShift(5)(SPIKES)) == [
        [0, 0, 12, 13, 14],
        [10, 11, 22, 23, 24],
        [20, 21, 32, 33, 34],
    ]


def test_nothing_comes_from_padding() -> None:
    """The first token is padding, so the second has none before it."""
    present = torch.tensor([[False, False, True]])
    assert rows(TokenShift(5)(SPIKES, present)) == [
        [0, 0, 12, 13, 14],
        [0, 0, 22, 23, 24],
        [20, 21, 32, 33, 34],
    ]


def test_it_continues_from_the_last_token() -> None:
    shift = TokenShift(5)
    before = torch.tensor([7.0, 8.0]).view(1, 1, 1, 2)
    assert rows(shift(SPIKES[..., :1, :], None, before)) == [[7, 8, 12, 13, 14]]
    assert rows(shift(SPIKES[..., :1, :], torch.tensor([[True]]), before)) == [[7, 8, 12, 13, 14]]
    assert rows(shift(SPIKES[..., :1, :], torch.tensor([[False]]), before)) == [[0, 0, 12, 13, 14]]
    assert shift.last(SPIKES).flatten().tolist() == [30, 31]


def test_gradients_go_to_the_token_that_is_read() -> None:
    x = SPIKES.clone().requires_grad_()
    weights = torch.arange(15.0).view(1, 1, 3, 5)
    (TokenShift(5)(x) * weights).sum().backward()
    assert rows(x.grad) == [[5, 6, 2, 3, 4], [10, 11, 7, 8, 9], [0, 0, 12, 13, 14]]
