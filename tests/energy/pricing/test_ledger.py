from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from spikeformers.energy import (
    FP32,
    INT8,
    Phase,
    Work,
    energy_of,
    ledger_of,
    load_table,
    read_table,
    trace,
)
from spikeformers.energy.pricing.ledger import Ledger, Placing, price
from spikeformers.errors import ConfigError

Make = Callable[..., Any]
TABLE = load_table("horowitz45")
LINES = [
    Work("mlp", 0, "up", "add", "int32", 10),
    Work("mlp", 0, "up", "read", "weights", 640, size=8 * 8192),
    Work("head", None, "head", "read", "weights", 128, size=8 * 2**21),
    Work("head", None, "head", "read", "register", 64),
    Work("norms", 1, "norms", "function", "fp32", 2),
]


def ledger(lines: list[Work] = LINES, **changed: Any) -> Ledger:
    return Ledger(Phase("decode", 8, 1), FP32, tuple(price(lines, TABLE, **changed)))


def test_prices_by_hand() -> None:
    costs = ledger()
    # 10 x 0.1; ten 8-KB reads of 10 pJ; two of DRAM; one register; two functions.
    assert [line.picojoules for line in costs.lines] == pytest.approx([1, 100, 2600, 4, 7.4])
    assert [line.place for line in costs.lines] == [
        "add int32", "SRAM 8 KB", "DRAM", "register", "function fp32",
    ]  # fmt: skip
    assert costs.picojoules == pytest.approx(2712.4)
    assert (costs.compute, costs.memory) == (pytest.approx(8.4), 2704)
    assert costs.by_component() == pytest.approx({"mlp": 101, "head": 2604, "norms": 7.4})
    assert costs.by_layer() == pytest.approx({"0": 101, "1": 7.4, "outside": 2604})
    assert costs.by_part() == pytest.approx({"arithmetic": 8.4, "weights": 2700, "register": 4})
    assert costs.bits_by_store() == {"weights": 768, "register": 64}
    assert costs.homes() == {"weights": ["SRAM 8 KB", "DRAM"], "register": ["register"]}
    assert costs.operations() == {"add int32": 10, "function fp32": 2}


def test_a_store_by_decree() -> None:
    costs = ledger(placing=Placing(weights="SRAM 1 MB"))
    assert [line.place for line in costs.lines[1:3]] == ["SRAM 1 MB"] * 2
    assert costs.lines[1].picojoules == 1000


def test_membranes_stay_in_registers_unless_decreed() -> None:
    state = [Work("neurons", 0, "fire", "read", "state", 64, size=8 * 2**30)]
    assert ledger(state).lines[0].place == "register"
    assert ledger(state, placing=Placing(state="DRAM")).lines[0].place == "DRAM"


def test_a_missing_price_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no price for add int16.*Add compute\.add\.int16"):
        ledger([Work("mlp", 0, "up", "add", "int16", 10)])


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("phase", [Phase("decode", 7, 1), Phase("prefill", 20, 4)])
def test_the_parts_add_up_to_the_total(spiking: Make, ids: Tensor, kind: str, phase: Phase) -> None:
    for overrides in ({}, {"neuron": "lif", "steps": 3, "attention": "ssa"}):
        counted = trace(spiking(kind, **overrides), ids)
        for precision in (FP32, INT8):
            ledger = ledger_of(counted, precision, phase, TABLE)
            assert ledger.compute + ledger.memory == pytest.approx(ledger.picojoules)
            for parts in (
                ledger.by_component(),
                ledger.by_layer(),
                ledger.by_part(),
                ledger.by_place(),
            ):
                assert sum(parts.values()) == pytest.approx(ledger.picojoules)
            assert all(line.picojoules >= 0 for line in ledger.lines)


def test_without_prices_of_memory_and_other_work_it_is_the_papers_sum(
    spiking: Make, dense: Make, ids: Tensor
) -> None:
    """Every type at fp32's price, all else free: 4.6 and 0.9 pJ, from a second path of code."""
    import re
    from importlib import resources

    text = (
        resources.files("spikeformers.energy.pricing") / "price_tables" / "horowitz45.yaml"
    ).read_text()
    head, memory = text.split("memory:")
    memory = re.sub(r"energy: [\d.]+ pJ", "energy: 0 pJ", memory)
    head = head.replace("0.1 pJ", "0.9 pJ").replace("0.00375 pJ", "0 pJ")
    table = read_table(f"{head}memory:{memory}", "papers")
    # Tiles of one and the window's length; the head at every token, as the papers have it.
    phase = Phase("pass", 7, 1)
    for model in (spiking("we"), dense("we")):
        paper = energy_of(model, [ids])
        costs = ledger_of(trace(model, ids), FP32, phase, table)
        products = {product.name for product in paper.products}
        summed = sum(
            line.picojoules
            for line in costs.lines
            if line.work.name in products and line.work.kind in ("add", "multiply")
        )
        assert summed == pytest.approx(paper.picojoules_per_token)
