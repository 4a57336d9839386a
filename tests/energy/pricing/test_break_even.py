from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from spikeformers.energy import FP16, INT8, Phase, break_even, ledger_of, load_table, trace
from spikeformers.energy.pricing.break_even import curve_of, density_at, most_times, solve

Make = Callable[..., Any]
TABLE = load_table("horowitz45")
PHASE = Phase("decode", 7, 1)


def test_a_line_meets_a_limit_where_it_does() -> None:
    verdict, times = solve(lambda f: 10 + 3 * f, 16, 8)
    assert (verdict, times) == ("below", pytest.approx(2))
    assert solve(lambda f: 10 + 3 * f, 10, 8) == ("never", None)
    assert solve(lambda f: 10 + 3 * f, 40, 8) == ("always", None)


def test_at_the_break_even_both_cost_the_same(spiking: Make, ids: Tensor) -> None:
    counted = trace(spiking("wd"), ids)
    now = ledger_of(counted, INT8, PHASE, TABLE).picojoules
    silent = ledger_of(counted, INT8, PHASE, TABLE, spikes=0.0).picojoules
    dense = now + 0.3 * (now - silent)
    even = break_even(counted, INT8, PHASE, TABLE, FP16, dense)
    assert even.verdict == "below"
    assert even.ratio == pytest.approx(now / dense)
    assert even.times is not None
    assert even.times > 1
    cost = ledger_of(counted, INT8, PHASE, TABLE, spikes=even.times).picojoules
    assert cost == pytest.approx(dense, rel=1e-9)
    assert even.density == pytest.approx(density_at(counted, even.times))
    assert even.text.startswith("less below a density of 0.")


@pytest.mark.parametrize(
    ("times", "verdict", "text"),
    [(0.5, "never", "never less"), (1e6, "always", "always less, even if every neuron fired")],
)
def test_plain_answers(spiking: Make, ids: Tensor, times: float, verdict: str, text: str) -> None:
    counted = trace(spiking("wd"), ids)
    silent = ledger_of(counted, INT8, PHASE, TABLE, spikes=0.0).picojoules
    even = break_even(counted, INT8, PHASE, TABLE, FP16, silent * times)
    assert (even.verdict, even.density, even.times) == (verdict, None, None)
    assert even.text.startswith(text)


def test_energy_rises_with_density_up_to_all_firing(spiking: Make, ids: Tensor) -> None:
    counted = trace(spiking("wd", attention="ssa"), ids)
    most = most_times(counted)
    costs = curve_of(counted, INT8, PHASE, TABLE, [0.0, 0.5, 1.0, 2.0, most, 2 * most])
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(costs[-2])
    assert density_at(counted, 0.0) == 0
    measured = [layer.density for layer in counted.neurons.values()]
    assert density_at(counted, 1.0) == pytest.approx(sum(measured) / len(measured))
    assert density_at(counted, most) == pytest.approx(1)
