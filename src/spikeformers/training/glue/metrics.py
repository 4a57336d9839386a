"""Scores of sentence tasks, as scikit-learn and scipy define them.

    accuracy   share of correct labels        f1        2 tp / (2 tp + fp + fn), of class 1
    matthews   correlation of two labellings  pearson   correlation of two lists of numbers
    spearman   Pearson's correlation of ranks; ties share their mean rank

If a quotient is 0/0 (one class only, a constant prediction) the score is 0, as on GLUE's
leaderboard; scipy's correlations are NaN then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[float] | NDArray[np.generic]


def accuracy(truth: Labels, guess: Labels) -> float:
    """Share of equal labels."""
    return float(np.mean(np.asarray(truth) == np.asarray(guess)))


def f1(truth: Labels, guess: Labels) -> float:
    """The F1 score of class 1."""
    actual, predicted = np.asarray(truth) == 1, np.asarray(guess) == 1
    both = int((actual & predicted).sum())
    return _ratio(2 * both, int(actual.sum()) + int(predicted.sum()))


def matthews(truth: Labels, guess: Labels) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004)."""
    actual, predicted = np.asarray(truth), np.asarray(guess)
    classes = np.union1d(actual, predicted)
    a, p = (np.array([(x == c).sum() for c in classes], float) for x in (actual, predicted))
    n, right = len(actual), float((actual == predicted).sum())
    spread = math.sqrt(n**2 - a @ a) * math.sqrt(n**2 - p @ p)
    return _ratio(right * n - float(a @ p), spread)


def pearson(truth: Labels, guess: Labels) -> float:
    """Linear correlation."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (truth, guess))
    x, y = x - x.mean(), y - y.mean()
    return _ratio(float(x @ y), float(np.linalg.norm(x) * np.linalg.norm(y)))


def spearman(truth: Labels, guess: Labels) -> float:
    """Correlation of ranks."""
    return pearson(_ranks(truth), _ranks(guess))


def _ranks(values: Labels) -> NDArray[np.float64]:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[place]


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0


METRICS: dict[str, Callable[[Labels, Labels], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def majority_scores(names: Sequence[str], truth: Labels, classes: int) -> dict[str, float]:
    """The best score of each metric with the same answer to all examples.

    That is the most common class for accuracy, class 1 for F1; a correlation is 0. ``classes`` is
    the number of answers, 1 for a regression.
    """
    return {
        name: max(METRICS[name](truth, np.full(len(truth), c)) for c in range(classes))
        for name in names
    }
