"""Phase coding: binary digits by hand, equal to rounding, and what a spike costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.errors import ConfigError
from spikeformers.neurons import PhaseIF
from spikeformers.neurons.phase import digits


def thresholds(neuron: PhaseIF, *rows: list[float]) -> PhaseIF:
    with torch.no_grad():
        neuron.threshold.copy_(torch.tensor(rows))
    return neuron


def test_digits_by_hand() -> None:
    # theta 7 over 3 steps: s = 1; 5.2 rounds to 5 = 4 + 1; -2.5 to -3 = -(2 + 1); 9 clips to 7
    neuron = thresholds(PhaseIF((3,), 3, unrolled=True), [7.0] * 3, [7.0] * 3)
    spikes = neuron(torch.tensor([[5.2, -2.5, 9.0]]))
    assert spikes.tolist() == [[4, 0, 4], [0, -2, 2], [1, -1, 1]]
    assert neuron.value.tolist() == [[1] * 3] * 2
    assert neuron.events(spikes).sum(0).tolist() == [2, 2, 3]


@given(
    st.lists(st.integers(-4096, 4096).map(lambda n: n / 16), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_unrolled_digits_sum_to_the_rounded_value(x: list[float], steps: int) -> None:
    largest = 2**steps - 1
    theta = [float(largest)] * len(x), [largest / 2] * len(x)  # s = 1 and 1/2: exact quotients
    stepwise = thresholds(PhaseIF((len(x),), steps, unrolled=True), *theta)
    at_once = thresholds(PhaseIF((len(x),), steps), *theta)
    current = torch.tensor([x])
    s = torch.where(current >= 0, 1.0, 0.5)
    expected = ((current / s).abs() + 0.5).floor().clamp(max=largest) * current.sign()
    assert torch.equal(at_once(current), expected)
    spikes = stepwise(current)
    assert spikes.shape[0] == steps
    assert torch.equal(spikes.sum(0, keepdim=True), expected)
    assert torch.equal(stepwise.events(spikes).sum(0, keepdim=True), at_once.events(expected))


def test_digits_counts_ones() -> None:
    numbers = torch.arange(0, 256).float()
    assert digits(numbers).tolist() == [bin(n).count("1") for n in range(256)]


def test_it_takes_one_value_and_few_steps() -> None:
    with pytest.raises(ConfigError, match="at most 16 steps"):
        PhaseIF((1,), 17)
    with pytest.raises(ConfigError, match="no current per step"):
        PhaseIF((1,), 2, unrolled=True)(torch.zeros(2, 1))
