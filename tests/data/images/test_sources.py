"""Image data sets of every kind, written small, and everything that is wrong with them."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spikeformers.data.images import ImageReader, Prep, load_images
from spikeformers.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def jpeg(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG")
    return stream.getvalue()


def write_jpegs(path: Path, broken: int = -1, labels: Any = LABELS) -> Path:
    coded = [jpeg(image) for image in RGB]
    if broken >= 0:
        coded[broken] = coded[broken][:100]
    offset = np.cumsum([0, *map(len, coded)])
    data = np.frombuffer(b"".join(coded), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, jpeg=data, offset=offset, label=labels)
    return path


def write_idx(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    grey = RGB[..., 0]
    for prefix, count in (("train", 8), ("t10k", 4)):
        head = struct.pack(">4B3I", 0, 0, 8, 3, count, 8, 8)
        parts = {f"{prefix}-images-idx3-ubyte": head + grey[:count].tobytes()}
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        labels = LABELS[:count].astype(np.uint8).tobytes()
        parts[f"{prefix}-labels-idx1-ubyte"] = head + labels
        for name, content in parts.items():
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


def write_folders(folder: Path) -> Path:
    for i, image in enumerate(RGB):
        place = folder / f"class {LABELS[i]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:02}.png")
    return folder


def read_all(data: Any, split: str, channels: int = 3, **options: Any) -> Any:
    reader = ImageReader(data.split(split), Prep(8, channels), **options)
    return reader.batch(np.arange(len(reader)))


def test_digits() -> None:
    pytest.importorskip("sklearn")
    data = load_images("digits")
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 1293, "validation": 144, "test": 360,
    }  # fmt: skip
    assert data.classes == tuple("0123456789")
    rows = [set(part.rows.tolist()) for part in data.splits.values()]
    assert set.union(*rows) == set(range(1797))
    pixels, labels = read_all(data, "test", channels=1)
    assert pixels.shape == (360, 1, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert set(labels.tolist()) == set(range(10))
    assert load_images("digits").digest == data.digest


def test_npz_of_jpegs(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "train.npz")
    write_jpegs(tmp_path / "test.npz")
    data = load_images(tmp_path, validation_fraction=0.25)
    assert (len(data.split("train")), len(data.split("validation"))) == (9, 3)
    pixels, labels = read_all(data, "test")
    assert labels.tolist() == LABELS.tolist()
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(RGB[5]))))
    assert np.array_equal(pixels[5], decoded.transpose(2, 0, 1))
    assert "3 of 12" in data.split_by


def test_the_public_copy_of_cifar_10(shared_data: Path) -> None:
    data = load_images(shared_data / "cifar10-jpeg")
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 45_000, "validation": 5_000, "test": 10_000,
    }  # fmt: skip
    reader = ImageReader(data.split("test"), Prep(32, 3))
    pixels, labels = reader.batch(np.arange(0, 10_000, 1000))
    assert pixels.shape == (10, 3, 32, 32)
    assert len(data.classes) == 10
    assert sorted(set(labels.tolist())) == list(range(10))


@pytest.mark.parametrize("packed", [True, False])
def test_idx(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw", packed)
    data = load_images("fashion-mnist", root=str(tmp_path), validation_fraction=0.25)
    pixels, labels = read_all(data, "test", channels=1)
    assert np.array_equal(pixels[:, 0], RGB[:4, ..., 0])
    assert labels.tolist() == [0, 1, 2, 0]
    assert len(data.split("train")) == 6


@pytest.mark.parametrize(("name", "folder", "extra"), [
    ("cifar10", "cifar-10-batches-bin", 0), ("cifar100", "cifar-100-binary", 1),
])  # fmt: skip
def test_cifar_binary(tmp_path: Path, name: str, folder: str, extra: int) -> None:
    place = tmp_path / folder
    place.mkdir()
    images = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)

    def record(i: int) -> bytes:
        return bytes([9] * extra + [i]) + images[i].tobytes()

    train, test = ("train.bin", "test.bin") if extra else ("data_batch_1.bin", "test_batch.bin")
    (place / train).write_bytes(b"".join(record(i) for i in range(4)))
    (place / test).write_bytes(b"".join(record(i) for i in (4, 5)))
    data = load_images(name, root=str(tmp_path), validation_fraction=0.25)
    pixels, labels = ImageReader(data.split("test"), Prep(32, 3)).batch(np.arange(2))
    assert np.array_equal(pixels, images[4:])
    assert labels.tolist() == [4, 5]
    assert len(data.classes) == (100 if extra else 10)
    (place / test).write_bytes(record(4)[:-1])
    with pytest.raises(DataError, match="cut off"):
        load_images(name, root=str(tmp_path))


def test_folders_of_classes(tmp_path: Path) -> None:
    data = load_images(write_folders(tmp_path / "pets"), validation_fraction=0.25)
    assert data.classes == ("class 0", "class 1", "class 2")
    assert data.name == "pets"
    complete = ImageReader(data.split("train"), Prep(8, 3))
    pixels, labels = complete.batch(np.arange(9))
    assert pixels.shape == (9, 3, 8, 8)
    assert len(labels) == 9
    for part in ("train", "val"):
        write_folders(tmp_path / "split" / part)
    split = load_images("imagenet-folder", root=str(tmp_path / "split"))
    assert {name: len(part) for name, part in split.splits.items()} == {
        "train": 12, "validation": 12,
    }  # fmt: skip
    assert split.split_by == "its own splits"
    pixels, labels = read_all(split, "train")
    assert np.array_equal(pixels[1], RGB[3].transpose(2, 0, 1))  # the second of class 0
    assert labels.tolist() == sorted(LABELS.tolist())


# --- what is wrong -------------------------------------------------------------------------------


def test_a_pickle_is_refused_and_the_binary_version_named(tmp_path: Path) -> None:
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    (place / "data_batch_1").write_bytes(b"\x80\x04 never opened")
    with pytest.raises(DataError, match=r"pickle.*cifar-10-binary\.tar\.gz"):
        load_images("cifar10", root=str(tmp_path))
    np.savez(tmp_path / "train.npz", label=np.array([{}], dtype=object), images=RGB)
    with pytest.raises(DataError, match="plain arrays"):
        load_images(tmp_path)


def test_a_broken_jpeg_is_named_skipped_or_refused(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "train.npz", broken=7)
    write_jpegs(tmp_path / "test.npz", broken=7)
    data = load_images(tmp_path, validation_fraction=0.25)
    with pytest.raises(DataError, match=r"test\.npz\[7\] cannot be read.*broken=skip"):
        read_all(data, "test")
    reader = ImageReader(data.split("test"), Prep(8, 3), broken="skip")
    pixels, labels = reader.batch(np.arange(12))
    assert len(pixels) == 11
    assert labels.tolist() == np.delete(LABELS, 7).tolist()
    assert list(reader.skipped) == ["test.npz[7]"]
    pixels, labels = reader.whole_batch(np.array([6, 7]))  # the next one stands in
    assert labels.tolist() == [LABELS[6], LABELS[8]]
    with pytest.raises(ConfigError, match="Did you mean 'skip'"):
        ImageReader(data.split("test"), Prep(8, 3), broken="skp")


def test_wrong_sizes_and_modes(tmp_path: Path) -> None:
    for name, size, mode in (("a", (8, 8), "RGB"), ("b", (12, 9), "RGB"), ("c", (8, 8), "P")):
        (tmp_path / name).mkdir()
        image = Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        image.convert(mode).save(tmp_path / name / "0.png")
    data = load_images(tmp_path, validation_fraction=0.34)

    def read(split: str, index: int, **options: Any) -> Any:
        return ImageReader(data.split(split), Prep(8, 3), **options).read(index)

    names = {
        Path(part.images.name(int(row))).parent.name: (split, i)
        for split, part in data.splits.items()
        for i, row in enumerate(part.rows)
    }
    assert read(*names["a"]).shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"0\.png is 12 x 9 of mode RGB.*takes 8 x 8 of mode RGB"):
        read(*names["b"])
    with pytest.raises(DataError, match=r"of mode P.*fit=true"):
        read(*names["c"])
    assert all(read(*names[name], fit=True).shape == (3, 8, 8) for name in "abc")


def test_labels_out_of_range(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "train.npz")
    write_jpegs(tmp_path / "test.npz", labels=np.where(LABELS == 2, 5, LABELS))
    with pytest.raises(DataError, match=r"image 2 is of class 5, and the classes are 0 to 2; 4"):
        load_images(tmp_path)
    write_jpegs(tmp_path / "train.npz", labels=LABELS - 1)
    with pytest.raises(DataError, match="image 0 is of class -1"):
        load_images(tmp_path)
    write_jpegs(tmp_path / "train.npz", labels=LABELS[:5])
    with pytest.raises(DataError, match=r"offset|labels"):
        load_images(tmp_path)


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    pets = write_folders(tmp_path / "pets")
    (pets / "class 9").mkdir()
    with pytest.raises(DataError, match="class 9 is a class without an image"):
        load_images(pets)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_images(tmp_path / "nothing")
    for part, classes in (("train", "ab"), ("val", "ac")):
        for class_name in classes:
            (tmp_path / "odd" / part / class_name).mkdir(parents=True)
            Image.fromarray(RGB[0]).save(tmp_path / "odd" / part / class_name / "0.png")
    with pytest.raises(DataError, match="differ in the class 'b'"):
        load_images(tmp_path / "odd")


def test_names_and_fractions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'cifar10'"):
        load_images("cifar1")
    with pytest.raises(DataError, match="set root"):
        load_images("cifar10", root=str(tmp_path))
    write_jpegs(tmp_path / "train.npz")
    with pytest.raises(DataError, match="nothing to validate on"):
        load_images(tmp_path, validation_fraction=0.0)
    with pytest.raises(ConfigError, match="validation_fraction"):
        load_images(tmp_path, validation_fraction=1.0)
    with pytest.raises(DataError, match="no 'test' split; they have train, validation"):
        load_images(tmp_path).split("test")
    (tmp_path / "train.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match="not a complete npz"):
        load_images(tmp_path)
