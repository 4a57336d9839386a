"""The caches of Transformers that attention accepts, and what it keeps in them.

Every cache that is passed to a model goes through ``admit``. It accepts layers that return each key
and value unchanged: dynamic ones, static ones (``FixedRows`` shows only their filled rows), sliding
ones until their window is full. Anything else would silently compute other tokens, and is refused
by name.

A cache has no dimension of simulation steps: spikes of keys and values are one row per token; or,
of A2OS2A in order "state", one matrix per head. A token shift keeps the last token's spikes in
layers of their own, behind those of attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from spikeformers.errors import ConfigError
from spikeformers.layers import TokenShift

INSTEAD = (
    "Use DynamicCache(), the default of generate(), or StaticCache(config=model.config, "
    "max_cache_len=...)."
)
READ_HERE = ("update", "get_seq_length", "get_mask_sizes", "get_query_offset")
"""Methods that a subclass of Cache must not override."""


def refused(cache: Any, reason: str, instead: str = INSTEAD) -> ConfigError:
    """The error for a cache, or a part of one, that is not accepted."""
    name = cache if isinstance(cache, str) else type(cache).__name__
    return ConfigError(f"{name} is not taken as a cache: {reason}. {instead}")


def admit(
    cache: Any,
    layers: int,
    tokens: int,
    device: torch.device,
    windows: Mapping[int, int] | None = None,
) -> int:
    """Prepare ``cache`` for ``tokens`` more in ``layers`` layers; returns its number of positions.

    Layers of fixed size are replaced in place, by layers with the same rows. ``windows`` has the
    sliding window of each layer whose attention has one. ConfigError for a cache that would not
    give the tokens of a dynamic one.
    """
    if not isinstance(cache, Cache):
        raise refused(cache, "it is not a Cache of Transformers 5")
    if any(getattr(type(cache), n, None) is not getattr(Cache, n, None) for n in READ_HERE):
        raise refused(cache, "its class changes what a layer keeps, returns or counts")
    if cache.offloading and device.type != "cuda":
        raise refused(
            f"{type(cache).__name__} with offloading",
            f"it copies between a CUDA device and memory, and this model is on {device.type!r}",
        )
    _complete(cache, layers)
    windows = windows or {}
    for index in range(layers):
        cache.layers[index] = _taken(cache.layers[index], windows.get(index))
    lengths = {int(layer.get_seq_length()) for layer in cache.layers[:layers]}
    if len(lengths) != 1:
        raise refused(cache, f"its layers hold different numbers of positions ({lengths})")
    [past] = lengths
    for index, layer in enumerate(cache.layers[:layers]):
        most = layer.get_max_length()
        if 0 <= most < past + tokens and most != windows.get(index):
            raise ConfigError(
                f"{type(cache).__name__} keeps {most} positions, and holds {past} while {tokens} "
                "more come; make it longer (max_cache_len), or use DynamicCache()."
            )
    return past


def _complete(cache: Cache, layers: int) -> None:
    """Create the layers that a cache without a config creates on demand."""
    while cache.layer_class_to_replicate is not None and len(cache.layers) < layers:
        cache.layers.append(cache.layer_class_to_replicate())
    if len(cache.layers) < layers:
        raise refused(cache, f"it has {len(cache.layers)} layers, and this model {layers}")


def _taken(layer: Any, window: int | None) -> Any:
    """``layer`` or its replacement; ``window`` is that of the model's own attention there.

    By exact class: a subclass may compress, forget or quantise.
    """
    kind = type(layer)
    if kind in (DynamicLayer, DynamicSlidingWindowLayer, FixedRows, RunningState):
        return layer
    if kind is StaticLayer or (kind is StaticSlidingWindowLayer and window is None):
        return FixedRows.of(layer)
    raise refused(layer, "it may not return every key and value as it was put in")


def append(cache: Cache, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Append k and v ``[..., S, B, H, T, K]`` and return all keys and values so far.

    The cache holds ``[B, H, J, S * K]``: batch first, so that beams can be reordered.
    """

    def pack(x: Tensor) -> Tensor:
        return x.flatten(0, -5).permute(1, 2, 3, 0, 4).flatten(-2)

    def unpack(x: Tensor, new: Tensor) -> Tensor:
        rows = x.unflatten(-1, (-1, new.shape[-1])).permute(3, 0, 1, 2, 4)
        return rows.unflatten(0, new.shape[:-4])

    k_all, v_all = append_rows(cache, pack(k), pack(v), layer)
    return unpack(k_all, k), unpack(v_all, v)


def append_rows(cache: Cache, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Append ``[B, H, T, W]`` and return all rows so far, ``[B, H, J, W]``."""
    before = int(cache.get_seq_length(layer))
    if before:
        stored = cache.layers[layer]
        if cache.offloading:  # states of a token shift disturb the order of the cache's own
            stored.prefetch()
        _same_shape(stored.keys, k)
    k_all, v_all = cache.update(k, v, layer)
    if k_all.shape[-2] != before + k.shape[-2]:
        raise refused(
            cache.layers[layer],
            f"it returns {k_all.shape[-2]} rows where {before} were before and {k.shape[-2]} came",
        )
    return k_all, v_all


def _same_shape(stored: Tensor, new: Tensor) -> None:
    """ConfigError unless both ``[B, H, _, W]`` are equal except for their rows."""
    a, b = ([*x.shape[:2], x.shape[3]] for x in (stored, new))
    if a != b:
        raise _foreign("keys of batch, heads, width", a, b)


def _foreign(what: str, stored: list[int], new: list[int]) -> ConfigError:
    return ConfigError(
        f"this cache holds {what} {stored}, and {new} come: it was filled by another model or "
        "another batch; begin with an empty cache."
    )


class FixedRows(CacheLayerMixin):
    """The rows of a static layer, of which attention gets those that are filled.

    Not compilable: how many rows it shows changes from token to token.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, max_cache_len: int) -> None:
        super().__init__()
        self.max_cache_len, self.seen = max_cache_len, 0

    @classmethod
    def of(cls, layer: StaticLayer) -> FixedRows:
        """The same rows, not copied."""
        rows = cls(layer.max_cache_len)
        if layer.is_initialized:
            rows.keys, rows.values = layer.keys, layer.values
            rows.dtype, rows.device = layer.dtype, layer.device
            rows.is_initialized, rows.seen = True, int(layer.get_seq_length())
        return rows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            x.new_zeros(*x.shape[:2], self.max_cache_len, x.shape[3])
            for x in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        stop = self.seen + key_states.shape[-2]
        if stop > self.max_cache_len:
            raise ConfigError(
                f"a static cache of {self.max_cache_len} positions is full; make it longer "
                "(max_cache_len), or use DynamicCache()."
            )
        if self.seen == 0:  # also where generate() made rows of another width ahead of time
            self._make_room(key_states, value_states)
        self.keys[..., self.seen : stop, :] = key_states
        self.values[..., self.seen : stop, :] = value_states
        self.seen = stop
        # Contiguous, as in a dynamic layer: products of other strides may round differently.
        return self.keys[..., :stop, :].contiguous(), self.values[..., :stop, :].contiguous()

    def _make_room(self, k: Tensor, v: Tensor) -> None:
        new = (k, v)
        if self.is_initialized:
            stored = (self.keys, self.values)
            if all(
                a[..., :1, :].shape == b[..., :1, :].shape
                and (a.dtype, a.device) == (b.dtype, b.device)
                for a, b in zip(stored, new, strict=True)
            ):
                return
        self.lazy_initialization(k, v)

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self.max_cache_len

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def reset(self) -> None:
        super().reset()
        self.seen = 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ValueError("crop takes minus the number of tokens to remove.")
        self.seen = max(self.seen + tokens_to_remove, 0)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.seen:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)
            self.values = self.values.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.seen:
            self.keys, self.values = self.keys[indices], self.values[indices]


class RunningState(CacheLayerMixin):
    """A summary ``[B, S, ...]`` of all tokens so far, of a size that does not depend on their
    number: Z = K^T V of A2OS2A ``[B, S, H, K, K]``, or the last token's spikes.
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
        raise refused(self, "it keeps a state (attention_order='state') instead of keys and values")

    def state(self, like: Sequence[int]) -> Tensor | None:
        """``[S, B, ...]``; None before the first token. ConfigError if its shape differs."""
        if not self.is_initialized:
            return None
        state = self.keys.transpose(0, 1)
        if state.shape != torch.Size(like):
            raise _foreign("a state of steps, batch", [*state.shape], [*like])
        return state

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
        if tokens_to_remove == 0:
            return
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


def keep_states(cache: Cache, layers: int) -> None:
    """Put running states into ``layers`` layers of an empty cache."""
    first = cache.layers[:layers]
    if not all(isinstance(layer, RunningState) for layer in first):
        if cache.get_seq_length() > 0:
            raise ConfigError(
                "this cache holds keys and values, and attention_order='state' keeps sums; begin "
                "with an empty cache."
            )
        cache.layers[:layers] = [RunningState() for _ in range(layers)]


def keep_last_spikes(cache: Cache, layers: int, past: int) -> None:
    """Two states behind the ``layers`` of attention, the last token's spikes, for each layer."""
    states = cache.layers[layers:]
    kept = [isinstance(state, RunningState) and state.seen == past for state in states]
    if len(kept) == 2 * layers and all(kept):
        return
    if past:
        raise ConfigError(
            f"this cache holds {past} tokens without the spikes of the last, which "
            "token_shift=True reads; begin with an empty cache, or hand back the one that the "
            "model returned."
        )
    cache.layers[layers:] = [RunningState() for _ in range(2 * layers)]


def shifted(
    shift: TokenShift, spikes: Tensor, present: Tensor | None, cache: Cache | None, slot: int
) -> Tensor:
    """``shift(spikes)``, continued from the state ``slot`` of ``cache``, which is updated."""
    if cache is None:
        moved: Tensor = shift(spikes, present)
        return moved
    state = cache.layers[slot]
    assert isinstance(state, RunningState)
    last = shift.last(spikes).flatten(0, -4)
    before = state.state(last.shape)
    state.put(last, spikes.shape[-2])
    if before is not None:
        before = before.unflatten(0, spikes.shape[:-3])
    moved = shift(spikes, present, before)
    return moved
