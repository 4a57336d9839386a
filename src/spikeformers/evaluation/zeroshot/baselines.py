"""The scores of guessing, to compare zero-shot scores with.

    chance      mean over documents of 1 / options: a uniformly random option
    majority    share of the documents with the most common answer position (BoolQ: "always yes");
                none if the answer always has the same position by construction (BLiMP, SciQ)
    LAMBADA     chance is 0 (any word may follow), majority the share of the most common word

A score within two standard errors of chance is marked: it cannot be distinguished from guessing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean, from the sample deviation as in the harness; 0 for one value."""
    n = len(values)
    if n < 2:
        return 0.0
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1)) / math.sqrt(n)


def baselines(golds: Sequence[tuple[Any, int]]) -> tuple[float | None, float | None]:
    """``(chance, majority)`` of an accuracy, from ``(answer, number of options)`` per document.

    An answer is the position of the correct option, or the text to be generated if there is one
    option. Both results are None if answers are neither (several correct options).
    """
    if not golds:
        return None, None
    answers = Counter(str(answer) for answer, _ in golds)
    most_common = answers.most_common(1)[0][1] / len(golds)
    if all(options == 1 for _, options in golds):
        return 0.0, most_common
    if not all(isinstance(answer, int) for answer, _ in golds):
        return None, None
    chance = sum(1 / options for _, options in golds) / len(golds)
    return chance, None if len(answers) == 1 else most_common


def at_chance(score: float, error: float, chance: float | None) -> bool | None:
    """Whether the score lies within two standard errors of chance."""
    return None if chance is None else abs(score - chance) <= 2 * error


def mean_accuracy(accuracies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over tasks with equal weights: value, error, chance and majority.

    The error is that of a mean of independent scores. Chance and majority are None if a task has
    none.
    """
    number = len(accuracies)

    def mean(key: str) -> float | None:
        values = [accuracy[key] for accuracy in accuracies]
        return None if None in values else sum(values) / number

    value = sum(accuracy["value"] for accuracy in accuracies) / number
    error = math.sqrt(sum(accuracy["stderr"] ** 2 for accuracy in accuracies)) / number
    chance = mean("chance")
    return {
        "value": value,
        "stderr": error,
        "chance": chance,
        "majority": mean("majority"),
        "at_chance": at_chance(value, error, chance),
    }
