"""Tracks parameters, buffers and tensors derived only from them: the constants of a run.

A tensor that is not known to be fixed counts as data. So does a value that left the dispatcher (for
NumPy, for example) and came back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from spikeformers.energy.counting import operations as ops

_SHAPED_LIKE = frozenset((
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
    "new_empty", "new_empty_strided",
))  # fmt: skip
_RANDOM = ("rand", "normal", "bernoulli", "uniform", "multinomial")


class Constants:
    """Parameters and buffers of a model, and tensors computed from nothing else."""

    def __init__(self, model: nn.Module) -> None:
        stored = [*model.parameters(), *model.buffers()]
        # Held, so that no other tensor takes their memory while the pointers are trusted.
        self._storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in stored}
        self._storages.pop(0, None)
        self._made: Any = WeakTensorKeyDictionary()

    def __contains__(self, x: Tensor) -> bool:
        return x in self._made or x.untyped_storage().data_ptr() in self._storages

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Update the constants after an operation that made or overwrote tensors."""
        name = ops.base_name(func)
        fixed = not any(word in name for word in _RANDOM) and (
            name in _SHAPED_LIKE or all(x in self for x in tensors_in((args, kwargs)))
        )
        if fixed:
            for tensor in tensors_in(out):
                self._made[tensor] = True
        elif func._schema.is_mutable:
            for written in _written(func, args, kwargs):
                self._forget(written)

    def _forget(self, written: Tensor) -> None:
        """``written`` holds data now, and so does every view of it."""
        pointer = written.untyped_storage().data_ptr()
        self._storages.pop(pointer, None)
        for x in list(self._made):
            if x.untyped_storage().data_ptr() == pointer:
                self._made.pop(x, None)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from tensors_in(value)
