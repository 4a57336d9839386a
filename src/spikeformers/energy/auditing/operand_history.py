"""An operand over a whole run: its kind, the source of this knowledge, and its density.

A kind comes from the neuron that made the tensor (or a boolean type), or is found from the values.
All zeros are no evidence ("silent"), and a single non-zero value counts as real, because any number
is a multiple of itself. Values whose unit changes from call to call have no constant unit and are
therefore real too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from spikeformers.energy.auditing.channel_units import joined
from spikeformers.energy.counting.operands import Spikes, spikes_of
from spikeformers.energy.counting.trace import Kind

Source = Literal["neuron", "boolean", "values"]
_KINDS: tuple[Kind, ...] = ("binary", "ternary", "integer", "real")


@dataclass
class OperandHistory:
    """An operand of an operation, over all calls of a run."""

    observed_kind: Kind
    """Kind of the values so far; ``kind`` is what they prove."""
    unit: float
    source: Source
    shape: tuple[int, ...]
    size: int
    nonzero: int
    constant: bool = False
    """Fixed before the run: made only of parameters and numbers in the code."""
    shift: bool = False
    """A constant that holds only powers of two (and zeros)."""
    units: Tensor | None = field(default=None, compare=False)
    """``[2, D]``: units per sign and channel, which fold into the weights."""

    unit_per_token: bool = False
    """Of spikes times one factor per token, which comes out of a sum over channels."""

    @property
    def unit_per(self) -> str | None:
        """What has a unit of its own, a "channel" or a "token"; None where one is for all."""
        if self.units is not None:
            return "channel"
        return "token" if self.unit_per_token else None

    @property
    def kind(self) -> Literal[Kind, "silent"]:
        """binary, ternary, integer, real, or silent: all zeros, which prove nothing."""
        if self.source != "values":
            return self.observed_kind
        if self.nonzero == 0 and self.size:
            return "silent"
        return "real" if self.nonzero == 1 else self.observed_kind

    @property
    def is_spikes(self) -> bool:
        """Binary, ternary or integer."""
        return self.kind in ("binary", "ternary", "integer")

    @property
    def density(self) -> float:
        """Share of values that are not zero."""
        return self.nonzero / self.size if self.size else 0.0

    def merge(self, other: OperandHistory) -> None:
        """Add the same operand of another call."""
        if self.source == "values" and self.nonzero == 0:
            self.observed_kind, self.unit, self.source = (
                other.observed_kind,
                other.unit,
                other.source,
            )
        elif other.source != "values" or other.nonzero:
            self.observed_kind, self.unit = _joined(self, other)
            self._merge_units(other)
            if other.source != self.source:
                self.source = "values"
        self.shape = other.shape
        self.size += other.size
        self.nonzero += other.nonzero
        self.constant &= other.constant
        self.shift &= other.shift

    def _merge_units(self, other: OperandHistory) -> None:
        if self.unit_per_token != other.unit_per_token and self.nonzero and other.nonzero:
            self.observed_kind, self.source = "real", "values"
        both = self.units is not None or other.units is not None
        if self.units is not None and other.units is not None:
            self.units = joined(self.units, other.units)
        elif both:
            self.units = None
        if both and self.units is None:
            self.observed_kind, self.source = "real", "values"  # the unit is not constant

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "unit_per": self.unit_per,
            "source": self.source,
            "density": self.density,
            "unit": self.unit if self.is_spikes and self.unit_per is None else None,
            "constant": self.constant,
            "shape": list(self.shape),
        }


def history_of(x: Tensor, stated: Spikes | None, constant: bool) -> OperandHistory:
    """The history of ``x`` after one call; ``stated`` comes from the neuron that made it."""
    spikes = spikes_of(x, stated)
    source: Source = "values"
    if stated is not None and spikes == stated:
        source = "neuron"
    elif x.dtype == torch.bool:
        source = "boolean"
    kind: Kind = "real" if spikes is None else spikes.kind
    unit = 1.0 if spikes is None else spikes.unit
    nonzero = int(torch.count_nonzero(x))
    shift = constant and not x.is_complex() and _powers_of_two(x)
    return OperandHistory(kind, unit, source, tuple(x.shape), x.numel(), nonzero, constant, shift)


def with_units(spikes: OperandHistory, units: Tensor) -> OperandHistory:
    """The history of ``spikes * factor``, where the factor is a unit per channel."""
    return replace(spikes, units=units)


def with_unit_per_token(spikes: OperandHistory) -> OperandHistory:
    """The history of ``spikes * factor`` where the factor is a unit per token."""
    return replace(spikes, unit_per_token=True)


def history_of_number(x: float) -> OperandHistory:
    """A number written in the code."""
    shift = x == 0 or math.frexp(x)[0] in (0.5, -0.5)
    return OperandHistory("real", 1.0, "values", (), 1, 1, constant=True, shift=shift)


def history_of_reals(shape: tuple[int, ...]) -> OperandHistory:
    """Real numbers inside a fused kernel, which cannot be observed."""
    size = math.prod(shape)
    return OperandHistory("real", 1.0, "values", shape, size, size)


def _powers_of_two(x: Tensor) -> bool:
    mantissa = torch.frexp(x.double()).mantissa.abs()
    return bool(((mantissa == 0.5) | (mantissa == 0)).all())


def _joined(earlier: OperandHistory, later: OperandHistory) -> tuple[Kind, float]:
    kind = max(earlier.observed_kind, later.observed_kind, key=_KINDS.index)
    low, high = sorted((earlier.unit, later.unit))
    if kind == "real" or math.isclose(low, high, rel_tol=1e-3):
        return kind, low
    times = high / low
    return ("integer", low) if math.isclose(times, round(times), rel_tol=1e-3) else ("real", 1.0)
