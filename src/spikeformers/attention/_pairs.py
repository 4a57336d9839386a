"""Which keys a query may see, and the bias of a pair, without a matrix of queries and keys.

A model on an accelerator hands these to a core that streams (``Attention.streams``). A core that
finds it cannot, writes them out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """The allowed pairs: causal or all, without padding. The last query is at the last key.

    Beside it, a ``bias`` has one number per head and distance: ``[H, T + J - 1]``, and that of
    query i and key j is ``bias[h, T - 1 - i + j]`` (`RelativeBias.line`).
    """

    causal: bool
    columns: Tensor | None = None
    """``[B or 1, J]``, bool, false for padding; None: no padding."""

    def written_out(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """The bool mask ``[B or 1, 1, T, J]``."""
        allowed = torch.ones(queries, keys, dtype=torch.bool, device=device)
        if self.causal:
            allowed = allowed.tril(keys - queries)
        allowed = allowed[None, None]
        return allowed if self.columns is None else allowed & self.columns[:, None, None, -keys:]


def line_written_out(line: Tensor, keys: int) -> Tensor:
    """``[H, T, J]`` of one number per distance, ``[H, T + J - 1]``: each row is a window of it."""
    return line.unfold(-1, keys, 1).flip(1)


def written_out(
    allowed: Tensor | Pairs, bias: Tensor | None, q: Tensor, k: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Mask and bias of every pair, whichever form they have."""
    if isinstance(allowed, Tensor):
        return allowed, bias
    bias = None if bias is None else line_written_out(bias, k.shape[-2])
    return allowed.written_out(q.shape[-2], k.shape[-2], q.device), bias
