"""Encoded examples, and the batches of each step: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikeformers.data.glue import Examples
from spikeformers.data.sampling import ORDER, philox
from spikeformers.foreign import encoding
from spikeformers.training.batches import MicroBatch
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExampleBatch(MicroBatch):
    """Examples padded on the right to the longest of them; ``starts`` are their numbers."""

    fields: dict[str, torch.Tensor]
    """The tokenizer's further outputs, the attention mask for example."""

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        return super().to(device) | {name: x.to(device) for name, x in self.fields.items()}


class Encoded:
    """Examples as tokens, cut to ``context`` (the longer text first), with their labels."""

    def __init__(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, context: int
    ) -> None:
        columns = [list(column) for column in zip(*examples.texts, strict=True)]
        with encoding():
            self.fields: dict[str, list[list[int]]] = dict(
                tokenizer(*columns, truncation=True, max_length=context)
            )
        self.cut = sum(len(ids) == context for ids in self.fields["input_ids"])
        self.labels = examples.labels
        self.pad = int(tokenizer.pad_token_id or 0)

    def __len__(self) -> int:
        return len(self.fields["input_ids"])

    def batch(self, numbers: NDArray[Any]) -> ExampleBatch:
        """The examples of these numbers; labels are 0 if the examples have none."""
        padded = {}
        for name, rows in self.fields.items():
            longest = max(len(rows[n]) for n in numbers)
            fill = self.pad if name == "input_ids" else 0
            padded[name] = torch.tensor(
                [rows[n] + [fill] * (longest - len(rows[n])) for n in numbers]
            )
        labels = torch.tensor([0 if self.labels is None else self.labels[n] for n in numbers])
        ids = padded.pop("input_ids")
        return ExampleBatch(ids, labels, len(numbers), np.asarray(numbers), padded)

    def batches(self, size: int) -> Iterator[ExampleBatch]:
        """All examples in order."""
        for first in range(0, len(self), size):
            yield self.batch(np.arange(first, min(first + size, len(self))))


class ExampleBatches:
    """This rank's micro-batches of each step: epoch after epoch, each in a new random order."""

    def __init__(self, encoded: Encoded, config: TrainConfig, world: World) -> None:
        self.encoded, self.config, self.world = encoded, config, world

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Examples of the global batch at ``step``."""
        size, total = self.config.batch_size, len(self.encoded)
        place, end = step * size, (step + 1) * size
        pieces = []
        while place < end:
            epoch, first = divmod(place, total)
            bits = philox(self.config.seed, epoch, ORDER).random_raw(total)
            piece = np.argsort(bits, kind="stable")[first : first + end - place]
            pieces.append(piece)
            place += len(piece)
        return np.concatenate(pieces)

    def of(self, step: int) -> list[ExampleBatch]:
        share = np.split(self.numbers(step), self.world.size)[self.world.rank]
        parts = np.split(share, self.config.gradient_accumulation)
        return [self.encoded.batch(part) for part in parts]
