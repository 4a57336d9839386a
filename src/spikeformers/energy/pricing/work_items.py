"""Work items: operations of one kind and type, or bits of one memory; not yet priced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Store = Literal["weights", "activations", "cache", "state", "register"]
STORES: tuple[Store, ...] = ("weights", "activations", "cache", "state", "register")


@dataclass(frozen=True)
class Phase:
    """A phase of inference in which a token is processed; see workload.py."""

    name: Literal["decode", "prefill", "pass", "image"]
    context: int
    """Tokens of the sequence, including this one."""
    tile: int
    """Tokens that are processed together."""

    @property
    def title(self) -> str:
        """Name and context, for tables."""
        return self.name if self.name == "image" else f"{self.name} {self.context:,}"


@dataclass(frozen=True)
class WorkItem:
    """Operations or memory traffic for one token (one image)."""

    component: str
    layer: int | None
    name: str
    kind: str
    """"add", "multiply", "compare", "function", "logic"; or "read", "write"."""
    of: str
    """Type of the operands; for memory traffic, the store (``STORES``)."""
    amount: float
    """Number of operations or bits."""
    size: float = 0.0
    """For memory traffic: bits of the complete data, which decide the memory level."""

    @property
    def is_memory(self) -> bool:
        """Whether this is memory traffic and not an operation."""
        return self.kind in ("read", "write")


def compute(
    component: str, layer: int | None, name: str, kind: str, type_: str, amount: float
) -> WorkItem:
    """A work item of operations."""
    return WorkItem(component, layer, name, kind, type_, amount)


def traffic(
    component: str,
    layer: int | None,
    name: str,
    store: Store,
    *,
    of: float,
    read: float = 0.0,
    write: float = 0.0,
) -> Iterator[WorkItem]:
    """Work items of bits read from and written to a store of ``of`` bits."""
    yield WorkItem(component, layer, name, "read", store, read, of)
    yield WorkItem(component, layer, name, "write", store, write, of)


def limited(times: float, density: float) -> float:
    """``times``, limited to the factor at which every value fires."""
    return min(times, 1 / density) if density else times
