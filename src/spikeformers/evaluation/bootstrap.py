"""Paired bootstrap: is a difference on the same examples more than their chance?

Examples are drawn with replacement, the same for both models; the interval holds the middle 95 % of
the differences so found (Koehn 2004, https://aclanthology.org/W04-3250). It says what another
sample of examples would have changed, not what another seed of training would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import DataError

DRAWS = 2000
PIECE = 1 << 22  # random numbers at once


@dataclass(frozen=True)
class Difference:
    """Score of the second model less that of the first."""

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
    """Of scores that are means over examples."""
    apart = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    found = [apart[chosen].mean(-1) for chosen in _samples(len(apart), draws, seed)]
    return _interval(float(apart.mean()), np.concatenate(found), len(apart))


def paired_metric(
    metric: Callable[[Any, Any], float],
    labels: Sequence[float],
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Of a metric of labels and predictions, a mean over runs (seeds) of each model."""
    truth = np.asarray(labels)
    ones, twos = np.asarray(first), np.asarray(second)

    def apart(chosen: Any) -> float:
        means = [np.mean([metric(truth[chosen], run[chosen]) for run in runs])
                 for runs in (ones, twos)]  # fmt: skip
        return float(means[1] - means[0])

    found = [apart(row) for rows in _samples(len(truth), draws, seed) for row in rows]
    return _interval(apart(slice(None)), np.array(found), len(truth))


def _samples(size: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    if size == 0 or draws < 1:
        raise DataError(f"there is nothing to draw from: {size} examples, {draws} draws.")
    draw = np.random.Generator(np.random.Philox(seed))
    at_once = max(1, PIECE // size)
    for done in range(0, draws, at_once):
        yield draw.integers(0, size, (min(at_once, draws - done), size))


def _interval(value: float, found: NDArray[np.float64], size: int) -> Difference:
    low, high = np.quantile(found, [0.025, 0.975])
    return Difference(value, float(low), float(high), size, len(found))
