"""``load_images``: a data set by its name or its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spikeformers.data.images import events, formats
from spikeformers.data.images.sets import (
    ArrayImages,
    FileImages,
    ImageData,
    ImageSplit,
    hold_out,
    make_split,
)
from spikeformers.data.sampling import HOLD_OUT, philox
from spikeformers.errors import DataError, nearest
from spikeformers.values import require_kind

NAMED = (
    *("digits", "cifar10", "cifar100", "fashion-mnist", "imagenet-folder"),
    *("nmnist", "dvs-gesture"),
)
FASHION = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
SYSTEM = Path("/usr/share/datasets")  # where Debian's data packages put theirs
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".gif", ".tif", ".tiff")
FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
FOLDERS |= {"test": "test", "Train": "train", "Test": "test"}  # capitals: N-MNIST's
GESTURES = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}
TEST_DIGITS = 360

Found = tuple[dict[str, ImageSplit], tuple[str, ...], list[Path]]


def load_images(
    source: str | Path, *, root: str = "", validation_fraction: float = 0.1
) -> ImageData:
    """The images that ``source`` names: ``"digits"``, a known data set, or a folder.

    ``cifar10``, ``cifar100`` (binary version), ``fashion-mnist`` (IDX) and ``imagenet-folder`` are
    looked for in ``root``, as are the recordings of events ``nmnist`` and ``dvs-gesture``. A folder
    holds ``train.npz`` (and ``test.npz``), IDX files, CIFAR's binary files, or one folder per class
    with images or recordings, optionally inside ``train``, ``val`` and ``test``.
    Without a validation split, ``validation_fraction`` of the training images become one. Raises
    DataError for missing or damaged data.
    """
    name = str(source)
    require_kind("root", root, str)
    require_kind("validation_fraction", validation_fraction, float)
    if name == "digits":
        splits, classes, digest = _digits()
    else:
        folder = _find(name, root)
        splits, classes, files = _read(folder, name)
        digest = _digest(folder, files)
    splits, split_by = hold_out(splits, validation_fraction, name)
    empty = [split for split, part in splits.items() if len(part) == 0]
    if empty:
        raise DataError(f"the images of {name} have an empty {empty[0]} split.")
    order = ("train", "validation", "test")
    ordered: dict[str, ImageSplit] = {key: splits[key] for key in order if key in splits}
    shown = name if name in NAMED else Path(name).name
    return ImageData(shown, classes, ordered, digest, split_by)


def _digits() -> tuple[dict[str, ImageSplit], tuple[str, ...], str]:
    """8 x 8 digits of 43 writers (Alpaydin & Kaynak 1998, UCI), as scikit-learn ships them."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "the 8 x 8 digits come with scikit-learn: pip install 'spikeformers[vision]'."
        ) from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    complete = make_split(ArrayImages(pixels, "digits"), labels, 10, "digits")
    order = np.argsort(philox(1, 0, HOLD_OUT).random_raw(len(complete)), kind="stable")
    splits = {
        "train": ImageSplit(complete.images, complete.labels, np.sort(order[TEST_DIGITS:])),
        "test": ImageSplit(complete.images, complete.labels, np.sort(order[:TEST_DIGITS])),
    }
    return splits, tuple(map(str, range(10))), digest


def _find(name: str, root: str) -> Path:
    """The folder of a data set."""
    base = Path(root).expanduser() if root else Path("data")
    inside = {
        "cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py", "."),
        "cifar100": ("cifar-100-binary", "cifar-100-python", "."),
        "fashion-mnist": ("FashionMNIST/raw", "fashion-mnist", "."),
        "imagenet-folder": (".",),
        "nmnist": ("NMNIST", "nmnist", "."),
        "dvs-gesture": ("DVSGesture", "dvs-gesture", "."),
    }
    if name not in inside:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"{name!r} is not a folder, and not the name of a data set: {', '.join(NAMED)}."
                f"{nearest(name, NAMED)}"
            )
        return folder
    tried = [base / part for part in inside[name]] if root or base.is_dir() else []
    tried = [folder for folder in tried if folder.is_dir() and any(folder.iterdir())]
    if name == "fashion-mnist" and (SYSTEM / name).is_dir():
        tried.append(SYSTEM / name)
    if not tried:
        raise DataError(
            f"{name} is not in {base}: set root to the folder that holds it"
            f"{' (' + inside[name][0] + ')' if name != 'imagenet-folder' else ''}."
        )
    return tried[0]


def _read(folder: Path, name: str) -> Found:
    """Splits, class names and files of a folder of any known kind."""
    names = {path.name for path in folder.iterdir()}
    if "train.npz" in names:
        return _npz(folder)
    if any("images-idx3-ubyte" in file or "images.idx3-ubyte" in file for file in names):
        return _idx(folder, FASHION if "fashion" in str(folder).lower() + name else None)
    if {"data_batch_1.bin", "test_batch.bin"} & names:
        train = sorted(folder.glob("data_batch_*.bin"))
        return _cifar(folder, train, "test_batch.bin", 1, "batches.meta.txt")
    if {"train.bin", "test.bin"} & names:
        return _cifar(folder, [folder / "train.bin"], "test.bin", 2, "fine_label_names.txt")
    if {"data_batch_1", "batches.meta", "meta"} & names:
        raise DataError(
            f"{folder} holds CIFAR's python version, which is a pickle: opening it can run code, "
            "so it is not read. Take the binary version (cifar-10-binary.tar.gz or "
            "cifar-100-binary.tar.gz of the same page)."
        )
    if GESTURES["train"] in names:
        return _gestures(folder)
    return _folders(folder)


def _gestures(folder: Path) -> Found:
    """DVS-Gesture as tonic keeps it: in each split one folder per user and light."""
    splits: dict[str, ImageSplit] = {}
    files: list[Path] = []
    for split, name in GESTURES.items():
        if (folder / name).is_dir():
            paths, labels = events.gesture_files(folder / name)
            splits[split] = make_split(
                events.EventFiles(paths), np.array(labels), len(events.GESTURES), str(folder / name)
            )
            files += paths
    return splits, events.GESTURES, files


def _npz(folder: Path) -> Found:
    splits: dict[str, ImageSplit] = {}
    files = [folder / "train.npz"]
    images, labels = formats.read_npz(files[0])
    classes = int(labels.max(initial=-1)) + 1
    splits["train"] = make_split(images, labels, classes, str(files[0]))
    for split in ("validation", "test"):
        path = folder / f"{split}.npz"
        if path.is_file():
            splits[split] = make_split(*formats.read_npz(path), classes, str(path))
            files.append(path)
    return splits, tuple(map(str, range(classes))), files


def _idx(folder: Path, names: tuple[str, ...] | None) -> Found:
    splits, files, classes = {}, [], 0
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pair = [_one(folder, prefix, part) for part in ("images", "labels")]
        images, labels = formats.read_idx(*pair)
        classes = classes or int(labels.max(initial=-1)) + 1
        splits[split] = make_split(images, labels, classes, str(pair[0]))
        files += pair
    fits = names is not None and len(names) == classes
    return splits, names if fits and names else tuple(map(str, range(classes))), files


def _one(folder: Path, prefix: str, part: str) -> Path:
    matches = sorted(folder.glob(f"{prefix}-{part}[-.]idx?-ubyte*"))
    if not matches:
        raise DataError(f"{folder} has no {prefix}-{part}-idx?-ubyte file (.gz is read too).")
    return matches[0]


def _cifar(folder: Path, train: list[Path], test: str, label_bytes: int, names: str) -> Found:
    for path in (*train, folder / test):
        if not path.is_file():
            raise DataError(f"{folder} has no {path.name}; the data set is incomplete.")
    classes = 10 if label_bytes == 1 else 100
    splits = {
        split: make_split(*formats.read_cifar(paths, label_bytes), classes, str(paths[0]))
        for split, paths in (("train", train), ("test", [folder / test]))
    }
    listed = folder / names
    class_names = listed.read_text(encoding="utf-8").split() if listed.is_file() else []
    if len(class_names) != classes:
        class_names = [str(number) for number in range(classes)]
    return splits, tuple(class_names), [*train, folder / test]


def _folders(folder: Path) -> Found:
    """One folder per class, ordered by name; inside train, val and test if these exist."""
    parts = {
        FOLDERS[p.name]: p for p in sorted(folder.iterdir()) if p.name in FOLDERS and p.is_dir()
    }
    if "train" not in parts:
        parts = {"train": folder}
    classes: tuple[str, ...] = ()
    splits: dict[str, ImageSplit] = {}
    files: list[Path] = []
    for split, place in sorted(parts.items(), key=lambda item: item[0] != "train"):
        names = tuple(sorted(p.name for p in place.iterdir() if _is_class(p)))
        if not names:
            raise DataError(
                f"{place} holds no images in a known layout: train.npz, IDX, CIFAR's binary "
                "files, or one folder per class."
            )
        classes = classes or names
        if names != classes:
            other = sorted(set(names) ^ set(classes))
            raise DataError(f"{place} and the train folder differ in the class {other[0]!r}.")
        paths, labels = [], []
        for number, name in enumerate(names):
            known = (*SUFFIXES, *events.SUFFIXES)
            images = sorted(p for p in (place / name).rglob("*") if p.suffix.lower() in known)
            if not images:
                raise DataError(
                    f"{place / name} is a class without an image. Remove the folder, or put images "
                    f"({', '.join(SUFFIXES)}) or recordings of events "
                    f"({', '.join(events.SUFFIXES)}) into it."
                )
            paths += images
            labels += [number] * len(images)
        recorded = [path for path in paths if path.suffix.lower() in events.SUFFIXES]
        if recorded and len(recorded) < len(paths):
            raise DataError(f"{place} holds images and recordings of events; separate them.")
        opened = events.EventFiles(paths) if recorded else FileImages(paths)
        splits[split] = make_split(opened, np.array(labels), len(names), str(place))
        files += paths
    return splits, classes, files


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _digest(folder: Path, files: Iterable[Path]) -> str:
    """sha256 of names and sizes, and of the content of files that hold many images."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\n".encode())
        if path.suffix.lower() not in SUFFIXES:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()
