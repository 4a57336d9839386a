"""What training on images has beside ``TrainConfig``, and each preset's own training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from spikeformers.errors import ConfigError, nearest
from spikeformers.training.config import require, typed

UNUSED = ("context", "tokens", "mask_probability")
"""Fields of TrainConfig that say nothing of images."""


@dataclass(frozen=True)
class VisionConfig:
    """Augmentation and averaging. Raises ``ConfigError`` for a value out of range."""

    epochs: int = 0  # passes over the training images; 0: TrainConfig's steps decide
    flip: bool = False  # left to right, half of the images
    crop: int = 0  # pixels of padding, out of which the image's size is cut anywhere
    randaugment: int = 0  # operations an image
    randaugment_magnitude: int = 9  # of 30
    erasing: float = 0.0  # share of the images that lose a rectangle
    mixup: float = 0.0  # alpha of Beta(alpha, alpha)
    cutmix: float = 0.0  # alpha; with mixup each batch draws one of the two
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # of averaged weights, which are then validated and exported; 0: off

    def __post_init__(self) -> None:
        for field in fields(self):
            value = typed(field.name, str(field.type), getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name in ("epochs", "crop", "randaugment", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or greater")
        for name in ("erasing", "label_smoothing", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value < 1 or (name == "erasing" and value == 1), name, value, "in [0, 1)")
        magnitude = self.randaugment_magnitude
        require(1 <= magnitude < 30, "randaugment_magnitude", magnitude, "between 1 and 29")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionConfig:
        """Build from plain values; an unknown key is a ``ConfigError`` that names the nearest."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"Unknown key of training on images {key!r}.{nearest(str(key), known)} "
                    f"Known: {', '.join(known)}."
                )
        return cls(**values)


# Spikformer's recipe, in the place of A2OS2A's, which the paper does not give in full.
_SPIKFORMER: dict[str, Any] = {
    "learning_rate": 5e-4, "weight_decay": 0.06, "batch_size": 128, "betas": [0.9, 0.999],
    "warmup_ratio": 20 / 300, "min_learning_rate_ratio": 0.02,
    "eval_every": 1000, "save_every": 1000,
    "epochs": 300, "flip": True, "randaugment": 2, "mixup": 0.5, "erasing": 0.25,
    "label_smoothing": 0.1,
}  # fmt: skip
_CIFAR = {**_SPIKFORMER, "crop": 4}
TRAINING: dict[str, dict[str, Any]] = {
    "a2os2a-digits": {
        "steps": 300, "batch_size": 64, "learning_rate": 3e-3, "weight_decay": 0.05,
        "warmup_ratio": 0.1, "eval_every": 50, "save_every": 100, "eval_batches": 0,
    },
    "a2os2a-cifar-2-256": _CIFAR,
    "a2os2a-cifar-2-384": _CIFAR,
    "a2os2a-cifar-2-512": _CIFAR,
    "a2os2a-imagenet-10-512": _SPIKFORMER,
}  # fmt: skip
"""Values of TrainConfig and VisionConfig that a preset brings along."""
