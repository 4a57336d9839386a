"""The distillation's tables, on numbers made up here."""

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
        yield importlib.import_module("distill")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_tokens_for_a_loss_lie_on_the_line_between_two_points(script: Any) -> None:
    curve = [(100, 6.0), (200, 5.0), (300, 4.5)]
    assert script.tokens_to_reach(curve, 5.5) == 150.0
    assert script.tokens_to_reach(curve, 6.5) == 100.0
    assert script.tokens_to_reach(curve, 4.0) is None


def test_speeds_are_medians_with_the_range_of_the_turns(script: Any) -> None:
    record = {
        **{"new_tokens": 200, "prompt_tokens": 32, "kernels": "avx2 (why)", "commit": "abc"},
        "machine": {"processor": "P"},
        "rows": [
            {
                **{"system": "all five terms", "read": 0.25, "density": 0.125},
                "tokens_per_second": [900.0, 1000.0, 1500.0],
            }
        ],
    }
    text = script.speed_table(record)
    assert "| all five terms | 0.250 | 0.125 | 1,000 (900 to 1,500) |" in text
    assert "medians of 3 turns (least to most), P, kernels avx2, commit abc; measured:" in text
