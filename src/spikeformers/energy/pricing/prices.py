"""Prices of single operations, and the source of each figure.

Horowitz, "Computing's energy problem", ISSCC 2014, 45 nm, 0.9 V, 32-bit floating point: an addition
0.9 pJ, a multiplication 3.7 pJ, so a multiply-accumulate 4.6 pJ. The spiking papers use these two
prices and nothing else: ``E = 4.6 pJ * MACs + 0.9 pJ * SOP``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HOROWITZ = "Horowitz, ISSCC 2014, 45 nm"


@dataclass(frozen=True)
class Cost:
    """Energy of one operation in picojoules, and the source of the figure."""

    picojoules: float
    source: str


ADD_FP32 = Cost(picojoules=0.9, source=HOROWITZ)
MULT_FP32 = Cost(picojoules=3.7, source=HOROWITZ)
MAC_FP32 = Cost(picojoules=4.6, source=f"{HOROWITZ}: one multiplication and one addition")


@dataclass(frozen=True)
class Prices:
    """Prices of the operations that the tracer counts.

    ``accumulate`` and ``mac`` make the papers' sum; ``elementwise`` prices the rest by kind.
    """

    name: str
    accumulate: Cost
    mac: Cost
    elementwise: Mapping[str, Cost] = field(default_factory=dict)

    def of_operations(self, operations: Mapping[str, int]) -> float:
        """Picojoules of counted elementwise operations; KeyError for a kind without a price."""
        return sum(n * self.elementwise[kind].picojoules for kind, n in operations.items())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "accumulate": asdict(self.accumulate),
            "mac": asdict(self.mac),
            "elementwise": {kind: asdict(cost) for kind, cost in self.elementwise.items()},
        }


PAPER = Prices(
    name="horowitz45",
    accumulate=ADD_FP32,
    mac=MAC_FP32,
    elementwise={
        "add": ADD_FP32,
        "mult": MULT_FP32,
        "compare": Cost(0.9, f"a comparison is a subtraction; {HOROWITZ}"),
        "winner_compare": Cost(0.9, f"a comparison is a subtraction; {HOROWITZ}"),
        "function": Cost(
            3.7, "exp, division, root, tanh ...: at least one multiplication; no published price"
        ),
        "lookup": Cost(0.0, "a read and no arithmetic; memory traffic is not priced here"),
    },
)
