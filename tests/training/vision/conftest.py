"""Grey and coloured images of three easy classes, and models that train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.data.images import ImageData, Prep
from spikeformers.data.images.sets import ArrayImages, hold_out, make_split
from spikeformers.models import build_model, build_vision_config, control_of
from spikeformers.training import TrainConfig
from spikeformers.training.vision import ImageStore


def stripes(count: int = 60, channels: int = 1) -> ImageData:
    """Class c has a bright row at c * 3, in noise."""
    draw = np.random.default_rng(5)
    shape = (count, 8, 8) if channels == 1 else (count, 8, 8, channels)
    pixels = draw.integers(0, 90, shape).astype(np.uint8)
    labels = np.arange(count) % 3
    pixels[np.arange(count), labels * 3] += 150
    complete = {"train": make_split(ArrayImages(pixels, "stripes"), labels, 3, "stripes")}
    splits, description = hold_out(complete, 0.2, "stripes")
    return ImageData("stripes", ("top", "middle", "bottom"), splits, "f" * 64, description)


@pytest.fixture
def store() -> Callable[..., ImageStore]:
    def make(channels: int = 1, **options: Any) -> ImageStore:
        return ImageStore(stripes(channels=channels), Prep(8, channels), **options)

    return make


@pytest.fixture
def model() -> Callable[..., Any]:
    """``model(control=True)``: the same weights at each call."""

    def make(seed: int = 0, *, control: bool = False, channels: int = 1, **changes: Any) -> Any:
        small = {
            "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "steps": 2,
            "num_hidden_layers": 1, "num_labels": 3, "num_channels": channels, "dropout": 0.1,
        }  # fmt: skip
        config = build_vision_config("a2os2a-digits", small | changes)
        torch.manual_seed(seed)
        return build_model(control_of(config) if control else config)

    return make


@pytest.fixture
def config() -> Callable[..., TrainConfig]:
    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "steps": 6, "batch_size": 8, "eval_every": 3, "eval_batches": 0, "save_every": 2,
            "log_every": 1, "learning_rate": 1e-2, "device": "cpu",
        }  # fmt: skip
        return TrainConfig.from_dict(values | changes)

    return make
