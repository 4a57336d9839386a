"""The files of a token store, checked, and read as one sequence of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.storage import file_digest

MANIFEST = "manifest.json"


def is_store(folder: Path) -> bool:
    """Whether a folder holds a token store, whole or damaged."""
    return (folder / MANIFEST).is_file() and any(folder.glob("*.bin"))


@dataclass(frozen=True)
class Shard:
    """One file of a split: its tokens, their XXH3 and the largest id."""

    path: Path
    tokens: int
    digest: str
    largest_id: int

    def problem(self, dtype: str, *, content: bool = True) -> str:
        """What is wrong with the file, or an empty text; ``content`` compares its digest too."""
        wanted = self.tokens * np.dtype(dtype).itemsize
        size = self.path.stat().st_size if self.path.is_file() else -1
        if size != wanted:
            actual = "is missing" if size < 0 else f"holds {size} bytes"
            return f"{self.path.name} {actual}, and its manifest says {wanted}"
        if content and (digest := file_digest(self.path)) != self.digest:
            return f"{self.path.name} has the digest {digest}, and its manifest says {self.digest}"
        return ""


class ShardedTokens:
    """Token ids of several files, read only where they are indexed; 1-D and read-only.

    An index is a slice, an integer, or an array of integers of any shape; the result is in memory.
    """

    def __init__(self, shards: Sequence[Shard], dtype: str) -> None:
        self._shards = [shard for shard in shards if shard.tokens]
        self.dtype = np.dtype(dtype)
        self._ends = np.cumsum([shard.tokens for shard in self._shards], dtype=np.int64)
        self._maps: dict[int, NDArray[Any]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shape(self) -> tuple[int]:
        """``(tokens,)``."""
        return (len(self),)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the tokens of several files cannot become one array without a copy")
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            return self._range(start, max(start, stop))
        wanted = np.asarray(index, dtype=np.int64)
        if wanted.size and (wanted.min() < -len(self) or wanted.max() >= len(self)):
            raise IndexError(f"index {int(wanted.max())} lies outside {len(self)} tokens")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        values = np.empty(wanted.shape, dtype=self.dtype)
        places = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(places):
            here = places == number
            values[here] = self._map(int(number))[wanted[here] - self._first(int(number))]
        return values if values.ndim else values[()]

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        values = np.empty(stop - start, dtype=self.dtype)
        number = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < len(values):
            first = start + filled - self._first(number)
            part = self._map(number)[first : first + len(values) - filled]
            values[filled : filled + len(part)] = part
            filled += len(part)
            number += 1
        return values

    def _first(self, number: int) -> int:
        """Position of the first token of a shard."""
        return int(self._ends[number]) - self._shards[number].tokens

    def _map(self, number: int) -> NDArray[Any]:
        if number not in self._maps:
            shard = self._shards[number]
            self._maps[number] = np.memmap(
                shard.path, dtype=self.dtype, mode="r", shape=(shard.tokens,)
            )
        return self._maps[number]
