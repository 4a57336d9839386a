"""The frontier's curves, ratios and table, on numbers made up here."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The script and the module of its mathematics, imported as a run imports them."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield SimpleNamespace(
            curves=importlib.import_module("_frontier"), main=importlib.import_module("frontier")
        )
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_curve_is_linear_in_log_speed_and_ends_with_its_points(scripts: Any) -> None:
    curve = [(2.0, math.log(400)), (1.5, math.log(100))]
    assert scripts.curves.speed_at(curve, 1.75) == pytest.approx(math.log(200))
    assert scripts.curves.speed_at(curve, 1.5) == pytest.approx(math.log(100))
    assert scripts.curves.speed_at(curve, 1.49) is None
    assert scripts.curves.speed_at(curve, 2.01) is None
    assert scripts.curves.speed_at([], 1.5) is None


def test_a_size_that_is_worse_and_slower_than_another_is_not_on_the_curve(scripts: Any) -> None:
    curve = scripts.curves.frontier([(1.0, 1.0), (2.0, 0.0), (1.5, 2.0), (1.5, 1.5), (3.0, 5.0)])
    assert curve == [(1.0, 1.0), (1.5, 2.0), (3.0, 5.0)]
    assert scripts.curves.speed_at([(1.0, 1.0), (2.0, 0.0), (3.0, 5.0)], 2.0) == 3.0


def test_a_ratio_compares_at_equal_quality_and_not_at_equal_size(scripts: Any) -> None:
    point = scripts.curves.Point("b", (1.75,), ((800.0, 800.0, 800.0),))
    others = [
        scripts.curves.Point("a", (2.0,), ((400.0,) * 3,)),
        scripts.curves.Point("b", (1.5,), ((100.0,) * 3,)),
    ]
    ratio = scripts.curves.ratio_at(point, others, draws=50)
    assert ratio.value == pytest.approx(4.0)
    assert ratio.low == pytest.approx(4.0)
    assert ratio.high == pytest.approx(4.0)
    assert ratio.inside == 1.0
    assert scripts.curves.shown(ratio) == "4.00 (4.00 to 4.00; one seed)"


def test_nothing_is_said_about_a_quality_that_the_other_program_does_not_have(scripts: Any) -> None:
    point = scripts.curves.Point("b", (1.2,), ((800.0,),))
    others = [scripts.curves.Point("a", (2.0, 2.1), ((400.0,),))]
    ratio = scripts.curves.ratio_at(point, others)
    assert (ratio.value, ratio.low, ratio.high) == (None, None, None)
    assert scripts.curves.shown(ratio) == "no size of this quality"


def test_uncertainty_comes_from_seeds_and_from_turns(scripts: Any) -> None:
    Point, ratio_at = scripts.curves.Point, scripts.curves.ratio_at
    others = [Point("a", (3.0,), ((400.0,) * 3,)), Point("b", (1.0,), ((100.0,) * 3,))]
    by_turns = ratio_at(Point("b", (2.0,), ((700.0, 800.0, 900.0),)), others, draws=400)
    assert by_turns.value == pytest.approx(4.0)
    assert by_turns.low == pytest.approx(3.5)
    assert by_turns.high == pytest.approx(4.5)
    by_seeds = ratio_at(Point("b", (1.8, 2.2), ((800.0,) * 3,)), others, draws=400)
    assert by_seeds.value == pytest.approx(4.0)
    assert by_seeds.low == pytest.approx(8 / 4**0.6)
    assert by_seeds.high == pytest.approx(8 / 4**0.4)
    assert by_seeds.seeds == 1  # of the other program


def test_only_the_sizes_beside_it_count_for_the_seeds_of_a_ratio(scripts: Any) -> None:
    Point, ratio_at = scripts.curves.Point, scripts.curves.ratio_at
    others = [
        Point("a", (3.0, 3.0), ((400.0,),)),
        Point("b", (2.0, 2.0, 2.0), ((200.0,),)),
        Point("c", (1.0,), ((100.0,),)),
        Point("worse and slower", (2.5,), ((50.0,),)),
    ]
    assert ratio_at(Point("x", (2.5,) * 3, ((800.0,),)), others).seeds == 2
    assert ratio_at(Point("x", (1.5,) * 3, ((800.0,),)), others).seeds == 1
    assert ratio_at(Point("x", (2.0,) * 3, ((800.0,),)), others[:2]).seeds == 3


def test_turns_are_resampled_together(scripts: Any) -> None:
    """A machine that was slow in one turn was slow for both programs."""
    Point = scripts.curves.Point
    turns = (100.0, 200.0, 400.0)
    point = Point("a", (1.0,), (tuple(3 * rate for rate in turns),))
    ratio = scripts.curves.ratio_at(point, [Point("a", (1.0,), (turns,))], draws=100)
    assert ratio.low == pytest.approx(3.0)
    assert ratio.high == pytest.approx(3.0)


def test_draws_beyond_the_sizes_are_counted(scripts: Any) -> None:
    Point = scripts.curves.Point
    others = [Point("a", (2.0, 2.0), ((1.0,),)), Point("b", (1.0, 1.0), ((1.0,),))]
    ratio = scripts.curves.ratio_at(Point("b", (1.9, 2.1), ((5.0,),)), others, draws=400)
    assert ratio.value == pytest.approx(5.0)
    assert 0.6 < ratio.inside < 0.9  # one draw of four takes 2.1 twice
    assert "of draws beyond the sizes" in scripts.curves.shown(ratio)


def test_a_spiking_model_has_a_speed_per_seed_and_a_dense_one_has_one_for_all(scripts: Any) -> None:
    bits = {"spiking": {"s": {0: 1.0, 1: 1.1, 2: 1.2}}, "dense": {"s": {0: 0.9, 1: 0.8}}}
    timed = [
        {"size": "s", "program": "E", "kind": "spiking", "seed": 0, "tokens_per_second": [5, 6]},
        {"size": "s", "program": "E", "kind": "spiking", "seed": 2, "tokens_per_second": [7, 8]},
        {"size": "s", "program": "L", "kind": "dense", "seed": 0, "tokens_per_second": [1, 2]},
    ]
    curves = scripts.curves.curves_of(bits, timed)
    assert curves["E"] == [scripts.curves.Point("s", (1.0, 1.2), ((5, 6), (7, 8)))]
    assert curves["L"] == [scripts.curves.Point("s", (0.9, 0.8), ((1, 2),))]


def result(row: str, rate: float, loss: float, seed: int = 0) -> dict[str, Any]:
    """A finished row, as a run leaves it."""
    return {
        "row": row,
        "seed": seed,
        "learning_rate": rate,
        "validation_loss": loss,
        "perplexity": {"bits_per_byte": loss / 2},
        "parameters": 1000,
        "decode_picojoules": 2e6,
        "commit": "abc",
        "torch": "2",
        "setting": {
            **{"steps": 5, "batch": 2, "context": 8},
            **{"tokenizer": "bpe:4096", "head_width": 32},
        },
    }


def test_a_search_begins_where_the_smaller_model_of_its_kind_ended(scripts: Any) -> None:
    results = [
        result("64x3, dense twin", 2e-2, 3.0),
        result("64x3, dense twin", 1e-2, 3.1),
        result("128x4, dense twin", 1e-2, 2.9),
        result("384x8, dense twin", 1.0, 2.9),
        result("64x3, budget 0.35", 4e-2, 3.0),
    ]
    assert scripts.main.start("96x3, dense twin", results) == (2e-2,)  # 2e-2 * sqrt(64 / 96)
    assert scripts.main.start("384x8, dense twin", results) == (5e-3,)  # from 128, not from 64
    assert scripts.main.start("64x3, dense twin", results) == ()
    assert scripts.main.start("64x3, budget 0.15", results) == ()


def test_every_size_has_heads_of_one_width(scripts: Any) -> None:
    for width, _ in scripts.main.SIZES.values():
        assert width % scripts.main.HEAD_WIDTH == 0


def test_the_table_has_speeds_ratios_and_reasons(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = {"64x3": (2.0, 400.0), "96x3": (1.5, 100.0)}
    results, timed = [], []
    for size, (bits, rate) in sizes.items():
        for kind, program, speed in (
            ("dense twin", "llama.cpp Q8_0", rate),
            ("dense twin", "llama.cpp Q8_0, read", rate / 2),
            ("budget 0.35", "engine, spiking, budget 0.35, int8", rate * 8),
        ):
            results.append(result(f"{size}, {kind}", 1e-2, 2 * bits))
            timed.append(
                {"size": size, "kind": kind, "seed": 0, "program": program, "read": 0.25}
                | {"tokens_per_second": [speed, speed, speed]}
            )
    record = {
        **{"rows": timed, "skipped": {"96x3, CTranslate2": "not installed"}, "machine": {}},
        **{"prompt_tokens": 32, "new_tokens": 200, "kernels": "avx2"},
    }
    monkeypatch.setattr(scripts.main, "load_speed", lambda sweep, name: record)
    monkeypatch.setattr(scripts.main, "ASSETS", tmp_path)
    text = scripts.main.table("toy", results)
    assert "| 96x3 | spiking, budget 0.35 | 1,000 |" in text
    assert "800 (800 to 800)" in text
    assert "Left out: 96x3, CTranslate2: not installed." in text
    ratios = text.partition("at equal bits per byte")[2]
    assert "| budget 0.35 | 96x3 | 1.500 | 8.00 (8.00 to 8.00; one seed) |" in ratios
    assert (tmp_path / "frontier-toy.png").stat().st_size > 1000
