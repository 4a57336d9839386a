"""What attention keeps in a Transformers cache, which knows no simulation steps.

Spikes of keys and values, one row a token; or, of A2OS2A in order "state", one matrix a head. A
token shift keeps the last token's spikes in layers of their own, behind those of attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from spikeformers.errors import ConfigError
from spikeformers.layers import TokenShift


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


class RunningState(CacheLayerMixin):
    """What all tokens so far come to, ``[B, S, ...]``, whatever their number: Z = K^T V of A2OS2A
    ``[B, S, H, K, K]``, or the last token's spikes.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states, value_states
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        raise TypeError("a running state keeps no keys and values: call put()")

    @property
    def state(self) -> Tensor | None:
        """``[S, B, ...]``; None before the first token."""
        return self.keys.transpose(0, 1) if self.is_initialized else None

    def put(self, state: Tensor, tokens: int) -> None:
        """Keep ``[S, B, ...]``, which ``tokens`` more have joined."""
        first = state.transpose(0, 1)
        self.lazy_initialization(first, torch.empty_like(first[:, :0]))
        self.seen += tokens

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def reset(self) -> None:
        self.is_initialized, self.seen = False, 0

    def crop(self, tokens_to_remove: int) -> None:
        raise ConfigError(
            "attention_order='state' and token_shift keep a state, out of which no token can be "
            "taken again; use neither where generation steps back."
        )

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)
            self.values = self.values.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            self.keys, self.values = self.keys[indices], self.values[indices]


def keep_states(cache: Cache, layers: int) -> Cache:
    """``cache`` with running states for layers; what ``generate`` hands over fresh is turned."""
    first = cache.layers[:layers]
    if not first or not all(isinstance(layer, RunningState) for layer in first):
        if cache.get_seq_length() > 0:
            raise ConfigError(
                "this cache holds keys and values, and attention_order='state' keeps sums; begin "
                "with an empty cache."
            )
        cache.layers[:] = [RunningState() for _ in range(layers)]
    return cache


def keep_last_spikes(cache: Cache, layers: int) -> Cache:
    """``cache`` with two states behind its ``layers``, the last token's spikes, for each layer."""
    while len(cache.layers) < layers:
        cache.layers.append(DynamicLayer())
    while len(cache.layers) < 3 * layers:
        cache.layers.append(RunningState())
    return cache


def shifted(
    shift: TokenShift, spikes: Tensor, present: Tensor | None, cache: Cache | None, slot: int
) -> Tensor:
    """``shift(spikes)``, going on from the state ``slot`` of ``cache`` and leaving it there."""
    if cache is None:
        moved: Tensor = shift(spikes, present)
        return moved
    state = cache.layers[slot]
    assert isinstance(state, RunningState)
    lead = spikes.shape[:-3]
    before = None if state.state is None else state.state.unflatten(0, lead)
    state.put(shift.last(spikes).flatten(0, -4), spikes.shape[-2])
    moved = shift(spikes, present, before)
    return moved
