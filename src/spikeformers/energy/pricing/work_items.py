"""Work items, not yet priced: operations of one kind and type, or bits of one memory.

Their types come from the number format of a model (``Precision``). Sums are wider than the factors
of products (fp32, or int32 for int8), and elementwise work is fp32, as in kernels of fp16 and int8.
Real keys and values are cached in fp16 in every format (llama.cpp's default), spikes as bit planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

BITS = {"bit": 1, "int8": 8, "int16": 16, "int32": 32, "fp16": 16, "bf16": 16, "fp32": 32}
ELEMENTWISE = "fp32"
STATE = "fp32"
COUNT = "int32"
"""Type of the sums in products of spikes with spikes, which are integers."""


@dataclass(frozen=True)
class Precision:
    """The types of values in one variant of a model."""

    name: str
    weight: str
    """Stored weights, and the factors of linear products."""
    accumulator: str
    """Running sums."""
    stream: str
    """Real values between operations: residual stream, outputs of products."""
    attention: str
    """Factors of attention's products."""
    cache: str = "fp16"
    """Real keys and values."""
    other: str = "fp16"
    """Norms' and biases' parameters."""

    @property
    def quantised(self) -> bool:
        """Whether real inputs are quantised before a product, and outputs scaled after it."""
        return self.weight.startswith("int")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


FP32 = Precision("fp32", "fp32", "fp32", "fp32", "fp32", other="fp32")
FP16 = Precision("fp16", "fp16", "fp32", "fp16", "fp16")
INT8 = Precision("int8", "int8", "int32", "fp16", "fp16")
DENSE = (FP32, FP16, INT8)
SPIKING = (FP32, INT8)


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
