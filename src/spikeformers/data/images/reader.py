"""From images of any kind to bytes ``[B, C, H, W]`` of the size and mode that a model takes.

A broken image is an error that names it, or is skipped: left out when a model is measured, and
replaced by the next readable image in training (always the same one, so that runs are repeatable).
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spikeformers.data.images.events import POLARITIES, EventFiles, UnreadableEvents
from spikeformers.data.images.sets import Bytes, ImageSplit
from spikeformers.errors import CheckpointError, ConfigError, DataError, nearest
from spikeformers.foreign import read_json
from spikeformers.values import fits, shortened

logger = logging.getLogger(__name__)

BROKEN = ("refuse", "skip")
CACHE_BYTES = 1 << 30
_MODES = {1: "L", 3: "RGB"}
_UNREADABLE = (OSError, SyntaxError, ValueError, UnidentifiedImageError, EOFError)
COUNTS = {"mean": 0.0, "std": 1 / 255}
"""Of frames of events: the model's input is the counts themselves."""


@dataclass(frozen=True)
class Prep:
    """A model's preprocessing of bytes: ``(x / 255 - mean) / std`` of C x size x size.

    With ``frames`` S it takes recordings of events as S frames of counts.
    """

    size: int
    channels: int
    mean: float = 0.5
    std: float = 0.5
    frames: int = 0

    @classmethod
    def of(cls, config: Any) -> Prep:
        """The preprocessing of a new model of ``config``."""
        size, channels = config.image_size, config.num_channels
        if getattr(config, "frames", False):
            return cls(size, channels, **COUNTS, frames=config.steps)
        return cls(size, channels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image ``[C, H, W]`` or recording ``[S, C, H, W]``."""
        image = (self.channels, self.size, self.size)
        return (self.frames, *image) if self.frames else image

    @classmethod
    def from_pretrained(cls, folder: str | Path, config: Any) -> Prep:
        """Read what ``save_pretrained`` wrote; the defaults if the folder has no such file."""
        path = Path(folder) / "preprocessor_config.json"
        new = cls.of(config)
        if not path.is_file():
            return new
        values = read_json(path)
        numbers = []
        for key in ("image_mean", "image_std"):
            values_per_channel = values.get(key)
            if not fits(values_per_channel, list[float]) or len(set(values_per_channel or ())) != 1:
                raise CheckpointError(
                    f"{path} does not give one image_mean and one image_std for all channels: "
                    f"{key} is {shortened(values_per_channel)}."
                )
            numbers.append(float(values_per_channel[0]))  # type: ignore[index]
        if numbers[1] <= 0:
            raise CheckpointError(f"{path}: image_std is {numbers[1]}; it must be greater than 0.")
        mean, std = numbers
        return replace(new, mean=mean, std=std)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``, which Transformers' ViTImageProcessor reads."""
        statistics = {
            "image_mean": [self.mean] * self.channels,
            "image_std": [self.std] * self.channels,
        }
        values: dict[str, Any] = (
            statistics
            if self.frames
            else {
                "image_processor_type": "ViTImageProcessor",
                "do_convert_rgb": self.channels == 3,
                "do_resize": True,
                "size": {"height": self.size, "width": self.size},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                **statistics,
            }
        )
        path = Path(folder) / "preprocessor_config.json"
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class ImageReader:
    """Reads a split for a model; decoded images are kept while they fit ``cache_bytes``."""

    def __init__(
        self,
        split: ImageSplit,
        prep: Prep,
        *,
        fit: bool = False,
        broken: str = "refuse",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if broken not in BROKEN:
            raise ConfigError(
                f"broken is {broken!r}; one of {', '.join(BROKEN)}.{nearest(broken, BROKEN)}"
            )
        if prep.frames and prep.channels != POLARITIES:
            raise ConfigError(f"events have {POLARITIES} polarities, not {prep.channels} channels.")
        if not prep.frames and prep.channels not in _MODES:
            raise ConfigError(f"images have 1 or 3 channels, not {prep.channels}.")
        self.split, self.prep, self.fit, self.broken = split, prep, fit, broken
        self.skipped: dict[str, str] = {}
        """Name of a broken image -> the reason why it cannot be read."""
        self._room = cache_bytes // math.prod(prep.shape)
        self._cache: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self.split)

    def read(self, index: int) -> Bytes | None:
        """Image ``index`` of the split, of ``prep.shape``; None if it is broken and skipped."""
        row = int(self.split.rows[index])
        if row in self._cache:
            return self._cache[row]
        name = self.split.images.name(row)
        if name in self.skipped:
            return None
        try:
            pixels = (
                self._frames(row) if self.prep.frames else self._pixels(self._opened(row), name)
            )
        except (*_UNREADABLE, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if self.broken == "refuse":
                kind = "events" if isinstance(error, UnreadableEvents) else "an image"
                raise DataError(
                    f"{name} cannot be read as {kind}: {reason}. Take it out, or set broken=skip."
                ) from error
            logger.warning("%s is skipped: %s", name, reason)
            self.skipped[name] = reason
            return None
        if len(self._cache) < self._room:
            self._cache[row] = pixels
        return pixels

    def batch(self, indices: NDArray[np.int64]) -> tuple[Bytes, NDArray[np.int64]]:
        """Bytes ``[B, *prep.shape]`` and labels ``[B]`` of the images that can be read."""
        images = [(self.read(int(index)), int(index)) for index in indices]
        readable = [(pixels, index) for pixels, index in images if pixels is not None]
        shape = (0, *self.prep.shape)
        stacked = (
            np.stack([p for p, _ in readable]) if readable else np.zeros(shape, dtype=np.uint8)
        )
        rows = (
            self.split.rows[[index for _, index in readable]] if readable else np.zeros(0, np.int64)
        )
        return stacked, self.split.labels[rows]

    def whole_batch(self, indices: NDArray[np.int64]) -> tuple[Bytes, NDArray[np.int64]]:
        """As ``batch``, with the next readable image in place of a broken one."""
        return self.batch(np.array([self._readable(int(index)) for index in indices]))

    def _readable(self, index: int) -> int:
        for step in range(len(self.split)):
            other = (index + step) % len(self.split)
            if self.read(other) is not None:
                return other
        raise DataError("no image of this split can be read.")

    def _opened(self, row: int) -> Image.Image:
        image = self.split.images.open(row)
        image.load()
        return image

    def _frames(self, row: int) -> Bytes:
        images, prep = self.split.images, self.prep
        if not isinstance(images, EventFiles):
            raise DataError(
                f"{images.name(row)} is an image, and this model takes recordings of events "
                "(frames=true). Take a preset for images, or set frames=false."
            )
        return images.frames(row, prep.frames, prep.size, self.fit)

    def _pixels(self, image: Image.Image, name: str) -> Bytes:
        size, mode = self.prep.size, _MODES[self.prep.channels]
        if not self.fit and (image.mode != mode or image.size != (size, size)):
            raise DataError(
                f"{name} is {image.width} x {image.height} of mode {image.mode}; this model takes "
                f"{size} x {size} of mode {mode}. Set fit=true to convert, resize and crop images, "
                "or take another model or image_size."
            )
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != (size, size):
            ratio = size / min(image.size)
            wide, high = (max(size, round(side * ratio)) for side in image.size)
            image = image.resize((wide, high), Image.Resampling.BICUBIC)
            left, top = (wide - size) // 2, (high - size) // 2
            image = image.crop((left, top, left + size, top + size))
        pixels = np.asarray(image, dtype=np.uint8)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels)
