"""What guessing scores: the line that a zero-shot score has to be read against.

    chance      mean over documents of 1 / options: any option, drawn evenly
    majority    share of the documents whose answer stands at the commonest place (BoolQ: "always
                yes"); none where the answer stands at one place by construction (BLiMP, SciQ)
    LAMBADA     chance is 0 (any word may follow), majority the share of the commonest word

A score within two standard errors of chance is marked: it cannot be told from guessing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: sample deviation over sqrt(n), as the harness has it; 0 for one value."""
    n = len(values)
    if n < 2:
        return 0.0
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1)) / math.sqrt(n)


def baselines(golds: Sequence[tuple[Any, int]]) -> tuple[float | None, float | None]:
    """``(chance, majority)`` of an accuracy, from ``(answer, number of options)`` a document.

    An answer is the place of the right option, or with one option the text to be written. Both
    are None where answers are neither (several right ones).
    """
    if not golds:
        return None, None
    answers = Counter(str(answer) for answer, _ in golds)
    commonest = answers.most_common(1)[0][1] / len(golds)
    if all(options == 1 for _, options in golds):
        return 0.0, commonest
    if not all(isinstance(answer, int) for answer, _ in golds):
        return None, None
    chance = sum(1 / options for _, options in golds) / len(golds)
    return chance, None if len(answers) == 1 else commonest


def at_chance(score: float, error: float, chance: float | None) -> bool | None:
    """Whether the score lies within two standard errors of chance."""
    return None if chance is None else abs(score - chance) <= 2 * error


def mean_accuracy(ones: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several tasks' accuracies as one, each of equal weight: value, error, chance and majority.

    The error is that of a mean of independent scores. Chance and majority are None where one
    task has none.
    """

    def mean(key: str) -> float | None:
        values = [one[key] for one in ones]
        return None if None in values else sum(values) / len(ones)

    value = sum(one["value"] for one in ones) / len(ones)
    error = math.sqrt(sum(one["stderr"] ** 2 for one in ones)) / len(ones)
    chance = mean("chance")
    return {
        "value": value,
        "stderr": error,
        "chance": chance,
        "majority": mean("majority"),
        "at_chance": at_chance(value, error, chance),
    }
