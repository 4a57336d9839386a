"""T-LIF: trajectories worked by hand, gradients for membrane and amplitude, amplitude modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.neurons import TLIF

CURRENT = [0.4, 0.4, -1.2, 0.1]
# a = 1, ratio 0.5, decay 0.5. Membrane U, spike S, carry H:
#   soft   0.4 0 0.2 | 0.6  1  -0.2 | -1.4 -1 -0.2 | -0.1 0 -0.05
#   hard   0.4 0 0.2 | 0.6  1   0   | -1.2 -1  0   |  0.1 0  0.05
BY_HAND = {
    "soft": ([0, 1, -1, 0], [0.2, -0.2, -0.2, -0.05]),
    "hard": ([0, 1, -1, 0], [0.2, 0.0, 0.0, 0.05]),
}


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("reset", BY_HAND)
def test_trajectory_by_hand(reset: Any, scale: float) -> None:
    """Amplitude and current scaled alike scale every value alike."""
    neuron = TLIF(decay=0.5, threshold_ratio=0.5, reset=reset, initial_amplitude=scale)
    spikes, carries, carry = [], [], None
    for now in scale * torch.tensor(CURRENT).unsqueeze(-1):
        s, carry = neuron.step(now, carry)
        spikes.append(s.item())
        carries.append(carry.item())
    expected_spikes, expected_carries = BY_HAND[reset]
    assert spikes == [scale * s for s in expected_spikes]
    assert carries == pytest.approx([scale * c for c in expected_carries])
    assert neuron.unit == scale


def test_threshold_ratio_one_fires_at_the_amplitude() -> None:
    current = torch.tensor([[-1.0, -0.9, 0.0, 0.9, 1.0]])
    assert TLIF(threshold_ratio=1.0)(current).tolist() == [[-1, 0, 0, 0, 1]]
    assert TLIF(threshold_ratio=0.5)(current).tolist() == [[-1, -1, 0, 1, 1]]


def test_gradient_of_membrane_and_amplitude_in_closed_form() -> None:
    a = 0.8
    u = torch.tensor([[-1.5, -0.7, -0.1, 0.3, 0.5, 0.8, 2.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    neuron = TLIF(initial_amplitude=a, amplitude="learnable")
    spikes = neuron(u)
    torch.testing.assert_close(spikes / a, torch.tensor([[-1.0, -1, 0, 0, 1, 1, 1]]))
    spikes.backward(upstream)
    inside = torch.tensor([[0.0, 1, 1, 1, 1, 1, 0]])
    torch.testing.assert_close(u.grad, upstream * inside)
    slope = spikes.detach() / a - u.detach() / a * inside
    torch.testing.assert_close(neuron.amplitude.grad, (upstream * slope).sum().reshape(1))


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_gradient_through_the_carry(reset: Any) -> None:
    first = torch.tensor([0.3, 0.7, 1.6], requires_grad=True)
    second = torch.tensor([0.2, 0.4, 0.1])
    neuron = TLIF(decay=0.5, reset=reset, amplitude="fixed")
    neuron(torch.stack([first, second]))[1].sum().backward()
    # dS2/dU2 = 1 (all |U2| <= 1).
    # soft: dH/dU1 = 0.5 (1 - [|U1| <= 1]); hard: 0.5 where the first step was silent.
    expected = {"soft": [0.0, 0.0, 0.5], "hard": [0.5, 0.0, 0.0]}[reset]
    torch.testing.assert_close(first.grad, torch.tensor(expected))


def test_first_batch_sets_the_amplitude_once() -> None:
    neuron = TLIF(amplitude="first-batch", initial_amplitude=3.0)
    current = torch.tensor([[0.5, -1.5], [1.0, -1.0]])  # mean |I| = 1, so a = 2
    neuron.eval()
    neuron(current)
    assert neuron.unit == 3.0  # inference calibrates nothing
    neuron.train()
    assert neuron(current).tolist() == [[0, -2], [2, 0]]
    # first step 0.5 -> 0, H 0.25; -1.5 -> -2, H 0.25; second 1.25 -> 2; -0.75 -> 0
    assert neuron.unit == 2.0
    neuron(10 * current)
    assert neuron.unit == 2.0
    assert not neuron.amplitude.requires_grad


def test_calibration_survives_a_round_trip() -> None:
    neuron = TLIF(amplitude="first-batch")
    neuron(torch.full((1, 4), 0.75))
    again = TLIF(amplitude="first-batch")
    again.load_state_dict(neuron.state_dict())
    again(torch.full((1, 4), 9.0))
    assert again.unit == neuron.unit == 1.5


def test_padding_of_the_first_batch_does_not_calibrate() -> None:
    neuron = TLIF(amplitude="first-batch")
    current = torch.tensor([1.0, -3.0, 100.0, 2.0]).view(1, 2, 2, 1)
    neuron.present = torch.tensor([[1, 1], [0, 1]])
    neuron.train()(current)
    assert neuron.amplitude.item() == 2 * (1 + 3 + 2) / 3


def test_a_silent_first_batch_does_not_calibrate() -> None:
    """An amplitude of zero would silence the neuron for good and make its gradient NaN."""
    neuron = TLIF(amplitude="first-batch", initial_amplitude=3.0)
    assert neuron(torch.zeros(2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert neuron.unit == 3.0
    current = torch.tensor([[0.5, -1.5]], requires_grad=True)
    spikes = neuron(current)
    assert spikes.tolist() == [[0, -2]]
    spikes.sum().backward()
    assert current.grad.tolist() == [[1, 1]]


@pytest.mark.parametrize(("mode", "learns"), [("learnable", True), ("fixed", False)])
def test_other_amplitude_modes(mode: Any, learns: bool) -> None:
    neuron = TLIF(amplitude=mode, initial_amplitude=0.7)
    neuron(torch.full((1, 4), 9.0))
    assert neuron.unit == pytest.approx(0.7)
    assert neuron.amplitude.requires_grad is learns


def test_unknown_choices() -> None:
    with pytest.raises(ConfigError, match=r"resets are .*, not 'delayed'"):
        TLIF(reset="delayed")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"amplitudes are .*, not 'frozen'"):
        TLIF(amplitude="frozen")  # type: ignore[arg-type]
