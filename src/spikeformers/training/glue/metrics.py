"""Scores of sentence tasks, as scikit-learn and scipy define them.

    accuracy   share that is right            f1        2 tp / (2 tp + fp + fn), of class 1
    matthews   correlation of two labellings  pearson   correlation of two lists of numbers
    spearman   Pearson's, of their ranks, ties sharing their mean

Where a quotient is 0/0 (one class only, a constant prediction) the score is 0, as GLUE's
leaderboard has it; scipy's correlations give no number there.
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
    """Of class 1."""
    true, said = np.asarray(truth) == 1, np.asarray(guess) == 1
    both = int((true & said).sum())
    return _ratio(2 * both, int(true.sum()) + int(said.sum()))


def matthews(truth: Labels, guess: Labels) -> float:
    """For any number of classes (Gorodkin 2004)."""
    true, said = np.asarray(truth), np.asarray(guess)
    classes = np.union1d(true, said)
    one, two = (np.array([(x == c).sum() for c in classes], float) for x in (true, said))
    n, right = len(true), float((true == said).sum())
    spread = math.sqrt(n**2 - one @ one) * math.sqrt(n**2 - two @ two)
    return _ratio(right * n - float(one @ two), spread)


def pearson(truth: Labels, guess: Labels) -> float:
    """Linear correlation."""
    one, two = (np.asarray(x, dtype=np.float64) for x in (truth, guess))
    one, two = one - one.mean(), two - two.mean()
    return _ratio(float(one @ two), float(np.linalg.norm(one) * np.linalg.norm(two)))


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
    """Of each metric, the most that one and the same answer to all examples scores.

    The commonest class for accuracy, class 1 for F1; 0 for a correlation. ``classes``: how many
    answers there are, 1 for numbers.
    """
    return {
        name: max(METRICS[name](truth, np.full(len(truth), c)) for c in range(classes))
        for name in names
    }
