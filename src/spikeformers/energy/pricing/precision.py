"""Number formats that a model is priced in: what each kind of value is held and computed in.

Sums are kept wider than what is multiplied (fp32, or int32 over int8), and elementwise work is done
in fp32, as kernels of fp16 and int8 do it. Real keys and values are cached in fp16 in every format
(llama.cpp's default), spikes as bit planes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

BITS = {"bit": 1, "int8": 8, "int16": 16, "int32": 32, "fp16": 16, "bf16": 16, "fp32": 32}
ELEMENTWISE = "fp32"
STATE = "fp32"
COUNT = "int32"
"""Sums of spikes that meet spikes: whole numbers."""


@dataclass(frozen=True)
class Precision:
    """Types of the operands of one variant of a model."""

    name: str
    weight: str
    """Stored weights, and what a product multiplies."""
    accumulator: str
    """Running sums."""
    stream: str
    """Real values between operations: residual stream, outputs of products."""
    attention: str
    """What attention multiplies."""
    cache: str = "fp16"
    """Real keys and values."""
    other: str = "fp16"
    """Norms' and biases' parameters."""

    @property
    def quantised(self) -> bool:
        """Whether real inputs are quantised before a product, and outputs scaled behind it."""
        return self.weight.startswith("int")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


FP32 = Precision("fp32", "fp32", "fp32", "fp32", "fp32", other="fp32")
FP16 = Precision("fp16", "fp16", "fp32", "fp16", "fp16")
INT8 = Precision("int8", "int8", "int32", "fp16", "fp16")
DENSE = (FP32, FP16, INT8)
SPIKING = (FP32, INT8)
