"""Recordings of event cameras: N-MNIST's and DVS-Gesture's files, as frames by time bins.

    Train/<class>/*.bin, Test/<class>/*.bin            N-MNIST, a sensor of 34 x 34
    ibmGestureTrain/<user>_<light>/<class>.npy, ...    DVS-Gesture as tonic keeps it, 128 x 128
    <class>/*.bin or *.npy, in train and test or not   your own, in one of these formats

A ``.bin`` file has five bytes per event; a ``.npy`` file has rows (x, y, polarity, milliseconds).
Frame s of S counts the events of polarity p at a pixel in the s-th of S equal parts of the
recording. tonic (https://github.com/neuromorphs/tonic) decodes N-MNIST's format and makes the
frames, as its ToFrame(n_time_bins=S) does: a part is open at its end, so that events at the last
instant are in none. Counts beyond 255 are 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spikeformers.errors import DataError
from spikeformers.foreign import foreign, one_line

SUFFIXES = (".bin", ".npy")
POLARITIES = 2
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave", "right arm clockwise"),
    *("right arm counter-clockwise", "left arm clockwise", "left arm counter-clockwise"),
    *("arm roll", "air drums", "air guitar", "other gestures"),
)
_SENSORS = {".bin": 34, ".npy": 128}
_EVENT = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])


class UnreadableEvents(ValueError):
    """A file of events that cannot be decoded."""


@dataclass(frozen=True)
class EventFiles:
    """One recording per file."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def open(self, index: int) -> Image.Image:
        raise DataError(
            f"{self.paths[index]} is a recording of events, and this model takes images. Take a "
            "preset for events, such as a2os2a-nmnist, or set frames=true and num_channels=2."
        )

    def frames(self, index: int, steps: int, size: int, fit: bool) -> NDArray[np.uint8]:
        """Counts ``[steps, 2, size, size]``; ``fit`` scales a sensor of another size.

        Raises DataError for a sensor of another size without ``fit`` or if tonic is missing, and
        UnreadableEvents for a damaged file.
        """
        path = self.paths[index]
        sensor = _SENSORS[path.suffix]
        if sensor != size and not fit:
            raise DataError(
                f"{path} is of a sensor of {sensor} x {sensor}, and this model takes {size} x "
                f"{size}. Set fit=true to scale events, or take another image_size."
            )
        events = _read(path, sensor)
        for axis in ("x", "y"):
            events[axis] = events[axis] * size // sensor
        with foreign(f"{path} cannot be made into frames", DataError):
            frames = _tonic().functional.to_frame_numpy(
                events, (size, size, POLARITIES), n_time_bins=steps
            )
        return np.minimum(frames, 255).astype(np.uint8)


def _read(path: Path, sensor: int) -> NDArray[Any]:
    """Events with x, y, t (microseconds) and p, ordered by time."""
    try:
        events = _nmnist(path) if path.suffix == ".bin" else _gesture(path)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableEvents(one_line(error)) from error
    if len(events) < 2 or events["t"].max() <= events["t"].min():
        raise UnreadableEvents("it has no two events at different times")
    inside = (events["x"] >= 0) & (events["x"] < sensor) & (events["y"] >= 0)
    if not (inside & (events["y"] < sensor) & np.isin(events["p"], (0, 1))).all():
        raise UnreadableEvents(f"events are outside a sensor of {sensor} x {sensor}")
    ordered: NDArray[Any] = events[np.argsort(events["t"], kind="stable")]
    return ordered


def _nmnist(path: Path) -> NDArray[Any]:
    if path.stat().st_size % 5:
        raise UnreadableEvents(f"{path.stat().st_size} bytes are not a multiple of 5")
    events: NDArray[Any] = _tonic().io.read_mnist_file(str(path), dtype=_EVENT)
    return events


def _gesture(path: Path) -> NDArray[Any]:
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iuf":
        raise UnreadableEvents(f"{rows.dtype} {list(rows.shape)} is not [events, 4] of numbers")
    events = np.zeros(len(rows), _EVENT)
    events["x"], events["y"], events["p"] = rows[:, 0], rows[:, 1], rows[:, 2]
    events["t"] = rows[:, 3].astype(np.int64) * 1000
    return events


def gesture_files(folder: Path) -> tuple[list[Path], list[int]]:
    """Files and classes below one of DVS-Gesture's folders, in which a class is a file's name."""
    paths = sorted(folder.rglob("*.npy"))
    wrong = [path for path in paths if not (path.stem.isdigit() and int(path.stem) < len(GESTURES))]
    if wrong:
        raise DataError(f"{wrong[0]}: a recording of DVS-Gesture is named 0.npy to 10.npy.")
    if not paths:
        raise DataError(f"{folder} holds no recording (.npy).")
    return paths, [int(path.stem) for path in paths]


def _tonic() -> Any:
    try:
        import tonic.functional
        import tonic.io
    except ModuleNotFoundError as error:
        raise DataError(
            "recordings of events are read by tonic: pip install 'spikeformers[events]'. Missing: "
            f"{error.name}."
        ) from error
    return tonic
