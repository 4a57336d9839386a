"""Token shift: half of the spikes that a layer reads are those of the preceding token.

    y[t] = (s[t-1][: D/2], s[t][D/2 :])        s[-1] = 0

It only copies, so that the next layer still reads spikes. Local order reaches every layer without
attention. RWKV, https://arxiv.org/abs/2305.13048, has the idea with a learned mix; this form is
ours, and we know of no paper on spiking transformers that has it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenShift(nn.Module):
    """Spikes ``[..., B, T, D]`` to spikes of the same shape."""

    reads_token_before: ClassVar[bool] = True
    """A cache has to keep the last token's spikes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.moved = width // 2

    def forward(
        self, spikes: Tensor, present: Tensor | None = None, before: Tensor | None = None
    ) -> Tensor:
        """``present`` ``[B, T]`` marks tokens whose preceding token is real and not padding.

        ``before`` ``[..., B, 1, D/2]`` is the last cached token's part, where the spikes continue
        a cached sequence.
        """
        own = spikes[..., : self.moved]
        if before is None:
            moved = F.pad(own[..., :-1, :], (0, 0, 1, 0))
        else:
            moved = torch.cat((before, own[..., :-1, :]), -2)
        if present is not None:  # row 0 is nothing, row t + 1 is what t would get
            rows = torch.arange(1, own.shape[-2] + 1, device=own.device) * present
            padded = F.pad(moved, (0, 0, 1, 0))
            moved = padded.gather(-2, rows.unsqueeze(-1).expand(own.shape))
        return torch.cat((moved, spikes[..., self.moved :]), -1)

    def last(self, spikes: Tensor) -> Tensor:
        """The part of the last token that the next one reads, ``[..., B, 1, D/2]``."""
        return spikes[..., -1:, : self.moved]
