"""Norms by name, by hand."""

from __future__ import annotations

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.layers import NORMS, make_norm

X = torch.tensor([[1.0, 3.0, 1.0, 3.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer", [-2.0, 2.0, -2.0, 2.0]),  # mean 2, deviation 1, gain 2
        ("rms", [2 / 5**0.5, 6 / 5**0.5, 2 / 5**0.5, 6 / 5**0.5]),  # root mean square sqrt(5)
        ("none", [1.0, 3.0, 1.0, 3.0]),  # no scale at all
    ],
)
def test_by_hand_with_a_gain_of_two(name: str, expected: list[float]) -> None:
    norm = make_norm(name, 4, eps=1e-12, gain=2.0)
    torch.testing.assert_close(norm(X), torch.tensor([expected]))


def test_gain_defaults_to_one() -> None:
    torch.testing.assert_close(make_norm("layer", 4, 1e-12)(X), torch.tensor([[-1.0, 1, -1, 1]]))


def test_unknown_name() -> None:
    assert NORMS == ("layer", "rms", "none")
    with pytest.raises(ConfigError, match=r"unknown norm 'batch'; known: layer, rms, none"):
        make_norm("batch", 4, 1e-5)
