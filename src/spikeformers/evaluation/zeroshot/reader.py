"""Scoring without a PyTorch model: by a reader that returns the logits of a text, as the engine.

It reads the options of one context together, without padding; tokens, windows and rules are those
of ``scorer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.evaluation.zeroshot.scorer import Piece, SpikeformersLM


class Reader(ABC):
    """A causal language model in another program."""

    positions: int
    """Length of the longest text in tokens."""
    kind: str
    """Name of the device in results, "engine" for example."""

    @abstractmethod
    def tails(self, texts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Tensor]:
        """Of each text logits ``[count, V]`` after each of its last ``count`` tokens."""

    @abstractmethod
    def record(self, name: str, tokenizer: Any) -> dict[str, Any]:
        """The model's entry in results, as ``evaluation.provenance.model_record``."""


class ReaderLM(SpikeformersLM):
    """The harness' ``LM`` for a ``Reader``."""

    def __init__(self, reader: Reader, tokenizer: Any, **options: Any) -> None:
        super().__init__(reader, tokenizer, **(options | {"batch_size": 1}))
        if self.cached:
            raise ConfigError(f"--cached is for PyTorch models only, not for the {reader.kind}.")

    def _open(self, pretrained: Any, device: str | None) -> int:
        self.reader: Reader = pretrained
        self._device = torch.device("cpu")
        return self.reader.positions

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[list[list[Piece]]]:
        return self._cached_batches(pieces)

    def _score(self, batch: list[list[Piece]]) -> list[Tensor]:
        counts = [max(len(piece.targets) for piece in group) for group in batch]
        return self.reader.tails([group[0].tokens for group in batch], counts)
