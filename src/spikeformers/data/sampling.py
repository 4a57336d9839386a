"""The windows of each step: a pure function of (seed, step), so a run resumes from one integer.

Epoch e visits every window of ``context`` tokens once, in an order drawn from (seed, e). The grid
of windows starts at an offset that is drawn from (seed, e) too, so that epochs cut the text at
different places; each epoch leaves out fewer than two windows of tokens at the edges.

Raw Philox output is used because numpy keeps it stable across versions (NEP 19).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import ConfigError, DataError

if TYPE_CHECKING:
    from spikeformers.data.store import TokenSplit

ORDER, MASK, HOLD_OUT = 1, 2, 3  # separates the random streams that share a seed
_WORD = (1 << 64) - 1


def philox(seed: int, number: int, stream: int) -> np.random.Philox:
    """A counter-based bit generator; the same three integers give the same bits anywhere."""
    return np.random.Philox(
        key=np.array([seed & _WORD, number & _WORD], dtype=np.uint64),
        counter=np.array([0, 0, 0, stream], dtype=np.uint64),
    )


class WindowSampler:
    """Starts of the windows in each global batch; ranks take ``indices(step)[rank::world]``."""

    def __init__(self, num_tokens: int, context: int, batch_size: int, seed: int) -> None:
        if context < 2 or batch_size < 1:
            raise ConfigError(
                f"context must be at least 2 and batch_size at least 1, got {context} and "
                f"{batch_size}."
            )
        _check_length(num_tokens, context)
        self.num_tokens = num_tokens
        self.context = context
        self.batch_size = batch_size
        self.seed = seed
        self.num_windows = max(1, (num_tokens - context + 1) // context)
        slack = num_tokens - self.num_windows * context
        self._offsets = min(slack, context - 1) + 1
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def indices(self, step: int) -> NDArray[np.int64]:
        """Window starts of the global batch at ``step``, int64 ``[batch_size]``."""
        position = step * self.batch_size
        end = position + self.batch_size
        pieces = []
        while position < end:
            epoch, first = divmod(position, self.num_windows)
            piece = self._starts(epoch)[first : first + end - position]
            pieces.append(piece)
            position += len(piece)
        return np.concatenate(pieces)

    def epochs(self, step: int) -> NDArray[np.int64]:
        """Epoch of every window in the batch at ``step``, int64 ``[batch_size]``."""
        first = step * self.batch_size
        return np.arange(first, first + self.batch_size, dtype=np.int64) // self.num_windows

    def epoch(self, step: int) -> int:
        """Epoch of the first window in the batch at ``step``."""
        return step * self.batch_size // self.num_windows

    def _starts(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            bits = philox(self.seed, epoch, ORDER)
            offset = int(bits.random_raw(1)[0]) % self._offsets
            order = np.argsort(bits.random_raw(self.num_windows), kind="stable")
            while len(self._epochs) > 1:  # a batch straddles two epochs; older ones can go
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = order.astype(np.int64) * self.context + offset
        return self._epochs[epoch]


class ExampleSampler:
    """The examples (images) of each step: epoch e visits all once, in an order of (seed, e)."""

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        if examples < 1 or batch_size < 1:
            raise ConfigError(
                f"a sampler needs examples and a batch size, got {examples} and {batch_size}."
            )
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._order: dict[int, NDArray[np.int64]] = {}

    def indices(self, step: int) -> NDArray[np.int64]:
        """Examples of the global batch at ``step``, int64 ``[batch_size]``."""
        places = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs = places // self.examples
        pieces = [
            self._epoch(int(epoch))[places[epochs == epoch] % self.examples]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(pieces)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._order:
            while len(self._order) > 1:  # a batch straddles two epochs; older ones can go
                self._order.pop(next(iter(self._order)))
            draws = philox(self.seed, epoch, ORDER).random_raw(self.examples)
            self._order[epoch] = np.argsort(draws, kind="stable").astype(np.int64)
        return self._order[epoch]


def batch(
    split: TokenSplit | NDArray[Any], starts: NDArray[np.int64], context: int
) -> NDArray[np.int64]:
    """Tokens of the windows that begin at ``starts``, int64 ``[len(starts), context]``."""
    tokens: Any = split if isinstance(split, np.ndarray) else split.tokens
    starts = np.asarray(starts, dtype=np.int64)
    if len(starts) and (starts.min() < 0 or starts.max() + context > len(tokens)):
        raise DataError(
            f"a window of {context} tokens at {int(starts.max())} does not lie inside the "
            f"{len(tokens)} tokens of this split. Was the sampler made for another split?"
        )
    return np.asarray(tokens[starts[:, None] + np.arange(context)], dtype=np.int64)


def consecutive_starts(
    num_tokens: int, context: int, limit: int | None = None
) -> NDArray[np.int64]:
    """Starts of consecutive windows from the beginning, at most ``limit``; for validation."""
    _check_length(num_tokens, context)
    count = num_tokens // context
    return np.arange(count if limit is None else min(limit, count), dtype=np.int64) * context


def _check_length(num_tokens: int, context: int) -> None:
    if num_tokens < context:
        raise DataError(
            f"the corpus is shorter than the context: {num_tokens} tokens, and one window takes "
            f"{context}. Give more text or set a smaller context."
        )
