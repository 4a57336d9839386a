"""The claims that rest on the frontier: speed at equal bits per byte, and at equal size."""

from __future__ import annotations

import math
from collections.abc import Iterator

from _claims import Line, load, seeds_of
from _frontier import Point, Ratio, curves_of, ratio_at
from _frontier_rows import CLAIMED, LLAMA, TWIN, spiking_program
from frontier import bits_of, fastest_setting


def at_equal_quality() -> tuple[Point, dict[str, Ratio], dict[str, Point]] | None:
    """The largest size of CLAIMED whose quality dense twins have too; and for llama.cpp and the
    dense twin in the engine the ratio at equal bits per byte and the point of the same size. None
    without results.
    """
    results, speed = load("frontier-books"), load("frontier-books-speed")
    if not results or not speed:
        return None
    curves = curves_of(bits_of(results), fastest_setting(speed["rows"]))
    for point in reversed(curves.get(spiking_program(CLAIMED), [])):
        ratios = {program: ratio_at(point, curves[program]) for program in (LLAMA, TWIN)}
        if all(ratio.value is not None and ratio.low is not None for ratio in ratios.values()):
            same = {
                program: next(each for each in curves[program] if each.size == point.size)
                for program in ratios
            }
            return point, ratios, same
    return None


def frontier() -> Iterator[Line]:
    """A spiking model trained from scratch, at equal quality and at equal size."""
    if (compared := at_equal_quality()) is None:
        return
    point, ratios, same = compared
    bits, speed = point.at()
    names = {LLAMA: LLAMA, TWIN: "its dense twin in the engine"}
    equal = " and ".join(
        f"{ratio.value:.1f} ({ratio.low:.1f} to {ratio.high:.1f}) times {names[program]}"
        for program, ratio in ratios.items()
    )
    times = " and ".join(f"{math.exp(speed - each.at()[1]):.1f}" for each in same.values())
    rates = " and ".join(f"{math.exp(each.at()[1]):,.0f}" for each in same.values())
    fewest = min(ratio.seeds for ratio in ratios.values())
    yield (
        f"frontier: {point.size} trained on books, {CLAIMED}, decode, one thread",
        f"{bits:.3f} bits/byte, {math.exp(speed):,.0f} tokens/s",
        f"at equal bits per byte {equal}, {seeds_of(fewest)}; at equal size {times} times "
        f"({rates} tokens/s)",
    )
