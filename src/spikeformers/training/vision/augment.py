"""Augmentation of a batch of images, the same for the same (seed, step, rank, part).

flip, crop, RandAugment (Cubuk et al. 2020, 1909.13719) and erasing (Zhong et al. 2020, 1708.04896)
are kornia's, which needs no torchvision. Mixing is our own, since kornia draws its share uniformly:

    mixup    x = l x_i + (1 - l) x_j                    l from Beta(alpha, alpha), one per batch
    cutmix   a rectangle of 1 - l of x_i is x_j's       labels by the share of pixels

Zhang et al. 2018, 1710.09412; Yun et al. 2019, 1905.04899; j runs backwards through the batch, as
in timm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikeformers.data.images import Prep
from spikeformers.errors import ConfigError
from spikeformers.training.vision.config import VisionConfig


class Augment:
    """``(bytes, classes, place) -> (images in [0, 1], classes or their shares)``."""

    def __init__(self, config: VisionConfig, prep: Prep, classes: int) -> None:
        self.config, self.classes = config, classes
        enabled = [
            key for key in ("flip", "crop", "randaugment", "erasing") if getattr(config, key)
        ]
        if config.randaugment and prep.channels != 3:
            raise ConfigError(
                f"randaugment changes colours, and these images have {prep.channels} channel; set "
                "randaugment=0."
            )
        self._steps = _kornia(config, prep, enabled) if enabled else []

    def __call__(
        self, pixels: Tensor, labels: Tensor, place: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        x = pixels.float() / 255
        (word,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(word) % 2**63)
            # kornia takes one image: the frames of a recording are changed alike, as channels.
            shape = x.shape
            x = x.flatten(1, -3)
            for step in self._steps:
                x = step(x)
            return self._mix(x.reshape(shape), labels)

    def _mix(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        ways = [way for way in ("mixup", "cutmix") if getattr(self.config, way)]
        if not ways:
            return x, labels
        way = ways[int(torch.randint(len(ways), ()))]
        alpha = torch.tensor(getattr(self.config, way))
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        reversed_batch = x.flip(0)
        if way == "mixup":
            x = share * x + (1 - share) * reversed_batch
        else:
            x, share = cut(x, reversed_batch, share)
        shares = F.one_hot(labels, self.classes).float()
        return x, share * shares + (1 - share) * shares.flip(0)


def cut(x: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
    """``x`` with a rectangle of ``other``, and the remaining share of the pixels of ``x``."""
    high, wide = x.shape[-2:]
    side = (1 - share) ** 0.5
    middle = [int(torch.randint(size, ())) for size in (high, wide)]
    spans = []
    for at, size in zip(middle, (high, wide), strict=True):
        half = round(size * side) // 2
        spans.append(slice(max(0, at - half), min(size, at + half)))
    rows, columns = spans
    x = x.clone()
    x[..., rows, columns] = other[..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return x, 1 - area / (high * wide)


def _kornia(config: VisionConfig, prep: Prep, enabled: list[str]) -> list[Callable[[Any], Tensor]]:
    try:
        import kornia.augmentation as K
        from kornia.augmentation.auto import RandAugment
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{', '.join(enabled)} come from kornia: pip install 'spikeformers[vision]', or switch "
            f"them off ({', '.join(_off(key) for key in enabled)})."
        ) from error
    steps: list[Callable[[Any], Tensor]] = []
    if config.crop:
        steps.append(K.RandomCrop((prep.size, prep.size), padding=config.crop))
    if config.flip:
        steps.append(K.RandomHorizontalFlip())
    if config.randaugment:
        steps.append(RandAugment(n=config.randaugment, m=config.randaugment_magnitude))
    if config.erasing:
        steps.append(K.RandomErasing(p=config.erasing, value=prep.mean))
    return steps


def _off(key: str) -> str:
    return f"--set {key}={'false' if key == 'flip' else 0}"
