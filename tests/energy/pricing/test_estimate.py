from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from spikeformers.energy import FP16, INT8, Phase, load_table, trace
from spikeformers.energy.pricing.estimate import Pair, swings_of

TABLE = load_table("horowitz45")


@pytest.fixture
def pair(spiking: Callable[..., Any], dense: Callable[..., Any], ids: Tensor) -> Pair:
    phase = Phase("prefill", 7, 4)
    return Pair(trace(spiking("wd"), ids), INT8, trace(dense("wd"), ids), FP16, phase)


def test_each_swing_is_the_ratio_priced_again(pair: Pair) -> None:
    ratio = pair.ratio(TABLE)
    swings = {swing.name: swing for swing in swings_of(pair, TABLE)}
    assert swings["multiply fp16"].high == pair.ratio(TABLE.scaled("multiply fp16", 2.0))
    # Only the twin multiplies in fp16: dearer multiplications are in the spiking model's favour.
    assert swings["multiply fp16"].high < ratio < (swings["multiply fp16"].low or 0)
    assert swings["weights in DRAM"].low is None
    assert {"tiles of 1", "tiles of 2", "a count is one multiplication"} <= set(swings)
    widths = [swing.width(ratio) for swing in swings.values()]
    assert widths == sorted(widths, reverse=True)


def test_all_prices_doubled_leave_the_ratio(pair: Pair) -> None:
    table = TABLE
    for key in TABLE.keys:
        table = table.scaled(key, 2.0)
    assert pair.ratio(table) == pytest.approx(pair.ratio(TABLE))


def test_a_price_that_nothing_hangs_on_is_left_out(pair: Pair) -> None:
    assert "add int8" not in {swing.name for swing in swings_of(pair, TABLE)}
