"""The script for a GPU: its bars and tables, by numbers made up here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # the script imports its neighbour
        spec.loader.exec_module(module)
    return module


def taken(ms: float, mb: float = 1.0) -> dict[str, float]:
    return {"ms": ms, "mb": mb}


def record(**changes: Any) -> dict[str, Any]:
    return {
        "dry": False,
        "steps": [{"preset": "0.4b", "ratio": 1.1}],
        "attention": [
            {"tokens": 8192, "sdpa": taken(2.0), "wta": taken(2.5), "wta, naive": taken(50.0)},
            {"tokens": 16384, "wta": taken(9.0, 100.0)},
            {"tokens": 32768, "wta": taken(40.0, 300.0)},
        ],
        **changes,
    }


def test_bars_are_ratios_of_what_was_measured(script: ModuleType) -> None:
    values = list(script.bars(record()).values())
    assert [bar["value"] for bar in values] == [1.1, 20.0, 1.25, 3.0]
    assert [bar["met"] for bar in values] == [True, True, True, False]


def test_what_was_not_measured_meets_no_bar_and_a_dry_run_none_at_all(script: ModuleType) -> None:
    nothing = [{"value": None, "met": None}] * 4
    assert list(script.bars({"dry": False}).values()) == nothing
    assert list(script.bars(record(dry=True)).values()) == nothing


def test_the_page_has_a_row_per_measurement_and_the_failures(script: ModuleType) -> None:
    page = script.page(
        {
            "title": "A machine", "kernels": "triton", "torch": "2", "dry": False,
            "attention": [{"tokens": 512, "sdpa": taken(1.5, 12.0), "wta": None}],
            "failures": {"steps": "RuntimeError: no memory"},
        }
    )  # fmt: skip
    assert "| 512 | 1.5 ms, 12 MB | - |" in page
    assert "- steps: RuntimeError: no memory" in page
