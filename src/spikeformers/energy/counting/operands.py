"""Which tensors are spikes: stated by the neuron that made them, else read off the values.

Stated: a neuron's output carries its ``(kind, unit)`` through operations that only move values
(view, transpose, cat, gather ...). Else, by the values x, with u the smallest non-zero ``|x|``
(u = 1 where all x are integers):

    x in {0, u}          binary           x in u * {0, 1 .. 4096} (or negative)   integer
    x in {-u, 0, u}      ternary          anything else, or all zeros             real
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spikeformers.energy.counting.trace import Kind, Operand
from spikeformers.neurons.phase import digits

LARGEST_COUNT = 4096
_PROBE = 64


class Spikes(NamedTuple):
    """What the values of a tensor are multiples of.

    ``weighted``: the multiples are written in binary, a spike for each digit that is 1. ``planes``:
    bits that hold a value, as the neuron states them; 0 where the largest count says.
    ``per_token``: a spike's value is a number per token, which the neuron hands on beside it.
    """

    kind: Kind
    unit: float
    weighted: bool = False
    planes: int = 0
    per_token: bool = False


def spikes_of(x: Tensor, stated: Spikes | None = None) -> Spikes | None:
    """Kind and unit of the spikes in ``x``; None where they are real numbers."""
    x = x.detach()
    if x.dtype == torch.bool:
        return Spikes("binary", 1.0)
    if x.is_complex():
        return None
    if stated is not None and _is(x, stated):
        return stated
    size = x.abs()
    largest = float(size.max()) if size.numel() else 0.0
    if not 0 < largest < float("inf"):
        return None
    probe = x.flatten()[:_PROBE]  # most dense tensors are done with after these
    if _multiples(probe, 1.0, tolerance=0.0) and _multiples(x, 1.0, tolerance=0.0):
        unit = 1.0
    else:
        unit = float(size.masked_fill(size == 0, float("inf")).min())
        if not _multiples(probe, unit, tolerance=1e-3) or not _multiples(x, unit, tolerance=1e-3):
            return None
    if largest / unit > LARGEST_COUNT:
        return None
    if largest / unit > 1.5:
        return Spikes("integer", unit)
    return Spikes("ternary" if bool((x < 0).any()) else "binary", unit)


def counts(x: Tensor, spikes: Spikes | None) -> Tensor:
    """Spikes of ``x``, float32; a real operand counts one everywhere, as each value costs one."""
    if spikes is None:
        return torch.ones_like(x, dtype=torch.float32)
    count = (x.float().abs() / spikes.unit).round_()
    return digits(count) if spikes.weighted else count


def operand(x: Tensor, spikes: Spikes | None) -> Operand:
    """Sizes and sums of ``x``."""
    nonzero = int(torch.count_nonzero(x))
    if spikes is None:
        return Operand("real", x.numel(), nonzero, 0)
    total = int(counts(x, spikes).sum(dtype=torch.float64))
    return Operand(spikes.kind, x.numel(), nonzero, total, planes_of(x, spikes))


def planes_of(x: Tensor, spikes: Spikes) -> int:
    """Bits that hold a value of ``x``: of the largest count, and one for a sign."""
    if x.numel() == 0 or x.dtype == torch.bool:
        return 1
    if spikes.planes:
        return spikes.planes
    least, most = (float(value) for value in x.float().aminmax())
    largest = round(max(-least, most) / spikes.unit)
    return max(1, largest.bit_length()) + (1 if least < 0 or spikes.kind == "ternary" else 0)


def _is(x: Tensor, stated: Spikes) -> bool:
    """Whether the values of ``x`` are what the neuron that made it says."""
    if not _multiples(x, stated.unit, tolerance=2e-2):
        return False
    if stated.kind == "integer" or x.numel() == 0:
        return True
    least, most = (float(value) for value in x.aminmax())
    return (
        most <= 1.5 * stated.unit
        and least >= (-1.5 if stated.kind == "ternary" else 0) * stated.unit
    )


def _multiples(x: Tensor, unit: float, tolerance: float) -> bool:
    if unit <= 0:
        return False
    ratio = x.float() / unit
    return x.numel() == 0 or float((ratio - ratio.round()).abs().max()) <= tolerance
