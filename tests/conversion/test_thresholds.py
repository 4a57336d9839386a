"""Thresholds: percentiles and the grid by hand, signs apart, channels apart."""

from __future__ import annotations

import math

import pytest
import torch

from spikeformers.conversion import Rule, pair_thresholds, threshold_of
from spikeformers.errors import ConfigError


def test_percentile_is_of_the_positive_values_of_a_channel() -> None:
    x = torch.tensor([[-9.0, 1.0], [1.0, -1.0], [2.0, -2.0], [3.0, -3.0], [4.0, -4.0]])
    rule = Rule("percentile", 75)
    # of 1 2 3 4 the third; of 1 alone that
    assert threshold_of(x, 4, rule).tolist() == [3.0, 1.0]
    assert threshold_of(-x, 4, rule).tolist() == [9.0, 3.0]
    assert threshold_of(x, 4, Rule("percentile", 100)).tolist() == [4.0, 1.0]


def test_mse_keeps_a_grid_that_fits() -> None:
    """Values on the grid of theta = max have no error there."""
    x = torch.tensor([[0.25], [0.5], [0.75], [1.0], [-7.0]])
    assert threshold_of(x, 4, Rule()).tolist() == [1.0]


def test_mse_clips_an_outlier_where_that_pays() -> None:
    """1000 values of 1 and one of 8, one step: theta = 8 would round each 1 to 0."""
    x = torch.ones(1001, 1)
    x[0] = 8.0
    theta = threshold_of(x, 1, Rule()).item()
    # the grid of 8 * 2^(-i/4) has 1; error there is (8 - 1)^2, at 8 it is 1000
    assert theta == pytest.approx(1.0, rel=1e-5)


def test_mse_is_the_best_of_the_grid() -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).abs()
    thresholds = threshold_of(x, 4, Rule())
    for channel in range(3):
        column = x[:, channel]
        errors = {}
        for i in range(33):
            theta = float(column.max()) * 2 ** (-i / 4)
            s = theta / 4
            quantised = (column / s + 0.5).floor().clamp(0, 4) * s
            errors[theta] = float((quantised - column).square().sum())
        assert thresholds[channel].item() == pytest.approx(
            min(errors, key=errors.__getitem__), rel=1e-4
        )


def test_a_target_is_what_the_error_is_measured_against() -> None:
    """QCFS in place of a halving activation: theta is where h(z) meets z / 2."""
    z = torch.linspace(0, 1, 101).unsqueeze(1)
    theta = threshold_of(z, 1, Rule(), target=z.square())
    quantised = (z / theta + 0.5).floor().clamp(0, 1) * theta
    largest = (z / 1.0 + 0.5).floor().clamp(0, 1)
    assert (quantised - z.square()).square().sum() < (largest - z.square()).square().sum()
    assert theta.item() < 1


def test_a_pair_has_a_threshold_for_each_sign_and_none_is_zero() -> None:
    x = torch.tensor([[4.0, 2.0], [-1.0, 1.0]])
    assert pair_thresholds(x, 1, Rule("percentile", 100)).tolist() == [[4.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize("percentile", [0.0, -1.0, 101.0, math.nan])
def test_percentile_out_of_range(percentile: float) -> None:
    with pytest.raises(ConfigError, match=r"percentile must lie in \(0, 100\]"):
        Rule("percentile", percentile)


def test_margin_is_positive() -> None:
    with pytest.raises(ConfigError, match="margin must be greater than 0, not 0"):
        Rule(margin=0)


def test_unknown_rule() -> None:
    with pytest.raises(ConfigError, match="not 'median'"):
        Rule("median")  # type: ignore[arg-type]
