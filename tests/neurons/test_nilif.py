"""NI-LIF: a trajectory worked by hand, its gradient window, margin and leak."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.neurons import NILIF

CURRENT = [1.4, 2.1, 6.0, -3.0]
# D = 4, decay 0.5. Membrane U, count, S = count / 4, H = 0.5 (U - count):
#   1.4  1  0.25  0.2 | 2.3  2  0.5  0.15 | 6.15  4  1  1.075 | -1.925  0  0  -0.9625
SPIKES = [0.25, 0.5, 1.0, 0.0]
CARRIES = [0.2, 0.15, 1.075, -0.9625]


@pytest.mark.parametrize("gradient", ["rectangular", "sigmoid"])
def test_trajectory_by_hand(gradient: Any) -> None:
    neuron = NILIF(levels=4, decay=0.5, gradient=gradient)
    carry, spikes, carries = None, [], []
    for now in torch.tensor(CURRENT).unsqueeze(-1):
        s, carry = neuron.step(now, carry)
        spikes.append(s.item())
        carries.append(carry.item())
    assert spikes == SPIKES
    assert carries == pytest.approx(CARRIES)
    assert neuron(torch.tensor(CURRENT)).tolist() == SPIKES
    assert neuron.unit == 0.25


def test_one_step_is_rounding_and_decay_plays_no_part() -> None:
    current = torch.linspace(-2, 6, 97).unsqueeze(0)
    expected = current.round().clamp(0, 4) / 4
    for decay in (0.0, 0.5, 1.0):
        assert torch.equal(NILIF(4, decay)(current), expected)


@pytest.mark.parametrize("levels", [1, 2, 3, 8])
def test_gradient_window_is_zero_to_levels(levels: int) -> None:
    edge = float(levels)
    u = torch.tensor([[-0.01, 0.0, 0.3, edge / 2, edge, edge + 0.01]], requires_grad=True)
    NILIF(levels)(u).sum().backward()
    torch.testing.assert_close(u.grad, torch.tensor([[0.0, 1, 1, 1, 1, 0]]) / levels)


def test_margin_and_leak() -> None:
    points = [[-0.6, -0.5, 2.0, 4.5, 4.6]]
    u = torch.tensor(points, requires_grad=True)
    NILIF(4, margin=0.5)(u).sum().backward()
    torch.testing.assert_close(u.grad, torch.tensor([[0.0, 1, 1, 1, 0]]) / 4)
    u = torch.tensor(points, requires_grad=True)
    NILIF(4, leak=0.1)(u).sum().backward()
    torch.testing.assert_close(u.grad, torch.tensor([[0.1, 0.1, 1, 0.1, 0.1]]) / 4)


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_sigmoid_gradient(sharpness: float) -> None:
    u = torch.tensor([[-3.0, -0.2, 0.0, 2.5, 4.0, 7.0]], requires_grad=True)
    spikes = NILIF(4, gradient="sigmoid", sharpness=sharpness)(u)
    assert spikes.tolist() == [[0, 0, 0, 0.5, 1, 1]]
    spikes.sum().backward()
    torch.testing.assert_close(u.grad, torch.sigmoid(sharpness * u.detach()) / 4)


def test_sigmoid_gradient_through_the_carry() -> None:
    # dH/dU1 = decay (1 - sigmoid(2 U1))
    first = torch.tensor([1.2, 5.0, -0.3], requires_grad=True)
    second = torch.tensor([0.4, 1.6, 2.1])
    NILIF(4, 0.5, "sigmoid", 2.0)(torch.stack([first, second]))[1].sum().backward()
    u1 = first.detach()
    u2 = 0.5 * (u1 - u1.round().clamp(0, 4)) + second
    expected = torch.sigmoid(2 * u2) / 4 * 0.5 * (1 - torch.sigmoid(2 * u1))
    torch.testing.assert_close(first.grad, expected)


def test_gradient_through_the_carry() -> None:
    # dH/dU1 = decay (1 - [U1 in window]): a saturated or negative membrane passes the gradient.
    first = torch.tensor([1.2, 5.0, -1.0], requires_grad=True)
    second = torch.tensor([2.0, 2.0, 2.0], requires_grad=True)
    NILIF(4, decay=0.5)(torch.stack([first, second]))[1].sum().backward()
    torch.testing.assert_close(second.grad, torch.full((3,), 0.25))
    torch.testing.assert_close(first.grad, torch.tensor([0.0, 0.125, 0.125]))


def test_levels_below_one() -> None:
    with pytest.raises(ConfigError, match="levels must be at least 1, not 0"):
        NILIF(levels=0)


def test_unknown_gradient() -> None:
    with pytest.raises(ConfigError, match=r"are \('rectangular', 'sigmoid'\), not 'boxcar'"):
        NILIF(gradient="boxcar")  # type: ignore[arg-type]
