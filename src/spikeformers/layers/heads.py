"""The heads of attention as a dimension of their own, and back."""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, width: int) -> Tensor:
    """``[..., T, H * K]`` to ``[..., H, T, K]``; ``width`` is K."""
    return x.unflatten(-1, (-1, width)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """``[..., H, T, K]`` to ``[..., T, H * K]``."""
    return x.transpose(-3, -2).flatten(-2)
