"""Speed at equal quality: curves of log tokens per second over bits per byte, and their ratio.

A program's curve has one point per model size. Between two points the logarithm of the speed is
linear in bits per byte; a size that is both worse and slower than another is not on the curve, for
nobody would run it. Nothing is extrapolated. The ratio's uncertainty is a bootstrap over seeds and
over timed turns; the programs took turns, so a resample takes the same turns of all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Point:
    """One size in one program: bits per byte by seed, and tokens per second by seed and turn.

    Where speed does not depend on the weights, ``speeds`` has one row for all seeds.
    """

    size: str
    bits: tuple[float, ...]
    speeds: tuple[tuple[float, ...], ...]

    def at(
        self, seeds: Sequence[int] | None = None, turns: Sequence[int] | None = None
    ) -> tuple[float, float]:
        """Mean bits per byte and log speed of these seeds; of each seed the median of the turns."""
        chosen = range(len(self.bits)) if seeds is None else seeds
        own = len(self.speeds) == len(self.bits)
        rows = [self.speeds[seed] for seed in chosen] if own else list(self.speeds)
        logs = [
            math.log(statistics.median(row if turns is None else [row[i] for i in turns]))
            for row in rows
        ]
        return statistics.fmean(self.bits[seed] for seed in chosen), statistics.fmean(logs)


@dataclass(frozen=True)
class Ratio:
    """Speed of one program over another's at equal bits per byte; None beyond the other's sizes."""

    value: float | None
    low: float | None = None
    high: float | None = None
    inside: float = 1.0
    """Share of the bootstrap's draws in which the other program has a model of that quality."""
    seeds: int = 1
    """The fewest seeds of a point that the ratio rests on."""


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points sorted by bits per byte, without those that are slower than a better one."""
    kept: list[tuple[float, float]] = []
    for bits, speed in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or speed >= kept[-1][1]:
            kept.append((bits, speed))
    return kept


def speed_at(points: Sequence[tuple[float, float]], bits: float) -> float | None:
    """Log speed of a curve at ``bits`` per byte; None beyond its best and worst point."""
    if not points or not min(points)[0] <= bits <= max(points)[0]:
        return None
    return float(np.interp(bits, *zip(*frontier(points), strict=True)))


def beside(bits: float, others: Sequence[Point]) -> list[Point]:
    """The points of a curve next to ``bits`` on either side, between which it is interpolated."""
    at = {each.at(): each for each in others}
    curve = frontier(list(at))
    right = next((n for n, (quality, _) in enumerate(curve) if quality >= bits), len(curve))
    return [at[point] for point in curve[max(0, right - 1) : right + 1]]


def ratio_at(
    point: Point,
    others: Sequence[Point],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Ratio:
    """How many times as fast ``point`` is as the other program at the same bits per byte."""

    def ratio(ours: tuple[float, float], theirs: list[tuple[float, float]]) -> float | None:
        other = speed_at(theirs, ours[0])
        return None if other is None else math.exp(ours[1] - other)

    value = ratio(point.at(), [other.at() for other in others])
    everything = [point, *others]
    if value is None:
        return Ratio(None)
    seeds = min(len(each.bits) for each in (point, *beside(point.at()[0], others)))
    draw = np.random.default_rng(seed)
    turns = len(point.speeds[0])
    drawn = []
    for _ in range(draws):
        some = draw.integers(0, turns, turns).tolist()
        ours, *theirs = (
            each.at(draw.integers(0, len(each.bits), len(each.bits)).tolist(), some)
            for each in everything
        )
        drawn.append(ratio(ours, theirs))
    inside = [each for each in drawn if each is not None]
    if not inside:
        return Ratio(value, inside=0.0, seeds=seeds)
    edge = 50 * (1 - level)
    low, high = np.percentile(inside, [edge, 100 - edge]).tolist()
    return Ratio(value, low, high, len(inside) / draws, seeds)


def shown(ratio: Ratio) -> str:
    """A ratio for the table: "3.21 (2.90 to 3.55)", with what limits it."""
    if ratio.value is None:
        return "no size of this quality"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f}"
    notes = [] if ratio.seeds > 1 else ["one seed"]
    if ratio.inside < 1:
        notes.append(f"{1 - ratio.inside:.0%} of draws beyond the sizes")
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}" + (
        f"; {', '.join(notes)})" if notes else ")"
    )


def curves_of(
    bits: Mapping[str, Mapping[str, Mapping[int, float]]], timed: Sequence[Mapping[str, Any]]
) -> dict[str, list[Point]]:
    """Program -> its points in the order of ``timed``.

    ``bits``: kind of model -> size -> seed -> bits per byte; ``timed``: rows of the speed run, each
    with size, program, kind, seed and tokens_per_second by turn. A program whose rows are of one
    seed has that speed for all of the kind's seeds; otherwise only seeds that were timed count.
    """
    curves: dict[str, list[Point]] = {}
    for program, size in dict.fromkeys((row["program"], row["size"]) for row in timed):
        rows = [row for row in timed if (row["program"], row["size"]) == (program, size)]
        quality = bits.get(rows[0]["kind"], {}).get(size, {})
        speeds = {row["seed"]: tuple(row["tokens_per_second"]) for row in rows}
        if len(speeds) > 1:
            common = [seed for seed in quality if seed in speeds]
            own = tuple(speeds[seed] for seed in common)
        else:
            common, own = list(quality), tuple(speeds.values())
        if common:
            point = Point(size, tuple(quality[seed] for seed in common), own)
            curves.setdefault(program, []).append(point)
    return curves
