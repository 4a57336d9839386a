"""Files that hold many images: npz, IDX (MNIST's) and CIFAR's binary version. No pickle is read."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.data.images.sets import ArrayImages, Bytes, EncodedImages, Images
from spikeformers.errors import DataError

Labels = NDArray[np.int64]


def read_npz(path: Path) -> tuple[Images, Labels]:
    """``jpeg``, ``offset`` and ``label``; or ``images`` ``[N, H, W(, 3)]`` and ``label``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete npz file of plain arrays: {error}") from error
    labels = held.get("label", held.get("labels"))
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path} has no array 'label' of whole numbers; it has {sorted(held)}.")
    if "jpeg" in held and "offset" in held:
        return _encoded(path, held), labels.astype(np.int64)
    if "images" not in held:
        raise DataError(
            f"{path} has neither 'jpeg' and 'offset' nor 'images'; it has {sorted(held)}."
        )
    return ArrayImages(_bytes(path, held["images"]), path.name), labels.astype(np.int64)


def _encoded(path: Path, held: dict[str, NDArray[Any]]) -> EncodedImages:
    data, offset = held["jpeg"], held["offset"].astype(np.int64)
    if len(offset) == len(held.get("label", held.get("labels", ()))):  # without the last end
        offset = np.append(offset, len(data))
    ordered = len(offset) > 1 and bool((np.diff(offset) >= 0).all())
    if data.dtype != np.uint8 or not ordered or offset[0] < 0 or offset[-1] > len(data):
        raise DataError(
            f"{path}: 'offset' must rise from 0 to at most the {len(data)} bytes of 'jpeg'."
        )
    return EncodedImages(data, offset, path.name)


def _bytes(path: Path, images: NDArray[Any]) -> Bytes:
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] in ((1,), (3,))):
        raise DataError(
            f"{path}: 'images' is {images.dtype} {list(images.shape)}; it must be uint8 "
            "[N, H, W] or [N, H, W, 3]."
        )
    return images[..., 0] if images.shape[3:] == (1,) else images


def read_idx(images: Path, labels: Path) -> tuple[Images, Labels]:
    """MNIST's format, plain or gzipped: http://yann.lecun.com/exdb/mnist/."""
    pixels, classes = _idx(images, 3), _idx(labels, 1)
    return ArrayImages(pixels, images.name), classes.astype(np.int64)


def _idx(path: Path, dimensions: int) -> Bytes:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    head = 4 + 4 * dimensions
    if len(raw) < head or raw[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions.")
    shape = np.frombuffer(raw, ">u4", dimensions, 4).astype(np.int64)
    if len(raw) - head != int(shape.prod()):
        raise DataError(
            f"{path} holds {len(raw) - head} bytes where its header says {int(shape.prod())}; "
            "it is cut off."
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def read_cifar(paths: list[Path], label_bytes: int) -> tuple[Images, Labels]:
    """CIFAR's binary version: ``label_bytes`` (the last counts), then 3 x 32 x 32 bytes."""
    records = []
    size = label_bytes + 3072
    for path in paths:
        raw = np.fromfile(path, np.uint8)
        if len(raw) == 0 or len(raw) % size:
            raise DataError(
                f"{path} holds {len(raw)} bytes, which is not a multiple of {size}; it is cut off."
            )
        records.append(raw.reshape(-1, size))
    table = np.concatenate(records)
    pixels = table[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArrayImages(pixels, paths[0].parent.name), table[:, label_bytes - 1].astype(np.int64)
