"""Lines are appended, cut back on resume, and readable after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeformers.errors import CheckpointError, StorageError
from spikeformers.training.journal import SEEN, Journal, read_metrics, truncate


def test_lines_and_event_files(tmp_path: Path) -> None:
    with Journal(tmp_path, step=0, total=2, progress=False) as journal:
        journal.write("train", 1, {"loss": 0.5, "density_by_layer": {"a": 0.25}})
        journal.write("validation", 1, {"loss": 0.75})
        journal.advance(1, {"loss": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "loss": 0.5, "density_by_layer": {"a": 0.25}},
        {"kind": "validation", "step": 1, "loss": 0.75},
    ]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "validation/loss", "density/a"}
    assert events.Scalars("density/a")[0].value == 0.25


def test_resuming_drops_later_lines_and_half_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"kind": "train", "step": step}) + "\n" for step in (1, 2, 3, 4)]
    path.write_text("".join(lines) + '{"step": 5, "lo')
    truncate(path, 3)
    assert path.read_text() == "".join(lines[:3])


def test_a_resumed_journal_continues_at_the_checkpoint(tmp_path: Path) -> None:
    for begin in (0, 1):
        with Journal(tmp_path, step=begin, total=3, progress=False) as journal:
            for step in range(begin, 3):
                journal.write("train", step + 1, {"loss": float(begin)})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 0.0), (2, 1.0), (3, 1.0),
    ]  # fmt: skip


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path, step=0, total=1, enabled=False) as journal:
        journal.write("train", 1, {"loss": 1.0})
        journal.advance(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"metrics\.jsonl"):
        Journal(tmp_path, step=0, total=1, progress=False).__enter__()


def test_the_log_shows_loss_speed_and_density(tmp_path: Path) -> None:
    with Journal(tmp_path, step=0, total=9, progress=False) as journal:
        journal.advance(1, {"loss": 2.5, "tokens_per_second": 1234.0, "density": 0.125})
        journal.advance(2, {"loss": 2.25, "tokens_per_second": 1234.0})
    (line,) = (tmp_path / "progress.log").read_text().splitlines()
    assert "training: 2 of 9 steps (22 %), 0 s, about 0 s left; " in line
    assert line.endswith("; loss 2.250  1,234 tokens/s  density 0.125")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"kind": "train", "st', "line 2, is not valid JSON"),
        (b"\xff\xfe", "the byte 0xff at offset"),
        (b"[1, 2]", "line 2 holds a list where an object is needed"),
        (b'{"kind": "train"}', "line 2 cannot be used: 'step' is missing"),
        (b'{"kind": "train", "step": "2"}', "step is '2'; it must be a whole number"),
        (b'{"kind": "train", "step": 2, "density": []}', r"density is \[\]; it must be a number"),
    ],
    ids=str,
)
def test_a_line_that_no_run_wrote_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1}\n' + line + b"\n")
    with pytest.raises(CheckpointError, match=message) as raised:
        truncate(path, 3)
    assert str(path) in str(raised.value)
    assert "move the file away" in str(raised.value)


def test_values_that_pictures_need_must_be_in_every_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = {"kind": "train", "step": 1, "loss": 0.5, "seconds": 2.0, "tokens_seen": 8}
    path.write_text(json.dumps(line) + "\n")
    needed = ("loss", "seconds", SEEN)
    assert read_metrics(path, needed=needed) == [line]
    for key in ("loss", "seconds", "tokens_seen"):
        path.write_text(json.dumps({k: v for k, v in line.items() if k != key}) + "\n")
        with pytest.raises(CheckpointError, match=f"line 1 cannot be used: '{key}' is missing"):
            read_metrics(path, needed=needed)
