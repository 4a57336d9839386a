"""WorkItem items: operations of one kind and type, or bits of one memory; not yet priced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Store = Literal["weights", "activations", "cache", "state", "register"]
STORES: tuple[Store, ...] = ("weights", "activations", "cache", "state", "register")


@dataclass(frozen=True)
class Phase:
    """A phase of inference, in which a token is processed; see workload.py."""

    name: Literal["decode", "prefill", "pass", "image"]
    context: int
    """Tokens of the sequence, this one included."""
    tile: int
    """Tokens worked on together."""

    @property
    def title(self) -> str:
        """For tables."""
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
    """Type of the operands; of memory, what is read or written (``STORES``)."""
    amount: float
    """Operations, or bits."""
    size: float = 0.0
    """Of memory: bits of what it is part of, which decide where that lives."""

    @property
    def is_memory(self) -> bool:
        """Bits that move, not operations."""
        return self.kind in ("read", "write")


def compute(
    component: str, layer: int | None, name: str, kind: str, type_: str, amount: float
) -> WorkItem:
    """Operations."""
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
    """Bits read from and written to a store of ``of`` bits."""
    yield WorkItem(component, layer, name, "read", store, read, of)
    yield WorkItem(component, layer, name, "write", store, write, of)


def limited(times: float, density: float) -> float:
    """``times``, capped where every value fires."""
    return min(times, 1 / density) if density else times
