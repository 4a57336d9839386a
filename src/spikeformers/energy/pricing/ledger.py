"""The full estimate: every work item times its price, arithmetic and memory alike.

All joules here are estimates. Counts are exact for the run; the memory traffic follows from the
memory model in workload.py, and the memory that it goes to from the size of the data and the
table's memory hierarchy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spikeformers.energy.counting.trace import COMPONENTS, Trace
from spikeformers.energy.pricing.price_table import Level, PriceTable
from spikeformers.energy.pricing.work_items import STORES, Phase, Precision, WorkItem
from spikeformers.energy.pricing.workload import Assumptions, work_of
from spikeformers.errors import ConfigError


@dataclass(frozen=True)
class Priced:
    """A work item with its price and its cost."""

    work: WorkItem
    place: str
    """The name of the price: a memory level, or an operation such as "add fp32"."""
    picojoules: float


@dataclass(frozen=True)
class Ledger:
    """All costs of one token (image), in one phase and format."""

    phase: Phase
    precision: Precision
    lines: tuple[Priced, ...]

    @property
    def picojoules(self) -> float:
        """Picojoules of all work."""
        return sum(line.picojoules for line in self.lines)

    @property
    def compute(self) -> float:
        """Picojoules of operations."""
        return sum(line.picojoules for line in self.lines if not line.work.is_memory)

    @property
    def memory(self) -> float:
        """Picojoules of reading and writing."""
        return sum(line.picojoules for line in self.lines if line.work.is_memory)

    def by_component(self) -> dict[str, float]:
        """Picojoules by component, in the order of COMPONENTS."""
        sums = self._sum(lambda line: line.work.component)
        return {name: sums[name] for name in COMPONENTS if name in sums}

    def by_layer(self) -> dict[str, float]:
        """Picojoules by block, and "outside"."""
        sums = self._sum(
            lambda line: "outside" if line.work.layer is None else str(line.work.layer)
        )
        numbers = sorted((key for key in sums if key != "outside"), key=int)
        return {key: sums[key] for key in (*numbers, "outside") if key in sums}

    def by_part(self) -> dict[str, float]:
        """Picojoules of "arithmetic" and of each store that is read or written."""
        sums = self._sum(lambda line: line.work.of if line.work.is_memory else "arithmetic")
        return {name: sums[name] for name in ("arithmetic", *STORES) if name in sums}

    def by_place(self) -> dict[str, float]:
        """Picojoules by price: "add fp32", "DRAM" ..."""
        return self._sum(lambda line: line.place)

    def bits_by_store(self) -> dict[str, float]:
        """Bits moved, by store."""
        sums: dict[str, float] = defaultdict(float)
        for line in self.lines:
            if line.work.is_memory:
                sums[line.work.of] += line.work.amount
        return dict(sums)

    def homes(self) -> dict[str, list[str]]:
        """Memory levels that each store is in."""
        levels: dict[str, list[str]] = {}
        for line in self.lines:
            if line.work.is_memory and line.place not in levels.setdefault(line.work.of, []):
                levels[line.work.of].append(line.place)
        return levels

    def operations(self) -> dict[str, float]:
        """Numbers of operations by kind and type."""
        sums: dict[str, float] = defaultdict(float)
        for line in self.lines:
            if not line.work.is_memory:
                sums[line.place] += line.work.amount
        return dict(sums)

    def _sum(self, key: Any) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for line in self.lines:
            sums[key(line)] += line.picojoules
        return dict(sums)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "phase": self.phase.name,
            "context": self.phase.context,
            "tile": self.phase.tile,
            "picojoules": self.picojoules,
            "compute_picojoules": self.compute,
            "memory_picojoules": self.memory,
            "by_component": self.by_component(),
            "by_layer": self.by_layer(),
            "by_part": self.by_part(),
            "by_price": self.by_place(),
            "operations": self.operations(),
            "bytes_moved": {store: bits / 8 for store, bits in self.bits_by_store().items()},
            "where": self.homes(),
        }


@dataclass(frozen=True)
class Placing:
    """Memory levels, by name, to which stores are assigned whatever their size."""

    weights: str | None = None
    activations: str | None = None
    cache: str | None = None
    state: str | None = None


def price(
    work: Iterable[WorkItem], table: PriceTable, placing: Placing | None = None
) -> list[Priced]:
    """Each work item times its price. ConfigError if the table has no price for one."""
    placed = placing or Placing()
    return [_priced(line, table, placed) for line in work]


def ledger_of(
    trace: Trace,
    precision: Precision,
    phase: Phase,
    table: PriceTable,
    *,
    spikes: float = 1.0,
    assumptions: Assumptions | None = None,
    placing: Placing | None = None,
) -> Ledger:
    """The full cost of one token of a traced run."""
    work = work_of(trace, precision, phase, spikes=spikes, assumptions=assumptions)
    return Ledger(phase, precision, tuple(price(work, table, placing)))


def _priced(line: WorkItem, table: PriceTable, placing: Placing) -> Priced:
    if line.is_memory:
        level = _level(line, table, placing)
        return Priced(line, level.name, line.amount * level.picojoules_per_bit)
    cost = table.compute.get((line.kind, line.of))
    if cost is None:
        raise ConfigError(
            f"price table {table.name} has no price for {line.kind} {line.of}, which "
            f"{line.name} needs. Add compute.{line.kind}.{line.of} to it."
        )
    return Priced(line, f"{line.kind} {line.of}", line.amount * cost.picojoules)


def _level(line: WorkItem, table: PriceTable, placing: Placing) -> Level:
    assigned = None if line.of == "register" else getattr(placing, line.of)
    if line.of == "register" or (line.of == "state" and assigned is None):
        return table.memory[0]
    return table.level(assigned) if assigned else table.home(line.size)
