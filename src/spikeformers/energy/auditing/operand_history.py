"""An operand over a whole run: its kind, the source of this knowledge, its density, its units.

A kind comes from the neuron that made the tensor (or a boolean type), or is found from the values.
All zeros are no evidence ("silent"), and a single non-zero value counts as real, because any number
is a multiple of itself. Values whose unit changes from call to call have no constant unit and are
therefore real too.

A unit per channel folds into the weights that follow. A converted model multiplies spikes with a
threshold per channel before its linear map:

    y = sum_d (s_d u_d) W[d]  =  sum_d s_d (u_d W[d])

so the map adds rows of weights that were scaled once. If pairs of neurons encode positive and
negative values in two units, a channel has two scaled rows, one per sign. This is valid only if the
factor depends on nothing else, which is checked on every value of the run.

A threshold per token is one factor for all channels of a row, which moves out of the sum:

    y = sum_d (s_d u) W[d]  =  u * sum_d s_d W[d]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

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
    """It holds only powers of two (and zeros): of constants and divisors."""
    units: Tensor | None = field(default=None, compare=False)
    """``[2, D]``: units per sign and channel, which fold into the weights."""

    unit_per_token: bool = False
    """Of spikes times one factor per token, which comes out of a sum over channels."""
    signed: bool = False
    """Some values were below zero: an integer count then subtracts rows of weights."""

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
    def is_shift(self) -> bool:
        """Whether multiplication or division by it is a shift.

        A power of two that is not a constant and came only once may be chance, and does not count.
        """
        return self.shift and (self.constant or self.nonzero > 1)

    @property
    def in_words(self) -> str:
        """The kind, and the sign of integer counts that have one."""
        return f"signed {self.kind}" if self.signed and self.kind == "integer" else self.kind

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
        self.signed |= other.signed

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
            "signed": self.signed,
            "unit_per": self.unit_per,
            "source": self.source,
            "density": self.density,
            "unit": self.unit if self.is_spikes and self.unit_per is None else None,
            "constant": self.constant,
            "shape": list(self.shape),
        }


def history_of(
    x: Tensor, stated: Spikes | None, constant: bool, *, divides: bool = False
) -> OperandHistory:
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
    shift = (constant or divides) and not x.is_complex() and _powers_of_two(x)
    signed = not x.is_complex() and bool((x < 0).any())
    shape = tuple(x.shape)
    return OperandHistory(
        kind, unit, source, shape, x.numel(), nonzero, constant, shift, signed=signed
    )


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


# Moves that do not change the last dimension, the channels.
KEEP_CHANNELS = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "clone", "contiguous", "detach", "alias",
    "expand", "unsqueeze", "squeeze",
))  # fmt: skip


def units_of(spikes: Tensor, factor: Tensor, *, fixed: bool) -> Tensor | None:
    """Units ``[2, D]`` of positive and of negative spikes in ``spikes * factor``, or None.

    NaN if there was no spike of that sign. ``fixed``: the factor existed before the run. A factor
    computed during the run is accepted only if channels and signs have two spikes on average.
    """
    if not (spikes.is_floating_point() and factor.is_floating_point()):
        return None
    if spikes.dim() == 0 or factor.dim() > spikes.dim() or not spikes.numel():
        return None
    width = spikes.shape[-1]
    if factor.dim() == 0 or factor.shape[-1] not in (1, width):
        return None
    rows = spikes.reshape(-1, width)
    try:
        factors = factor.expand(spikes.shape).reshape(-1, width)
    except RuntimeError:  # the factor is wider than the spikes: it makes new channels
        return None
    units = torch.full((2, width), torch.nan, dtype=torch.float64, device=spikes.device)
    events = groups = 0
    for place, fired in enumerate((rows > 0, rows < 0)):
        number = fired.sum(0)
        low = factors.masked_fill(~fired, torch.inf).amin(0)
        high = factors.masked_fill(~fired, -torch.inf).amax(0)
        active = number > 0
        if not torch.equal(low[active], high[active]):
            return None
        units[place, active] = low[active].double()
        events, groups = events + int(number.sum()), groups + int(active.sum())
    if groups == 0 or (not fixed and events < 2 * groups):
        return None
    return units


def is_unit_per_token(spikes: Tensor, factor: Tensor) -> bool:
    """Whether ``factor`` is one number for each row of ``spikes`` ``[..., D]``."""
    if not (spikes.is_floating_point() and factor.is_floating_point()):
        return False
    same_rows = factor.dim() > 1 and factor.shape[:-1] == spikes.shape[-factor.dim() : -1]
    return same_rows and factor.shape[-1] == 1


def joined(earlier: Tensor, later: Tensor) -> Tensor | None:
    """The units of two calls combined; None if they differ."""
    if earlier.shape != later.shape:
        return None
    both = ~(earlier.isnan() | later.isnan())
    if not torch.equal(earlier[both], later[both]):
        return None
    return torch.where(earlier.isnan(), later, earlier)


def folded(weight: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """``weight`` ``[out, in]`` scaled for positive and for negative spikes; unseen ones by 0."""
    scaled = units.nan_to_num(0.0).to(weight.dtype)
    return weight * scaled[0], weight * scaled[1]
