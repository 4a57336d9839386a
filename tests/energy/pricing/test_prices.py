from __future__ import annotations

import pytest

from spikeformers.energy import PAPER
from spikeformers.energy.pricing.paper_sum import ADD_FP32, MAC_FP32, MULT_FP32


def test_a_mac_is_one_multiplication_and_one_addition() -> None:
    assert (ADD_FP32.picojoules, MULT_FP32.picojoules, MAC_FP32.picojoules) == (0.9, 3.7, 4.6)
    assert MAC_FP32.picojoules == pytest.approx(ADD_FP32.picojoules + MULT_FP32.picojoules)


def test_every_price_names_its_source() -> None:
    costs = [PAPER.accumulate, PAPER.mac, *PAPER.elementwise.values()]
    assert all(cost.source for cost in costs)


def test_operations_are_priced_by_kind() -> None:
    assert PAPER.of_operations({"add": 10, "mult": 2, "lookup": 99}) == pytest.approx(9.0 + 7.4)


def test_an_operation_without_a_price_is_an_error_not_free() -> None:
    with pytest.raises(KeyError):
        PAPER.of_operations({"teleport": 1})
