"""Sensitivity of the ratio of spiking to dense energy to one price or assumption at a time.

Each price of the table is doubled and halved; each assumption is replaced by its alternative. The
ratio is the spiking model's energy over the dense one's, both priced again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from spikeformers.energy.counting.trace import Trace
from spikeformers.energy.pricing.ledger import Placing, ledger_of
from spikeformers.energy.pricing.precision import Precision
from spikeformers.energy.pricing.price_table import PriceTable
from spikeformers.energy.pricing.work_items import Phase
from spikeformers.energy.pricing.workload import Assumptions

SMALL = 1e-4  # smaller relative changes of the ratio are left out


@dataclass(frozen=True)
class Swing:
    """The ratio after one change; ``low`` is None for an assumption."""

    name: str
    kind: str
    """"price" (low: halved, high: doubled) or "assumption" (high: the alternative)."""
    low: float | None
    high: float

    def width(self, ratio: float) -> float:
        """The largest factor by which the change moves ``ratio``, at least 1."""
        ends = [self.high, ratio if self.low is None else self.low]
        return max(max(ends) / ratio, ratio / min(ends))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "kind": self.kind, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Pair:
    """A spiking model and a dense one in one phase, and how to price them."""

    spiking: Trace
    spiking_format: Precision
    dense: Trace
    dense_format: Precision
    phase: Phase

    def ratio(
        self,
        table: PriceTable,
        assumptions: Assumptions | None = None,
        placing: Placing | None = None,
        dense_format: Precision | None = None,
        phase: Phase | None = None,
    ) -> float:
        """Energy of the spiking model over the dense one's."""
        phase = phase or self.phase
        spiking, dense = (
            ledger_of(
                trace, precision, phase, table, assumptions=assumptions, placing=placing
            ).picojoules
            for trace, precision in (
                (self.spiking, self.spiking_format),
                (self.dense, dense_format or self.dense_format),
            )
        )  # fmt: skip
        return spiking / dense


def swings_of(pair: Pair, table: PriceTable) -> list[Swing]:
    """All changes that move the ratio, the largest first."""
    ratio = pair.ratio(table)
    swings = [
        Swing(key, "price", pair.ratio(table.scaled(key, 0.5)), pair.ratio(table.scaled(key, 2.0)))
        for key in table.keys
    ]
    swings += _readings(pair, table)
    moving = [swing for swing in swings if swing.width(ratio) > 1 + SMALL]
    return sorted(moving, key=lambda swing: -swing.width(ratio))


def _readings(pair: Pair, table: PriceTable) -> Iterator[Swing]:
    chip, last = table.memory[-2].name, table.memory[-1].name

    def swing(name: str, **changed: Any) -> Swing:
        return Swing(name, "assumption", None, pair.ratio(table, **changed))

    for level in (chip, last):
        yield swing(f"weights in {level}", placing=Placing(weights=level))
        yield swing(f"cache in {level}", placing=Placing(cache=level))
        yield swing(f"activations in {level}", placing=Placing(activations=level))
    yield swing(f"membranes in {chip}", placing=Placing(state=chip))
    yield swing("a count is one multiplication", assumptions=Assumptions(counts="multiplication"))
    yield swing("a sparse read costs twice", assumptions=Assumptions(sparse=2.0))
    yield swing(
        "twin's keys and values in int8", dense_format=replace(pair.dense_format, cache="int8")
    )
    if pair.phase.tile > 1:
        for tile in (1, pair.phase.tile // 2):
            yield swing(f"tiles of {tile}", phase=replace(pair.phase, tile=tile))
