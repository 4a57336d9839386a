"""The paired bootstrap, against a normal approximation and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spikeformers.errors import DataError
from spikeformers.evaluation.bootstrap import paired_means, paired_metric


def test_means() -> None:
    draw = np.random.default_rng(0)
    first = (draw.random(400) < 0.5).astype(float)
    second = np.where(draw.random(400) < 0.2, 1.0, first)  # some wrong ones made right
    result = paired_means(first, second, draws=4000)
    apart = second - first
    error = apart.std(ddof=1) / 20
    assert result.difference == pytest.approx(apart.mean())
    assert result.low == pytest.approx(apart.mean() - 1.96 * error, abs=0.004)
    assert result.high == pytest.approx(apart.mean() + 1.96 * error, abs=0.004)
    assert result.clear
    assert (result.examples, result.draws) == (400, 4000)
    assert paired_means(first, second, draws=4000) == result
    same = paired_means(first, first)
    assert (same.difference, same.low, same.high, same.clear) == (0, 0, 0, False)


def test_a_metric_over_runs() -> None:
    labels = [0, 1] * 20

    def accuracy(truth, guess):
        return float(np.mean(truth == guess))

    first, second = [[0] * 40, [0] * 40], [labels, [0] * 40]
    result = paired_metric(accuracy, labels, first, second, draws=300)
    assert result.difference == pytest.approx(0.25)  # 1/2 on one of two runs
    assert 0.15 < result.low < 0.25 < result.high < 0.35
    with pytest.raises(DataError, match="nothing to draw from"):
        paired_means([], [])
