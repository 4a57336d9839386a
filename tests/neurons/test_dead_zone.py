"""Signed counts with a dead zone: trajectories by hand, gradients, the firing-rate term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.neurons import Activity, DeadZone, collapse, expand

CURRENT = [1.0, -0.9, 0.3, -6.0, 1.5]
# L = 8, step 0.5, theta 0.25, decay 0.5; U, Z / step, N, H = 0.5 (U - S), S = 0.5 N:
#    1.0    1.5    2   0        a half goes to the even count
#   -0.9   -1.3   -1  -0.2
#    0.1    0      0   0.05     inside the dead zone
#   -5.95 -11.4   -8  -0.975    clipped
#    0.525  0.55   1   0.0125
SIGNED = ([2, -1, 0, -8, 1], [0.0, -0.2, 0.05, -0.975, 0.0125])
#    1.0 2 0 | -0.9 0 -0.45 | -0.15 0 -0.075 | -6.075 0 -3.0375 | -1.5375 0 -0.76875
ONE_SIDED = ([2, 0, 0, 0, 0], [0.0, -0.45, -0.075, -3.0375, -0.76875])


@pytest.mark.parametrize(
    ("signed", "counts", "carries"), [(True, *SIGNED), (False, *ONE_SIDED)], ids=["signed", "not"]
)
def test_trajectory_by_hand(signed: bool, counts: list[int], carries: list[float]) -> None:
    neuron = DeadZone(levels=8, step_size=0.5, threshold=0.25, signed=signed, decay=0.5)
    carry, spikes, kept = None, [], []
    with torch.no_grad():
        for now in torch.tensor(CURRENT).unsqueeze(-1):
            emitted, carry = neuron.step(now, carry)
            spikes.append(emitted.item())
            kept.append(carry.item())
        assert neuron(torch.tensor(CURRENT).unsqueeze(-1)).flatten().tolist() == spikes
    assert spikes == [count * 0.5 for count in counts]
    assert kept == pytest.approx(carries, abs=1e-6)


def test_one_step_shrinks_scales_rounds_and_clips() -> None:
    u = torch.tensor([[-9.0, -1.0, -0.5, -0.3, 0.0, 0.3, 0.42, 0.43, 0.675, 0.925, 9.0]])
    counts = [-16, -3, -1, 0, 0, 0, 0, 1, 2, 2, 16]  # 0.675 and 0.925 are at 1.5 and 2.5 steps
    neuron = DeadZone(levels=16, step_size=0.25, threshold=0.3)
    assert (neuron(u) / 0.25).tolist() == [counts]
    neuron.signed = False
    assert (neuron(u) / 0.25).tolist() == [[max(0, count) for count in counts]]


@torch.no_grad()
def test_a_gain_scales_currents_and_the_value_of_a_spike_takes_it_back() -> None:
    u = torch.linspace(-3, 3, 241).unsqueeze(0)
    plain, scaled = DeadZone(8, 0.5, 0.3), DeadZone(8, 0.5, 0.3, gain=4.0)
    assert scaled.unit == scaled.spike_value() == 0.125
    assert torch.equal(scaled(u), plain(4 * u) / 4)
    assert list(scaled.state_dict()) == ["threshold", "gain"]
    assert scaled.engine_spec()["gain"] == 4.0
    scaled.gain.fill_(9.0)
    scaled.reset_parameters()
    assert scaled.gain.item() == 4.0


def test_a_threshold_below_zero_acts_as_zero() -> None:
    u = torch.linspace(-3, 3, 61).unsqueeze(0)
    neuron, without = DeadZone(8, 0.5, 0.0), DeadZone(8, 0.5, 0.0)
    with torch.no_grad():
        neuron.threshold.fill_(-0.7)
    assert torch.equal(neuron(u), without(u))
    assert neuron.engine_spec()["dead_zone"] == 0.0
    DeadZone._activity(neuron, u, neuron(u)).mean.backward()
    assert neuron.threshold.grad is not None  # a term that asks for silence still raises it
    assert neuron.threshold.grad.item() < 0


def numeric(neuron: DeadZone, u: Tensor, by: str, size: float = 1e-6) -> Tensor:
    """Slope of clip(Z, -L step or 0, L step) / gain, which the rule takes, per value of u."""
    gain, theta = neuron.step_size / neuron.unit, neuron.threshold.detach()
    limit = neuron.levels * neuron.step_size

    def smooth(u: Tensor, theta: Tensor) -> Tensor:
        excess = (gain * (u.abs() if neuron.signed else u) - theta).clamp_min(0)
        return excess.clamp_max(limit) * u.sign() / gain

    if by == "u":
        return (smooth(u + size, theta) - smooth(u - size, theta)) / (2 * size)
    return (smooth(u, theta + size) - smooth(u, theta - size)) / (2 * size)


@pytest.mark.parametrize("gain", [None, 2.5])
@pytest.mark.parametrize("signed", [True, False])
def test_gradients_are_those_of_the_rule(signed: bool, gain: float | None) -> None:
    neuron = DeadZone(levels=6, step_size=0.5, threshold=0.3, signed=signed, gain=gain).double()
    points = torch.tensor([[-9.0, -3.0, -0.31, -0.29, 0.1, 0.29, 0.31, 1.2, 3.2, 3.4, 9.0]])
    u = (points.double() / (gain or 1)).requires_grad_()
    weight = torch.linspace(1, 2, u.numel(), dtype=torch.float64)
    spikes = neuron(u)
    (spikes * weight).sum().backward()
    torch.testing.assert_close(u.grad, numeric(neuron, u.detach(), "u") * weight)
    expected = (numeric(neuron, u.detach(), "theta") * weight).sum()
    torch.testing.assert_close(neuron.threshold.grad, expected.view(1))
    if neuron.gain is not None:
        inside = numeric(neuron, u.detach(), "u") > 0.5
        expected = ((inside * u - spikes) * weight).sum().detach() / neuron.gain.detach()
        torch.testing.assert_close(neuron.gain.grad, expected)


def test_a_threshold_below_zero_has_the_gradient_of_zero() -> None:
    points = torch.tensor([[-2.0, 0.4, 1.0]])
    grads = []
    for theta in (0.0, -0.5):
        neuron = DeadZone(levels=8, step_size=0.5, threshold=0.0)
        with torch.no_grad():
            neuron.threshold.fill_(theta)
        (neuron(points) * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
        grads.append(neuron.threshold.grad)
    assert grads == [torch.tensor([1.0 - 2 - 4])] * 2


def test_a_layer_whose_gain_vanished_is_silent() -> None:
    neuron = DeadZone(levels=8, step_size=0.5, threshold=0.1, gain=1.0)
    with torch.no_grad():
        neuron.gain.zero_()
    spikes = neuron(torch.tensor([[-2.0, 0.4, 1.0]], requires_grad=True))
    assert torch.equal(spikes, torch.zeros(1, 3))
    spikes.sum().backward()
    assert neuron.threshold.grad.isfinite().all()
    assert 0 < neuron.unit < float("inf")


def test_a_leak_passes_a_share_where_the_rule_is_silent() -> None:
    neuron = DeadZone(levels=2, step_size=0.5, threshold=0.3, leak=0.1)
    u = torch.tensor([[-5.0, -0.5, 0.1, 1.0, 5.0]], requires_grad=True)
    neuron(u).sum().backward()
    torch.testing.assert_close(u.grad, torch.tensor([[0.1, 1, 0.1, 1, 0.1]]))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_rate_term_moves_the_threshold_alone(steps: int) -> None:
    neuron = DeadZone(levels=8, step_size=0.5, threshold=0.5, decay=0.5)
    recorded: list[Activity] = []
    neuron.activity, neuron.rate_target, neuron.rate_weight = recorded, 0.25, 2.0
    values = [[[[1.5, -0.7, 0.2, 0.0]]], [[[0.1, 0.6, -0.3, -2.0]]]][:steps]
    current = torch.tensor(values, requires_grad=True)
    neuron(current)
    [activity] = recorded
    activity.mean.backward()
    assert current.grad is None or not current.grad.any()
    # Of U: 1.5 counts 2, the others none. Then H is 0.25, -0.35, 0.1, 0, so that U is 0.35, 0.25,
    # -0.2, -2, of which the last counts -3. A count is half a unit of potential.
    size = 4 * steps
    assert activity.mean.item() == (1.0 if steps == 1 else 1.0 + 1.5) / size
    assert activity.density.item() == steps / size
    assert (activity.target, activity.weight) == (0.25, 2.0)
    assert activity.learns_threshold
    assert neuron.threshold.grad is not None
    assert neuron.threshold.grad.item() == -steps / size  # minus the density


def test_reset_parameters_and_state() -> None:
    neuron = DeadZone(threshold=0.4)
    with torch.no_grad():
        neuron.threshold.fill_(3.0)
    neuron.reset_parameters()
    assert neuron.threshold.item() == pytest.approx(0.4)
    assert list(neuron.state_dict()) == ["threshold"]


def test_on_and_off_sub_steps_sum_to_the_counts() -> None:
    counts = torch.tensor([[3.0, -2.0, 0.0, -4.0]])
    steps = expand(counts / 4, 4, 0.25, signed=True)
    assert steps.shape == (8, 1, 4)
    assert steps.sum(1).int().tolist() == [
        [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0],
        [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1],
    ]  # fmt: skip
    assert torch.equal(collapse(steps, off_steps=4), counts)


def test_operations_by_hand() -> None:
    # A comparison per level and one for the sign, the soft threshold, division by the step; carried
    # values are decayed and have the step's counts taken off.
    signed, one_sided = DeadZone(64, 0.25), DeadZone(4, 1.0, signed=False)
    assert signed.operations(10, 1) == {"compare": 650, "add": 10, "mult": 10}
    assert one_sided.operations(10, 2) == {"compare": 40, "add": 10 + 2 * 5, "mult": 5}


@pytest.mark.parametrize(
    ("neuron", "values"),
    [
        (DeadZone(64, 0.25), "-64, ... 64, times 0.25"),
        (DeadZone(4, 0.5, signed=False), "0, ... 4, times 0.5"),
        (DeadZone(64, 0.25, gain=2.0), "-64, ... 64, times a learned number"),
    ],
)
def test_values_in_words(neuron: DeadZone, values: str) -> None:
    assert neuron.values() == values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": 0}, "levels must be at least 1"),
        ({"step_size": 0.0}, "step_size must be 1e-6 to 1e6, not 0.0"),
        ({"step_size": float("nan")}, "step_size must be"),
        ({"threshold": -0.1}, "dead_zone must be 0 to 1e6, not -0.1"),
        ({"threshold": float("inf")}, "dead_zone must be"),
        ({"gain": 0.0}, "gain must be 1e-6 to 1e6, not 0.0"),
        ({"gain": float("nan")}, "gain must be"),
    ],
)
def test_what_is_no_neuron_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DeadZone(**given)


@torch.no_grad()
def test_binary_units_sum_to_the_counts_without_a_sign_and_are_refused_with_one() -> None:
    neuron = DeadZone(levels=9, step_size=0.25, threshold=0.3, signed=False, gain=2.0)
    units = neuron.binary_units(1)
    currents = torch.linspace(-1, 2, 997).view(1, 1, 1, -1)
    fired = sum((currents > threshold).float() for threshold in units.thresholds)
    torch.testing.assert_close(fired * units.unit, neuron(currents))
    assert len(units.thresholds) == fired.max() == 9
    with pytest.raises(ConfigError, match="its counts have a sign"):
        DeadZone().binary_units(1)
    with pytest.raises(ConfigError, match="its reset subtracts a count"):
        neuron.binary_units(2)
