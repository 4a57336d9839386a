"""The curves of the quality table, on numbers made up here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("quality")
    finally:
        sys.path.remove(str(BENCHMARKS))


def run(row: str, seed: int, rate: float, *losses: float) -> dict[str, Any]:
    curve = {str(400 * number): loss for number, loss in enumerate(losses, 1)}
    chosen = {"learning_rate": rate, "validation_loss": losses[-1]}
    return {"row": row, "seed": seed, "validation_by_step": curve, **chosen}


def test_curves_stand_side_by_side_at_the_chosen_rates(script: Any) -> None:
    twin, spiking = "dense-rotary", "dead zones, budget 0.35"
    results = [
        run(twin, 0, 5e-3, 5.0, 4.0),
        run(twin, 1, 5e-3, 5.2, 4.2),
        run(twin, 0, 1e-2, 9.0, 8.0),
        run(spiking, 0, 5e-3, 5.5, 4.25),
    ]
    lines = script.curve_table(results).splitlines()
    assert lines[0] == "| validation nats/token at step | 400 | 800 |"
    assert lines[2:] == [
        "| dense twin, rotary positions | 5.100 ± 0.141 | 4.100 ± 0.141 |",
        "| spiking, dead zones, one winner, budget 0.35 | 5.500 | 4.250 |",
    ]


def test_one_curve_alone_is_no_comparison(script: Any) -> None:
    assert script.curve_table([run("dense-rotary", 0, 5e-3, 5.0, 4.0)]) == ""
