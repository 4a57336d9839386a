"""The images of a run and its batches: a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikeformers.data.images import ImageData, ImageReader, Prep
from spikeformers.data.sampling import ExampleSampler
from spikeformers.errors import DataError
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World
from spikeformers.training.vision.augment import Augment
from spikeformers.training.vision.config import VisionConfig


@dataclass
class ImageStore:
    """A data set with the preprocessing of a model."""

    data: ImageData
    prep: Prep
    fit: bool = False
    broken: str = "refuse"
    manifest: dict[str, Any] = field(default_factory=dict)
    """For ``run.json``: values that a resumed run must share, and the options of the data."""

    def __post_init__(self) -> None:
        self.manifest |= {
            "images": {
                "name": self.data.name,
                "digest": self.data.digest,
                "split_by": self.data.split_by,
                "classes": list(self.data.classes),
                "sizes": {name: len(part) for name, part in self.data.splits.items()},
            }
        }

    def reader(self, split: str) -> ImageReader:
        """A reader of one split."""
        return ImageReader(self.data.split(split), self.prep, fit=self.fit, broken=self.broken)

    def batches(
        self, split: str, batch_size: int, limit: int = 0, *, reader: ImageReader | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Images and classes of a split in order, at most ``limit`` (0: all), not augmented.

        With a limit they are evenly spaced in the split. Skipped broken images are left out; a
        ``reader`` that is passed in lists them.
        """
        reader = self.reader(split) if reader is None else reader
        count = min(limit, len(reader)) if limit else len(reader)
        chosen = np.linspace(0, len(reader) - 1, count).astype(np.int64)
        for first in range(0, count, batch_size):
            pixels, labels = reader.batch(chosen[first : first + batch_size])
            if len(labels):
                yield {
                    "pixel_values": normalise(torch.from_numpy(pixels), self.prep),
                    "labels": torch.from_numpy(labels),
                }


def normalise(pixels: Tensor, prep: Prep) -> Tensor:
    """The model's input from bytes, or from floats in [0, 1]."""
    x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    return (x - prep.mean) / prep.std


@dataclass(frozen=True)
class ImageBatch:
    """Images ``[B, C, H, W]`` or frames ``[B, S, C, H, W]``, and classes ``[B]`` or their shares.

    Shares are ``[B, classes]``.
    """

    pixel_values: Tensor
    labels: Tensor

    @property
    def targets(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> dict[str, Tensor]:
        return {
            "pixel_values": self.pixel_values.to(device, non_blocking=True),
            "labels": self.labels.to(device, non_blocking=True),
        }


class ImageBatches:
    """This rank's augmented micro-batches of each step."""

    def __init__(
        self, store: ImageStore, config: TrainConfig, vision: VisionConfig, world: World
    ) -> None:
        self.config, self.world = config, world
        self.prep, self.reader = store.prep, store.reader("train")
        self.augment = Augment(vision, store.prep, len(store.data.classes))
        if len(self.reader) == 0:
            raise DataError("there is no training image.")
        self.sampler = ExampleSampler(len(self.reader), config.batch_size, config.seed)

    def of(self, step: int) -> list[ImageBatch]:
        share = np.split(self.sampler.indices(step), self.world.size)[self.world.rank]
        parts = np.split(share, self.config.gradient_accumulation)
        return [self._part(part, step, number) for number, part in enumerate(parts)]

    def _part(self, indices: Any, step: int, number: int) -> ImageBatch:
        pixels, labels = self.reader.whole_batch(indices)
        place = (self.config.seed, step, self.world.rank, number)
        images, targets = self.augment(torch.from_numpy(pixels), torch.from_numpy(labels), place)
        return ImageBatch(normalise(images, self.prep), targets)
