"""QCFS and its IF neuron: equal at L = T for constant input; the pair; gradients; trajectories."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.errors import ConfigError
from spikeformers.neurons import IF, NILIF, QCFS, SignedIF, SignedNILIF, by_sign

# Dyadic numbers, so that neither the sums of the membrane nor the quotients are rounded.
DYADIC = st.integers(-4096, 4096).map(lambda n: n / 256)


def thresholds(neuron: IF, *rows: list[float]) -> IF:
    with torch.no_grad():
        neuron.threshold.copy_(torch.tensor(rows))
    return neuron


def test_trajectory_of_the_if_neuron_by_hand() -> None:
    # theta 1, starts at 0.5: 0.9 | 1.3 fires, 0.3 | 0.7 | 1.1 fires, 0.1
    neuron = thresholds(IF((1,), 4, unrolled=True), [1.0])
    assert neuron(torch.tensor([[0.4]])).flatten().tolist() == [0, 1, 0, 1]
    membrane, seen = None, []
    for _ in range(4):
        _, membrane = neuron.step(torch.tensor([0.4]), membrane)
        seen.append(membrane.item())
    assert seen == pytest.approx([0.9, 0.3, 0.7, 0.1])


def test_trajectory_of_the_pair_by_hand() -> None:
    # theta 1 (ON) and 0.5 (OFF), current -0.3, starts at 0.5 and 0.25:
    # ON 0.2, -0.1, -0.4 never; OFF 0.55 fires 0.05 | 0.35 | 0.65 fires 0.15
    neuron = thresholds(SignedIF((1,), 3, unrolled=True), [1.0], [0.5])
    assert neuron(torch.tensor([[-0.3]])).flatten().tolist() == [-1, 0, -1]
    assert neuron.spike_type == "ternary"


@given(st.lists(DYADIC, min_size=1, max_size=8), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_qcfs_is_its_if_neuron_at_equal_levels(z: list[float], steps: int) -> None:
    """Exactly, in spikes and in value, for constant input."""
    theta = [2.0 ** (i % 4 - 1) for i in range(len(z))]
    x = torch.tensor(z)
    activation = QCFS(len(z), steps)
    with torch.no_grad():
        activation.threshold.copy_(torch.tensor(theta))
    stepwise = thresholds(IF((len(z),), steps, unrolled=True), theta)
    at_once = thresholds(IF((len(z),), steps), theta)
    spikes = stepwise(x[None])
    assert spikes.shape == (steps, len(z))
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal((spikes * stepwise.value).sum(0), activation(x))
    assert torch.equal(at_once(x[None]), spikes.sum(0, keepdim=True))


def test_qcfs_formula() -> None:
    z = torch.tensor([-1.0, 0.12, 0.13, 0.5, 0.99, 3.0])
    # L = 4, theta = 1: floor(4 z + 1/2) / 4, clipped
    assert QCFS(1, 4)(z).tolist() == [0, 0, 0.25, 0.5, 1, 1]
    assert QCFS(1, 4, threshold=2.0)(torch.tensor([0.24, 0.25, 1.6])).tolist() == [0, 0.5, 1.5]


def test_input_that_changes_may_break_the_equality() -> None:
    """Mean 0, so h = 0; but the first step's spike is out when the second takes it back."""
    neuron = IF((1,), 2, unrolled=True)
    spikes = neuron(torch.tensor([[1.0], [-1.0]]))
    assert spikes.flatten().tolist() == [1, 0]
    assert QCFS(1, 2)(torch.tensor([0.0])).tolist() == [0]


@given(st.lists(DYADIC, min_size=1, max_size=8), st.sampled_from([1, 2, 4, 8, 16]))
def test_the_pair_rounds_and_clips(x: list[float], steps: int) -> None:
    """round(x / s).clamp(-T, T) * s with s = theta / T, with a theta for each sign."""
    channels = len(x)
    on, off = [2.0] * channels, [0.5] * channels
    current = torch.tensor([x])
    stepwise = thresholds(SignedIF((channels,), steps, unrolled=True), on, off)
    at_once = thresholds(SignedIF((channels,), steps), on, off)
    integer = thresholds(SignedNILIF((channels,), steps), on, off)
    s = torch.where(current >= 0, 2.0, 0.5) / steps
    away_from_zero = (current / s).abs().add(0.5).floor() * current.sign()
    expected = away_from_zero.clamp(-steps, steps)
    spikes = stepwise(current)
    assert set(spikes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(spikes.sum(0, keepdim=True), expected)
    assert torch.equal(at_once(current), expected)
    assert torch.equal(integer(current), expected)


def test_the_pair_on_random_input_is_rounding() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 500, 4)
    theta = torch.tensor([[0.7, 1.3, 2.0, 0.9]])
    neuron = thresholds(SignedIF((4,), 8, symmetric=True), theta[0].tolist())
    s = theta / 8
    assert torch.equal(neuron(x) * neuron.value[0], (x / s).round().clamp(-8, 8) * s)


def test_the_ni_lif_pair_is_two_ni_lif_neurons() -> None:
    x = torch.linspace(-2, 2, 98)[None]  # no halves among x * 4 / theta
    pair = thresholds(SignedNILIF((1,), 4), [1.5], [0.6])
    on, off = NILIF(4)(x * 4 / 1.5), NILIF(4)(-x * 4 / 0.6)
    assert torch.equal(pair(x), (on - off) * 4)


def test_straight_through_gradients() -> None:
    z = torch.tensor([-0.5, 0.3, 0.9, 1.6], requires_grad=True)
    activation = QCFS(4, 4)
    activation(z).sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [0, 1, 1, 0]
    # n / L - z / theta inside, 1 above, 0 below
    assert activation.threshold.grad is not None
    assert activation.threshold.grad.tolist() == pytest.approx([0, 0.25 - 0.3, 0.1, 1], abs=1e-6)


def test_gradient_of_the_pair_reaches_both_thresholds() -> None:
    x = torch.tensor([[0.3, -0.3, -5.0]], requires_grad=True)
    neuron = SignedIF((3,), 4)
    counts = neuron(x)
    assert counts.tolist() == [[1, -1, -4]]
    (counts * by_sign(counts, neuron.value)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1, 0]]
    assert neuron.threshold.grad is not None
    expected = [[0.25 - 0.3, 0, 0], [0, -0.25 + 0.3, -1]]
    for row, row_expected in zip(neuron.threshold.grad.tolist(), expected, strict=True):
        assert row == pytest.approx(row_expected, abs=1e-6)


def test_operations_do_not_depend_on_how_it_is_run() -> None:
    at_once, stepwise = SignedIF((5,), 8), SignedIF((5,), 8, unrolled=True)
    expected = {"add": 2 * 2 * 8 * 5, "compare": 2 * 8 * 5}
    assert at_once.operations(5, 1) == stepwise.operations(5, 1) == expected
    assert stepwise.operations(40, 8) == expected


@pytest.mark.parametrize("make", [lambda: IF((1,), 0), lambda: SignedIF((1,), 0)])
def test_no_steps(make: object) -> None:
    with pytest.raises(ConfigError, match="steps must be at least 1, not 0"):
        make()  # type: ignore[operator]
    with pytest.raises(ConfigError, match="levels must be at least 1, not 0"):
        QCFS(1, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_by_sign_is_the_selection(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5).to(dtype)
    x[0, 0, :2] = torch.tensor([0.0, -0.0])
    values = (torch.rand(2, 5) + 0.1).requires_grad_()
    others = values.detach().clone().requires_grad_()
    chosen, expected = by_sign(x, values), torch.where(x >= 0, others[0], others[1])
    assert chosen.dtype == expected.dtype
    assert torch.equal(chosen, expected)
    assert torch.equal(by_sign(x, values[:1]), values[0])
    weight = torch.randn(2, 3, 5)
    (chosen * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(values.grad, others.grad)
