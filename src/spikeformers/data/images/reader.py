"""From images of any kind to bytes ``[B, C, H, W]`` of the size and mode that a model takes.

A broken image is an error that names it, or is skipped: left out when a model is measured, and
replaced by the next readable image in training (always the same one, so that runs are repeatable).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spikeformers.data.images.sets import Bytes, ImageSplit
from spikeformers.errors import CheckpointError, ConfigError, DataError, nearest
from spikeformers.foreign import read_json
from spikeformers.values import fits, shortened

logger = logging.getLogger(__name__)

BROKEN = ("refuse", "skip")
CACHE_BYTES = 1 << 30
_MODES = {1: "L", 3: "RGB"}
_UNREADABLE = (OSError, SyntaxError, ValueError, UnidentifiedImageError, EOFError)


@dataclass(frozen=True)
class Prep:
    """A model's preprocessing of bytes: ``(x / 255 - mean) / std`` of C x size x size."""

    size: int
    channels: int
    mean: float = 0.5
    std: float = 0.5

    @classmethod
    def from_pretrained(cls, folder: str | Path, size: int, channels: int) -> Prep:
        """Read what ``save_pretrained`` wrote; the defaults if the folder has no such file."""
        path = Path(folder) / "preprocessor_config.json"
        if not path.is_file():
            return cls(size, channels)
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
        return cls(size, channels, *numbers)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``, which Transformers' ViTImageProcessor reads."""
        values: dict[str, Any] = {
            "image_processor_type": "ViTImageProcessor",
            "do_convert_rgb": self.channels == 3,
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [self.mean] * self.channels,
            "image_std": [self.std] * self.channels,
        }
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
        if prep.channels not in _MODES:
            raise ConfigError(f"images have 1 or 3 channels, not {prep.channels}.")
        self.split, self.prep, self.fit, self.broken = split, prep, fit, broken
        self.skipped: dict[str, str] = {}
        """Name of a broken image -> the reason why it cannot be read."""
        self._room = cache_bytes // (prep.channels * prep.size**2)
        self._cache: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self.split)

    def read(self, index: int) -> Bytes | None:
        """Image ``index`` of the split, ``[C, H, W]``; None if it is broken and skipped."""
        row = int(self.split.rows[index])
        if row in self._cache:
            return self._cache[row]
        name = self.split.images.name(row)
        if name in self.skipped:
            return None
        try:
            image = self.split.images.open(row)
            image.load()
        except (*_UNREADABLE, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if self.broken == "refuse":
                raise DataError(
                    f"{name} cannot be read as an image: {reason}. Take it out, or set broken=skip."
                ) from error
            logger.warning("%s is skipped: %s", name, reason)
            self.skipped[name] = reason
            return None
        pixels = self._pixels(image, name)
        if len(self._cache) < self._room:
            self._cache[row] = pixels
        return pixels

    def batch(self, indices: NDArray[np.int64]) -> tuple[Bytes, NDArray[np.int64]]:
        """Bytes ``[B, C, H, W]`` and labels ``[B]`` of the images that can be read."""
        images = [(self.read(int(index)), int(index)) for index in indices]
        readable = [(pixels, index) for pixels, index in images if pixels is not None]
        shape = (0, self.prep.channels, self.prep.size, self.prep.size)
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
