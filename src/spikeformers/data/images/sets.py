"""Labelled images by split, undecoded, on disk or in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spikeformers.data.sampling import HOLD_OUT, philox
from spikeformers.errors import ConfigError, DataError, nearest

Bytes = NDArray[np.uint8]


class Images(Protocol):
    """Images by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of an image in error messages."""

    def open(self, index: int) -> Image.Image:
        """The image, which may not be decoded yet."""


@dataclass(frozen=True)
class ArrayImages:
    """Pixels ``[N, H, W]`` (grey) or ``[N, H, W, 3]``."""

    pixels: Bytes
    origin: str

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"{self.origin}[{index}]"

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.pixels[index]))


@dataclass(frozen=True)
class EncodedImages:
    """JPEG (or PNG) files one after another in ``data``; image i ends where i + 1 begins."""

    data: Bytes
    offset: NDArray[np.int64]
    origin: str

    def __len__(self) -> int:
        return len(self.offset) - 1

    def name(self, index: int) -> str:
        return f"{self.origin}[{index}]"

    def open(self, index: int) -> Image.Image:
        start, stop = self.offset[index : index + 2]
        return Image.open(io.BytesIO(self.data[start:stop].tobytes()))


@dataclass(frozen=True)
class FileImages:
    """One file per image."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def open(self, index: int) -> Image.Image:
        return Image.open(self.paths[index])


@dataclass(frozen=True)
class ImageSplit:
    """Images and their classes; ``rows`` are the numbers of the images in this split."""

    images: Images
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class ImageData:
    """A data set with the split ``train`` and perhaps ``validation`` and ``test``."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, ImageSplit]
    digest: str
    split_by: str

    def split(self, name: str) -> ImageSplit:
        """A split by name; DataError lists the splits if it does not exist."""
        if name not in self.splits:
            raise DataError(
                f"the images of {self.name} have no {name!r} split; they have "
                f"{', '.join(self.splits)}.{nearest(name, self.splits)}"
            )
        return self.splits[name]


def make_split(images: Images, labels: NDArray[np.int64], classes: int, origin: str) -> ImageSplit:
    """All of ``images``; DataError unless there is one label per image, all below ``classes``."""
    if len(images) != len(labels):
        raise DataError(
            f"{origin}: {len(images)} images and {len(labels)} labels; there must be one label per "
            "image."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{origin}: image {first} is of class {int(labels[first])}, and the classes are 0 to "
            f"{classes - 1}; {len(wrong)} labels are out of range."
        )
    return ImageSplit(images, labels.astype(np.int64), np.arange(len(labels), dtype=np.int64))


def hold_out(
    splits: dict[str, ImageSplit], fraction: float, name: str
) -> tuple[dict[str, ImageSplit], str]:
    """Take a validation split out of train if there is none; the splits, and a sentence about it.

    The draw depends only on the number of images.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"validation_fraction must lie in [0, 1), got {fraction}.")
    if "validation" in splits:
        return splits, "its own splits"
    train = splits["train"]
    count = round(len(train) * fraction)
    if count == 0:
        if "test" not in splits:
            raise DataError(
                f"the images of {name} would have nothing to validate on: validation_fraction is "
                f"{fraction}, and there is no validation or test split."
            )
        return {**splits, "validation": splits["test"]}, "validation is the test split"
    order = np.argsort(philox(0, 0, HOLD_OUT).random_raw(len(train)), kind="stable")
    validation, remaining = np.sort(order[:count]), np.sort(order[count:])
    parts = {
        "train": ImageSplit(train.images, train.labels, train.rows[remaining]),
        "validation": ImageSplit(train.images, train.labels, train.rows[validation]),
    }
    split_by = f"{count} of {len(train)} training images, drawn at random, are validation"
    return {**splits, **parts}, split_by
