"""Spikes whose unit differs from channel to channel and folds into the weights behind them.

A converted model multiplies spikes with a threshold per channel before its linear map:

    y = sum_d (s_d u_d) W[d]  =  sum_d s_d (u_d W[d])

so the map adds rows of weights that were scaled once. Neurons in pairs encode positive and negative
values in two units, and then a channel has two scaled rows, one for each sign. That is sound only
where the factor depends on nothing else, which is checked on every value of the run.

A threshold per token is one factor for all channels of a row, which comes out of the sum:

    y = sum_d (s_d u) W[d]  =  u * sum_d s_d W[d]
"""

from __future__ import annotations

import torch
from torch import Tensor

# Moves that leave the last dimension, the channels, what it was.
KEEP_CHANNELS = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "clone", "contiguous", "detach", "alias",
    "expand", "unsqueeze", "squeeze",
))  # fmt: skip


def units_of(spikes: Tensor, factor: Tensor, *, fixed: bool) -> Tensor | None:
    """Units ``[2, D]`` of positive and of negative spikes in ``spikes * factor``, or None.

    NaN where no spike of that sign was seen. ``fixed``: the factor existed before the run. One
    computed during the run is trusted only where most channels and signs have several spikes.
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
        seen = number > 0
        if not torch.equal(low[seen], high[seen]):
            return None
        units[place, seen] = low[seen].double()
        events, groups = events + int(number.sum()), groups + int(seen.sum())
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
    """Units of two calls in one; None where they differ."""
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
