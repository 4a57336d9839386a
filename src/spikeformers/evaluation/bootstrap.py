"""Paired bootstrap: is a difference on the same examples larger than chance?

Examples are drawn with replacement, the same for both models; the interval holds the middle 95 % of
the resulting differences (Koehn 2004, https://aclanthology.org/W04-3250). It covers the
choice of examples, not the variation between training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import DataError

DRAWS = 2000
PIECE = 1 << 22  # random numbers drawn at a time


@dataclass(frozen=True)
class Difference:
    """Score of the second model minus that of the first."""

    difference: float
    low: float
    high: float
    examples: int
    draws: int

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return not self.low <= 0 <= self.high

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"clear": self.clear}


def paired_means(
    first: Sequence[float], second: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """The difference of scores that are means over examples."""
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    size = len(differences)
    means = [differences[chosen].mean(-1) for chosen in _samples(size, draws, seed)]
    return _interval(float(differences.mean()), np.concatenate(means), size)


def paired_metric(
    metric: Callable[[Any, Any], float],
    labels: Sequence[float],
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """The difference of a metric of labels and predictions, averaged over each model's seeds."""
    truth = np.asarray(labels)
    both = np.asarray(first), np.asarray(second)

    def difference(chosen: Any) -> float:
        means = [np.mean([metric(truth[chosen], run[chosen]) for run in runs])
                 for runs in both]  # fmt: skip
        return float(means[1] - means[0])

    differences = [difference(row) for rows in _samples(len(truth), draws, seed) for row in rows]
    return _interval(difference(slice(None)), np.array(differences), len(truth))


def _samples(size: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    if size == 0 or draws < 1:
        raise DataError(f"nothing to draw from: {size} examples, {draws} draws.")
    draw = np.random.Generator(np.random.Philox(seed))
    at_once = max(1, PIECE // size)
    for done in range(0, draws, at_once):
        yield draw.integers(0, size, (min(at_once, draws - done), size))


def _interval(value: float, differences: NDArray[np.float64], size: int) -> Difference:
    low, high = np.quantile(differences, [0.025, 0.975])
    return Difference(value, float(low), float(high), size, len(differences))
