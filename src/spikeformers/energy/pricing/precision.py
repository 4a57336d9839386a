"""Number formats that a model is priced in: the types of stored values and of arithmetic.

Sums are wider than the factors of products (fp32, or int32 for int8), and elementwise work is fp32,
as in kernels of fp16 and int8. Real keys and values are cached in fp16 in every format
(llama.cpp's default), spikes as bit planes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
