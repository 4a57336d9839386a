"""The keys that each query may see: causality, padding, and masks given by the caller.

A mask is ``[B, J]``, 1 for each token and 0 for padding, or ``[B or 1, 1, T, J]``, for each query
the keys that it may see (bool, or 0 and -inf to be added), as Transformers makes it for caches of
fixed size. Columns beyond the J positions that there are mean nothing, and are left out.

Shapes: B batch, T queries, J keys, the T new tokens' behind those of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.attention import Pairs
from spikeformers.errors import ConfigError


class Sight:
    """The keys that ``tokens`` new tokens may see among ``past`` earlier ones and themselves."""

    def __init__(
        self, mask: Any, past: int, tokens: int, causal: bool, device: torch.device
    ) -> None:
        self.past, self.tokens, self.causal, self.device = past, tokens, causal, device
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() in (2, 4)):
            raise ConfigError(
                f"attention_mask must be a tensor [B, J] or [B, 1, T, J], not {_kind(mask)}."
            )
        mask = fitted(mask, past + tokens)
        self.columns: Tensor | None = None
        self.pairs: Tensor | None = None
        if mask is not None and mask.dim() == 2:
            self.columns = mask.to(device).bool()
        elif mask is not None:
            self.pairs = visible(mask.to(device), tokens, past + tokens)

    def allowed(self) -> Tensor:
        """Bool mask of the keys each query may see, ``[B or 1, 1, T, J]``."""
        return self._allowed(self.past) if self.pairs is None else self.pairs

    def allowed_among_new(self) -> Tensor:
        """The same among the new tokens only, for attention that keeps a sum of earlier ones."""
        if self.pairs is not None:
            raise ConfigError(
                "attention_order='state' keeps sums of earlier tokens, out of which a mask "
                "[B, 1, T, J] cannot take any; give a mask [B, J]."
            )
        return self._allowed(0)

    def _allowed(self, past: int) -> Tensor:
        pairs = Pairs(self.causal, self.columns)
        return pairs.written_out(self.tokens, past + self.tokens, self.device)

    def streamed(self) -> Pairs | None:
        """``allowed()`` without a matrix; None for a mask of pairs, which is one."""
        return Pairs(self.causal, self.columns) if self.pairs is None else None

    def present(self) -> Tensor | None:
        """Which of the new tokens are not padding, ``[B or 1, T]``; None: all. Padding is what may
        not even see itself.
        """
        if self.pairs is not None:
            return self.pairs[:, 0].diagonal(self.past, -2, -1)
        return None if self.columns is None else self.columns[:, -self.tokens :]

    def before(self) -> Tensor | None:
        """Whether there is a token before each, and not padding, ``[B or 1, T]``; None: all are."""
        if self.pairs is not None:
            row = self.pairs[:, 0].diagonal(self.past - 1, -2, -1)
            return row if self.past else nn.functional.pad(row, (1, 0))
        if self.columns is None:
            return None
        return nn.functional.pad(self.columns[:, :-1], (1, 0))[:, -self.tokens :]

    def positions(self) -> Tensor:
        """Position of each token, counted from the first that it may see, ``[B or 1, T]``."""
        if self.pairs is not None:
            counted = self.pairs[:, 0]
            seen = counted.sum(-1) if self.causal else counted.diagonal(0, -2, -1).cumsum(-1)
            return (seen - 1).clamp_min(0)
        if self.columns is not None:
            return (self.columns.long().cumsum(-1) - 1).clamp_min(0)[:, -self.tokens :]
        return torch.arange(self.past, self.past + self.tokens, device=self.device).unsqueeze(0)


def fitted(mask: Any, keys: int) -> Any:
    """``mask`` without the columns beyond ``keys``, which caches of fixed size bring.

    A mapping has a mask for each kind of attention. ConfigError for a mask [B, J] that is too
    short, and for numbers to be added to scores that neither hide a key nor leave it alone.
    """
    if isinstance(mask, Mapping):
        return {kind: fitted(part, keys) for kind, part in mask.items()}
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        return mask
    if mask.dim() == 2 and mask.shape[1] < keys:
        raise ConfigError(
            f"attention_mask has {mask.shape[1]} columns, and there are {keys} positions: those "
            "in the cache count as well."
        )
    mask = mask[..., :keys]
    if mask.dim() == 4 and mask.is_floating_point():
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        if not bool((hidden | (mask == 0)).all()):
            raise ConfigError(
                "a float attention_mask [B, 1, T, J] is added to scores: 0 shows a key and -inf "
                "hides it, and this one has other numbers. Give a bool mask."
            )
    return mask


def visible(mask: Any, queries: int, keys: int) -> Tensor:
    """Bool ``[B or 1, 1, T, J]`` of a mask that Transformers makes, of the first ``keys`` keys."""
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise ConfigError(
            f"spiking attention reads a mask [B, 1, T, J], not {_kind(mask)}; load the model with "
            "attn_implementation='sdpa' or 'eager'."
        )
    if mask.shape[1] != 1 or mask.shape[2] != queries or mask.shape[3] < keys:
        raise ConfigError(
            f"attention_mask must be [B, 1, {queries}, {keys}], one for all heads, not "
            f"{list(mask.shape)}."
        )
    mask = mask[..., :keys]
    return mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool()


def _kind(mask: Any) -> str:
    return f"{list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
