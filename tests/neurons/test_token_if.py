"""Thresholds per token: counts and units by hand, near and far digits, silence, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.neurons import TokenIF
from spikeformers.neurons.token_if import mean_size, rounded_up_to_a_power_of_two


def fired(neuron: TokenIF, row: list[float]) -> tuple[list[float], float]:
    """Counts of one row, and its unit."""
    x = torch.tensor(row)[None, None]
    counts: Tensor = neuron(x)
    return counts[0, 0].tolist(), float(neuron.value_of(x))


def test_the_largest_value_sets_the_unit_where_none_is_far() -> None:
    """L = 3, mean 9/8, 8 times that is 9: unit = min(3, 9) / 3 = 1, and halves go away from 0."""
    assert fired(TokenIF(4, steps=3), [3.0, -1.0, 0.5, 0.0]) == ([3, -1, 1, 0], 1.0)
    assert fired(TokenIF(4, steps=3), [3.0, -1.0, -0.5, 0.4]) == ([3, -1, -1, 0], 1.0)


def test_the_mean_sets_the_unit_where_a_value_is_far() -> None:
    """L = 3, mean 12/8, twice that is 3: unit 1; the count 10 is 2 + 4 * 2."""
    neuron = TokenIF(8, steps=3, reach=2.0)
    counts, unit = fired(neuron, [-10.0, 1.0, -1.0, 0, 0, 0, 0, 0])
    assert (counts, unit) == ([-10, 1, -1, 0, 0, 0, 0, 0], 1.0)
    near, far = neuron.parts(torch.tensor(counts))
    assert near.tolist() == [-2, 1, -1, 0, 0, 0, 0, 0]
    assert far.tolist() == [-2, 0, 0, 0, 0, 0, 0, 0]
    assert neuron.events(torch.tensor(counts)).tolist() == [2, 1, 1, 0, 0, 0, 0, 0]


def test_a_far_count_never_exceeds_width_over_reach() -> None:
    """One value alone is the most uneven row there is."""
    for width, steps in ((16, 4), (576, 8), (1536, 8), (100, 2)):
        neuron = TokenIF(width, steps)
        x = torch.zeros(1, 1, width)
        x[..., 3] = 7.3
        far = neuron.parts(neuron(x))[1].max()
        most = width / 8 * neuron.largest / 2 ** (steps - 1)
        assert most - 1 <= float(far) <= most + 0.5 <= width / 8 + 0.5
        assert float(far) < 2**neuron.far_steps


def test_rows_of_zeros_are_silent() -> None:
    counts, unit = fired(TokenIF(3, steps=8), [0.0, 0.0, 0.0])
    assert (counts, unit) == ([0, 0, 0], 0.0)
    tiny = [1e-44, 0.0, 0.0]  # its unit underflows
    assert fired(TokenIF(3, steps=8), tiny) == ([0, 0, 0], 0.0)


def test_the_dead_zone_is_in_means_of_the_token() -> None:
    """Mean 12/8 = 1.5: below 1.5 * 2/3 = 1 nothing fires, at 1 it does."""
    neuron = TokenIF(8, steps=8)
    row = [6.0, 1.0, -1.0, 0.99, -0.99, 2.0, 0.02, 0.0]
    assert [count != 0 for count in fired(neuron, row)[0]] == [True] * 6 + [False] * 2
    with torch.no_grad():
        neuron.dead_zone.fill_(1.0 / 1.5)
    assert [count != 0 for count in fired(neuron, row)[0]] == [
        *(True, True, True, False, False, True, False, False)
    ]


@pytest.mark.parametrize(
    ("unit", "rounded"),
    [(0.75, 1.0), (1.0, 1.0), (1.01, 2.0), (0.5, 0.5), (0.3, 0.5), (0.0, 0.0), (96.0, 128.0)],
)
def test_units_are_rounded_up_to_a_power_of_two(unit: float, rounded: float) -> None:
    assert float(rounded_up_to_a_power_of_two(torch.tensor(unit))) == rounded


def test_a_power_of_two_is_the_unit_that_the_counts_are_in() -> None:
    """The unit 2/3 becomes 1."""
    assert fired(TokenIF(4, 3, power_of_two=True), [2.0, -1.4, 0.4, 0.0]) == ([2, -1, 0, 0], 1.0)


def test_means_are_summed_in_double_precision() -> None:
    size = torch.full((1, 4097), 1.0)
    size[0, 0] = 2.0**24  # in float32 each following 1 would be lost, added one by one
    expected = torch.tensor((2.0**24 + 4096) / 4097, dtype=torch.float64).float()
    assert float(mean_size(size)) == float(expected)


@pytest.fixture
def rows() -> Tensor:
    """Twelve tokens of 64 values, one of them with a value of fifty times the mean."""
    x = torch.randn(1, 2, 6, 64, generator=torch.Generator().manual_seed(3))
    x[0, 1, 2, 5] = 40.0
    return x


@pytest.mark.parametrize("steps", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("reach", [1.0, 2.5, 8.0])
def test_phases_sum_to_the_counts(rows: Tensor, steps: int, reach: float) -> None:
    at_once = TokenIF(64, steps, reach)
    phases = TokenIF(64, steps, reach, unrolled=True)(rows)
    assert len(phases) == steps - 1 + at_once.far_steps
    assert torch.equal(phases.sum(0, keepdim=True), at_once(rows))
    for number, phase in enumerate(phases):
        assert set(phase.abs().unique().tolist()) <= {0.0, 2.0 ** (len(phases) - 1 - number)}
    events = at_once.events(phases).sum()
    assert float(events) == float(at_once.events(at_once(rows)).sum())


@pytest.mark.parametrize("steps", [4, 8])
def test_every_value_is_said_within_half_a_unit(rows: Tensor, steps: int) -> None:
    """Far values too, which is what the second neuron is for."""
    neuron = TokenIF(64, steps, reach=2.0)
    unit = neuron.value_of(rows)
    counts = neuron(rows)
    assert float(((counts * unit - rows).abs() / unit).max()) <= 0.5 + 1e-5
    assert int((counts.abs() > neuron.largest).sum()) > 12


def test_a_token_is_its_own_scale(rows: Tensor) -> None:
    """What other tokens are, and how large this one is, changes no count."""
    neuron = TokenIF(64, 8)
    assert torch.equal(neuron(rows)[:, :, 3:], neuron(rows[:, :, 3:]))
    assert torch.equal(neuron(rows * 1024.0), neuron(rows))


def test_bfloat16_currents_give_the_counts_of_their_values(rows: Tensor) -> None:
    neuron = TokenIF(64, 8)
    half = rows.bfloat16()
    counts = neuron(half)
    assert counts.dtype == torch.float32
    assert torch.equal(counts, neuron(half.float()))
    assert torch.equal(counts, counts.round())


def test_gradients_pass_straight_through(rows: Tensor) -> None:
    neuron = TokenIF(64, 8)
    x = rows.clone().requires_grad_(True)
    (neuron(x) * neuron.value_of(x) * 3.0).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 3.0))


def test_a_dead_zone_lets_gradients_pass(rows: Tensor) -> None:
    neuron = TokenIF(64, 8)
    with torch.no_grad():
        neuron.dead_zone.fill_(0.5)
    x = rows.clone().requires_grad_(True)
    (neuron(x) * neuron.value_of(x)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_facts_of_the_layer() -> None:
    neuron = TokenIF(1536, 8)
    assert neuron.largest == neuron.levels == 127
    assert neuron.far_steps == 8  # far counts up to 192
    assert neuron.value_per_token
    assert neuron.weighted
    assert neuron.planes == 9
    assert neuron.engine_spec() == {
        **{"type": "token", "steps": 8, "reach": 8.0, "dead_zone": 0.0, "power_of_two": False}
    }
    # Two rows: per value 1 + 2 * 14 additions, 3 + 14 comparisons, 1 multiplication.
    assert neuron.operations(2 * 1536, 1) == {
        **{"add": 29 * 3072, "compare": 17 * 3072, "mult": 3072 + 6, "function": 2}
    }
    shifts = TokenIF(1536, 8, power_of_two=True).operations(2 * 1536, 1)
    assert shifts["mult"] == 6


def test_a_report_has_the_share_of_far_neurons_that_fired() -> None:
    neuron = TokenIF(8, steps=3, reach=2.0)
    x = torch.tensor([[[[-10.0, 1.0, -1.0, 0, 0, 0, 0, 0]]]])
    report = neuron.report(x, neuron(x))
    assert report["far"] == pytest.approx(1 / 8)
    assert report["density"] == pytest.approx(3 / 8)
    assert report["rate"] == pytest.approx(4 / 8 / 2)  # 10 has two digits; two phases
    assert report["threshold_mean"] == pytest.approx(3.0)
    assert report["clipped"] == 0.0


@pytest.mark.parametrize("steps", [1, 13])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"takes 2 to 12 steps.*not {steps}"):
        TokenIF(8, steps)


@pytest.mark.parametrize("reach", [0.0, -1.0, math.inf, math.nan])
def test_a_reach_that_is_no_number_above_zero_is_refused(reach: float) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        TokenIF(8, 8, reach)


def test_unrolled_phases_refuse_a_gradient(rows: Tensor) -> None:
    neuron = TokenIF(64, 8, unrolled=True).train()
    with pytest.raises(ConfigError, match="pass no gradient"):
        neuron(rows.clone().requires_grad_(True))
