"""The share of the loss that one forward pass contributes when a trainer splits its batch.

``transformers.Trainer`` hands ``num_items_in_batch``, the targets of all forward passes of one
optimiser step (and, with ``average_tokens_across_devices``, of all devices), to each of them and
adds their losses up. A sum over targets is divided by that number; a mean over this forward pass,
as a penalty is, counts by its share of the targets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORED = -100


def share_of(
    labels: Tensor | None,
    *,
    shifted: bool = False,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """Share of this forward pass in the targets of the whole batch; None if it is all of them.

    Targets are counted as Trainer does: labels other than -100, the first token's left out where
    the loss shifts them, unless they come as ``shift_labels``, shifted before.
    """
    if num_items_in_batch is None or labels is None:
        return None
    if shift_labels is not None:
        labels = shift_labels
    elif shifted:
        labels = labels[..., 1:]
    items = torch.as_tensor(num_items_in_batch, device=labels.device)
    return labels.ne(IGNORED).sum() / items
