"""Spikes of keys and values in a Transformers cache, which knows no simulation steps."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache


def append(cache: Cache, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Append k and v ``[..., S, B, H, T, K]`` and return all keys and values so far.

    The cache holds ``[B, H, J, S * K]``: batch first, so that beams can be reordered.
    """
    lead, width = k.shape[:-4], k.shape[-1]

    def pack(x: Tensor) -> Tensor:
        return x.flatten(0, -5).permute(1, 2, 3, 0, 4).flatten(-2)

    def unpack(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, width)).permute(3, 0, 1, 2, 4).unflatten(0, lead)

    k_all, v_all = cache.update(pack(k), pack(v), layer)
    return unpack(k_all), unpack(v_all)
