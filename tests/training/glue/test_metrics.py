"""Metrics equal scikit-learn's and scipy's."""

from __future__ import annotations

import numpy as np
import pytest

from spikeformers.training.glue.metrics import (
    METRICS,
    accuracy,
    f1,
    majority_scores,
    matthews,
    spearman,
)


def test_equal_to_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    draw = np.random.default_rng(0)
    for classes in (2, 2, 2, 3):
        truth, guess = draw.integers(0, classes, (2, 40))
        assert accuracy(truth, guess) == reference.accuracy_score(truth, guess)
        expected = reference.matthews_corrcoef(truth, guess)
        assert matthews(truth, guess) == pytest.approx(expected, rel=1e-12)
        if classes == 2:
            assert f1(truth, guess) == pytest.approx(reference.f1_score(truth, guess), rel=1e-12)


def test_equal_to_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    draw = np.random.default_rng(1)
    for _ in range(5):
        truth, guess = draw.integers(0, 6, 30) / 2, draw.normal(size=30).round(1)  # with ties
        pearson = METRICS["pearson"](truth, guess)
        assert pearson == pytest.approx(stats.pearsonr(truth, guess).statistic, rel=1e-12)
        assert spearman(truth, guess) == pytest.approx(
            stats.spearmanr(truth, guess).statistic, rel=1e-12
        )


def test_by_hand_and_where_there_is_no_quotient() -> None:
    truth, guess = [1, 1, 1, 0], [1, 1, 0, 1]
    assert accuracy(truth, guess) == 0.5
    assert f1(truth, guess) == pytest.approx(4 / 6)
    assert matthews(truth, guess) == pytest.approx(-1 / 3)
    assert f1([0, 0], [0, 0]) == matthews([0, 1], [1, 1]) == spearman([1, 2], [3, 3]) == 0
    assert spearman([1.0, 2.0, 3.0], [1.0, 10.0, 100.0]) == pytest.approx(1)


def test_one_answer_to_all() -> None:
    truth = [1, 1, 1, 0]
    same = majority_scores(("accuracy", "f1", "matthews"), truth, 2)
    assert same == {"accuracy": 0.75, "f1": pytest.approx(6 / 7), "matthews": 0.0}
    assert majority_scores(("accuracy",), [2, 0, 2, 1], 3) == {"accuracy": 0.5}
    assert majority_scores(("f1",), [0, 0, 1], 2) == {"f1": 0.5}  # of class 1, though rarer
    same = majority_scores(("pearson", "spearman"), [0.5, 4.0, 5.0], 1)
    assert same == {"pearson": 0.0, "spearman": 0.0}
