from __future__ import annotations

import pytest
import torch

from spikeformers.energy.counting.operands import Spikes, counts, operand, spikes_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0, 1.0], ("binary", 1.0)),
        ([0.0, 0.3, 0.3], ("binary", 0.3)),
        ([0.0, -0.7, 0.7], ("ternary", 0.7)),
        ([0.0, 1.0, 4.0], ("integer", 1.0)),
        ([0.0, 0.25, 0.75], ("integer", 0.25)),
        ([0.0, 1 / 3, 1.0], ("integer", 1 / 3)),
        ([2.0, 4.0], ("integer", 1.0)),
    ],
)
def test_values_tell_the_kind(values: list[float], expected: tuple[str, float]) -> None:
    spikes = spikes_of(torch.tensor(values))
    assert spikes is not None
    assert spikes.kind == expected[0]
    assert spikes.unit == pytest.approx(expected[1])


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.0], [0.3, 0.5], [1.0, 2.5, 3.1], [1e-6, 1.0], [float("nan"), 1.0], [1.0, 5000.0], []],
)
def test_anything_else_is_real(values: list[float]) -> None:
    assert spikes_of(torch.tensor(values)) is None


def test_random_numbers_are_real() -> None:
    generator = torch.Generator().manual_seed(0)
    assert all(spikes_of(torch.randn(n, generator=generator)) is None for n in range(4, 200))


def test_a_known_unit_wins_over_the_smallest_value() -> None:
    spikes = torch.tensor([0.0, 0.5, 1.0])  # no quarter fell in this batch
    assert spikes_of(spikes) == Spikes("integer", 0.5)
    stated = spikes_of(spikes, Spikes("integer", 0.25))
    assert stated == Spikes("integer", 0.25)
    assert counts(spikes, stated).tolist() == [0, 2, 4]


def test_a_known_unit_that_does_not_fit_is_not_believed() -> None:
    assert spikes_of(torch.tensor([0.0, 0.1234, 0.777]), Spikes("binary", 1.0)) is None


def test_sizes_and_sums() -> None:
    measured = operand(torch.tensor([0.0, 0.25, 0.0, 1.0]), Spikes("integer", 0.25))
    assert (measured.size, measured.nonzero, measured.total) == (4, 2, 5)
    assert (measured.density, measured.mean_count) == (0.5, 1.25)


def test_a_ternary_spike_counts_one_whatever_its_sign() -> None:
    measured = operand(torch.tensor([-0.5, 0.0, 0.5]), Spikes("ternary", 0.5))
    assert (measured.nonzero, measured.total) == (2, 2)


def test_a_real_operand_counts_one_for_every_value() -> None:
    assert counts(torch.tensor([0.0, 0.7]), None).tolist() == [1, 1]
    assert operand(torch.tensor([0.0, 0.7]), None).total == 0


def test_weighted_counts_cost_their_binary_digits() -> None:
    x = torch.tensor([0.0, -3.0, 4.0, 7.0]) * 0.5
    assert counts(x, Spikes("integer", 0.5)).tolist() == [0, 3, 4, 7]
    assert counts(x, Spikes("integer", 0.5, weighted=True)).tolist() == [0, 2, 1, 3]
    assert operand(x, Spikes("integer", 0.5, weighted=True)).total == 6
