"""The options of training on images beside ``TrainConfig``, and the training of each preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spikeformers.training.config_base import ConfigBase, require

UNUSED = ("context", "tokens", "mask_probability", "device_tflops")
"""Fields of TrainConfig that have no meaning for images."""


@dataclass(frozen=True)
class VisionConfig(ConfigBase):
    """Augmentation and averaging. Raises ``ConfigError`` for a value out of range."""

    key_name: ClassVar[str] = "key of training on images"

    epochs: int = 0  # passes over the training images; 0: TrainConfig's steps
    flip: bool = False  # left to right, half of the images
    crop: int = 0  # pixels of padding, before a random crop of the image's size
    randaugment: int = 0  # operations per image
    randaugment_magnitude: int = 9  # of 30
    erasing: float = 0.0  # share of the images in which a rectangle is erased
    mixup: float = 0.0  # alpha of Beta(alpha, alpha)
    cutmix: float = 0.0  # alpha; with mixup each batch draws one of the two
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # of the averaged weights that are validated and exported; 0: off

    def __post_init__(self) -> None:
        self.convert_fields()
        for name in ("epochs", "crop", "randaugment", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or greater")
        for name in ("erasing", "label_smoothing", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value < 1 or (name == "erasing" and value == 1), name, value, "in [0, 1)")
        magnitude = self.randaugment_magnitude
        require(1 <= magnitude < 30, "randaugment_magnitude", magnitude, "between 1 and 29")


# Spikformer's recipe, since A2OS2A's paper does not give its own completely.
_SPIKFORMER: dict[str, Any] = {
    "learning_rate": 5e-4, "weight_decay": 0.06, "batch_size": 128, "betas": [0.9, 0.999],
    "warmup_ratio": 20 / 300, "min_learning_rate_ratio": 0.02,
    "eval_every": 1000, "save_every": 1000,
    "epochs": 300, "flip": True, "randaugment": 2, "mixup": 0.5, "erasing": 0.25,
    "label_smoothing": 0.1,
}  # fmt: skip
_CIFAR = {**_SPIKFORMER, "crop": 4}
_EVENTS = {
    **_SPIKFORMER, "batch_size": 16, "epochs": 100, "flip": False, "randaugment": 0, "mixup": 0.0,
    "erasing": 0.0, "label_smoothing": 0.1,
}  # fmt: skip
TRAINING: dict[str, dict[str, Any]] = {
    "a2os2a-digits": {
        "steps": 300, "batch_size": 64, "learning_rate": 3e-3, "weight_decay": 0.05,
        "warmup_ratio": 0.1, "eval_every": 50, "save_every": 100, "eval_batches": 0,
    },
    "a2os2a-cifar-2-256": _CIFAR,
    "a2os2a-cifar-2-384": _CIFAR,
    "a2os2a-cifar-2-512": _CIFAR,
    "a2os2a-nmnist": _EVENTS,
    "a2os2a-dvs-gesture": _EVENTS,
    "a2os2a-imagenet-10-512": _SPIKFORMER,
}  # fmt: skip
"""Values of TrainConfig and VisionConfig that belong to a preset."""
