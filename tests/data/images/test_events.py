"""Recordings of event cameras, written small in the formats of N-MNIST and DVS-Gesture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.data.images import ImageReader, Prep, load_images
from spikeformers.errors import ConfigError, DataError
from spikeformers.models import (
    SpikingViTConfig,
    SpikingViTForImageClassification,
    build_vision_config,
    control_of,
)
from spikeformers.training.vision import ImageStore

pytest.importorskip("tonic")

Event = tuple[int, int, int, int]  # x, y, microseconds, polarity
# Four equal parts of 0 to 400: two events in the first, one each in the second and the last. The
# event that ends the recording is in none: tonic's parts are open at their end.
EVENTS: list[Event] = [
    *((1, 2, 0, 1), (1, 2, 50, 1)),
    *((3, 4, 150, 0), (33, 0, 390, 1), (9, 9, 400, 0)),
]


def nmnist(events: Sequence[Event]) -> bytes:
    """Five bytes per event: x, y, polarity in the highest of 24 bits, 23 bits of microseconds."""
    rows = [(x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255) for x, y, t, p in events]
    return bytes(value for row in rows for value in row)


def write_nmnist(folder: Path, count: int = 4) -> Path:
    for split in ("Train", "Test"):
        for label in range(3):
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                moved = [((x + label) % 34, y, t, p) for x, y, t, p in EVENTS]
                (place / f"{number:05}.bin").write_bytes(nmnist(moved))
    return folder


def write_gestures(folder: Path) -> Path:
    rows = np.array([(0, 0, 1, 0), (127, 64, 0, 1), (64, 127, 1, 3), (5, 5, 1, 4)], np.int64)
    for name in ("ibmGestureTrain", "ibmGestureTest"):
        for user in ("user01_led", "user02_lab"):
            place = folder / name / user
            place.mkdir(parents=True)
            for label in (0, 10):
                np.save(place / f"{label}.npy", rows)
    return folder


def reader(data: Any, split: str = "train", size: int = 34, frames: int = 4, **more: Any) -> Any:
    prep = Prep(size, 2, 0.0, 1 / 255, frames)
    return ImageReader(data.split(split), prep, **more)


def test_frames_count_the_events_of_each_part_of_the_time(tmp_path: Path) -> None:
    data = load_images(write_nmnist(tmp_path / "NMNIST"), validation_fraction=0.25)
    assert data.classes == ("0", "1", "2")
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 9,
        "validation": 3,
        "test": 12,
    }
    frames, labels = reader(data, "test").batch(np.array([0, 4]))
    assert frames.shape == (2, 4, 2, 34, 34)
    assert labels.tolist() == [0, 1]
    # [frame, polarity, y, x]
    expected = {(0, 1, 2, 1): 2, (1, 0, 4, 3): 1, (3, 1, 0, 33): 1}
    assert {tuple(map(int, at)): int(frames[0][tuple(at)]) for at in np.argwhere(frames[0])} == (
        expected
    )
    assert int(frames[1][0, 1, 2, 2]) == 2  # class 1 is one pixel to the right


def test_a_named_set_is_found_in_its_root_and_gestures_have_their_names(tmp_path: Path) -> None:
    write_gestures(tmp_path / "DVSGesture")
    data = load_images("dvs-gesture", root=str(tmp_path))
    assert data.classes[0] == "hand clapping"
    assert len(data.classes) == 11
    frames, labels = reader(data, "test", size=128, frames=2).batch(np.arange(4))
    assert sorted(labels.tolist()) == [0, 0, 10, 10]
    # 0 and 1 ms are in the first half of 0 to 4 ms, 3 ms is in the second.
    assert [tuple(map(int, at)) for at in np.argwhere(frames[0])] == [
        *((0, 0, 64, 127), (0, 1, 0, 0)),
        (1, 1, 127, 64),
    ]


def test_fit_scales_the_sensor(tmp_path: Path) -> None:
    data = load_images(write_gestures(tmp_path))
    frames, _ = reader(data, size=32, frames=2, fit=True).batch(np.arange(1))
    assert [tuple(map(int, at)) for at in np.argwhere(frames[0])] == [
        *((0, 0, 16, 31), (0, 1, 0, 0)),
        (1, 1, 31, 16),
    ]
    with pytest.raises(DataError, match=r"sensor of 128 x 128.*takes 32 x 32\. Set fit=true"):
        reader(data, size=32, frames=2).batch(np.arange(1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nmnist(EVENTS)[:-2], "23 bytes are not a multiple of 5"),
        (b"", "no two events at different times"),
        (nmnist([(1, 1, 5, 0), (2, 2, 5, 1)]), "no two events at different times"),
        (nmnist([(1, 1, 5, 0), (40, 2, 9, 1)]), "outside a sensor of 34 x 34"),
    ],
)
def test_a_damaged_recording_is_named_or_skipped(
    tmp_path: Path, content: bytes, message: str
) -> None:
    folder = write_nmnist(tmp_path / "n")
    broken = folder / "Test" / "0" / "00000.bin"
    broken.write_bytes(content)
    data = load_images(folder)
    with pytest.raises(DataError, match=rf"00000\.bin cannot be read as events: .*{message}"):
        reader(data, "test").batch(np.arange(2))
    skipping = reader(data, "test", broken="skip")
    assert len(skipping.batch(np.arange(2))[1]) == 1
    assert list(skipping.skipped) == [str(broken)]


def test_a_file_of_another_kind_of_array_is_named(tmp_path: Path) -> None:
    folder = write_gestures(tmp_path)
    np.save(folder / "ibmGestureTrain" / "user01_led" / "0.npy", np.zeros((3, 2)))
    data = load_images(folder, validation_fraction=0.0)
    with pytest.raises(DataError, match=r"float64 \[3, 2\] is not \[events, 4\] of numbers"):
        reader(data, size=128).batch(np.arange(4))
    (folder / "ibmGestureTrain" / "user01_led" / "wave.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"named 0\.npy to 10\.npy"):
        load_images(folder)


def test_images_and_recordings_are_not_taken_for_one_another(tmp_path: Path) -> None:
    events = load_images(write_nmnist(tmp_path / "events"))
    with pytest.raises(DataError, match="Take a preset for events"):
        ImageReader(events.split("train"), Prep(34, 1)).batch(np.arange(1))
    np.savez(tmp_path / "train.npz", images=np.zeros((8, 34, 34), np.uint8), label=np.arange(8) % 2)
    images = load_images(tmp_path)
    with pytest.raises(DataError, match=r"is an image, and this model takes recordings"):
        reader(images).batch(np.arange(1))
    with pytest.raises(ConfigError, match="2 polarities, not 3 channels"):
        ImageReader(events.split("train"), Prep(34, 3, frames=4))
    (tmp_path / "events" / "Train" / "0" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="holds images and recordings of events"):
        load_images(tmp_path / "events")


SHAPE: dict[str, Any] = {
    **{"image_size": 8, "num_channels": 2, "frames": True, "steps": 3, "hidden_size": 16},
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "sps_stages": 2, "sps_pools": 1},
    **{"num_labels": 3},
}


def test_each_frame_is_the_input_of_its_own_step() -> None:
    torch.manual_seed(0)
    model = SpikingViTForImageClassification(SpikingViTConfig(**SHAPE)).eval()
    still = SpikingViTForImageClassification(SpikingViTConfig(**SHAPE | {"frames": False})).eval()
    still.load_state_dict(model.state_dict())
    image = torch.randint(0, 5, (2, 2, 8, 8)).float()
    same = image.unsqueeze(1).expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(model(same).logits, still(image).logits)
    currents = []
    model.model.embeddings.stage1.conv.register_forward_hook(
        lambda _, args, __: currents.append(args[0])
    )
    frames = torch.randint(0, 5, (2, 3, 2, 8, 8)).float()
    model(frames)
    assert torch.equal(currents[0], frames.transpose(0, 1).flatten(0, 1))
    with pytest.raises(ConfigError, match=r"takes 3 x 2 x 8 x 8 \(frames, channels, height, width"):
        model(frames[:, :2])


def test_presets_take_their_cameras_and_have_no_dense_twin(tmp_path: Path) -> None:
    for preset, size, steps in (("a2os2a-nmnist", 34, 10), ("a2os2a-dvs-gesture", 128, 16)):
        config = build_vision_config(preset)
        assert Prep.of(config) == Prep(size, 2, 0.0, 1 / 255, steps)
        with pytest.raises(ConfigError, match="no dense twin"):
            control_of(config)
    prep = Prep.of(config)
    prep.save_pretrained(tmp_path)
    assert Prep.from_pretrained(tmp_path, config) == prep


def test_a_batch_holds_the_counts_themselves(tmp_path: Path) -> None:
    data = load_images(write_nmnist(tmp_path))
    store = ImageStore(data, Prep(34, 2, 0.0, 1 / 255, 4))
    batch = next(store.batches("test", 2))["pixel_values"]
    assert batch.shape == (2, 4, 2, 34, 34)
    torch.testing.assert_close(batch.unique(), torch.tensor([0.0, 1.0, 2.0]))
