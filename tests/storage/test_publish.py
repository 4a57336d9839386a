"""Files that appear together: complete, in order, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from spikeformers.errors import StorageError
from spikeformers.storage import publishing


def publish(folder: Path, error: BaseException | None = None) -> None:
    with publishing(folder, last="config.json", failed="not saved", advice="Free space.") as draft:
        draft.mkdir()
        for name in ("config.json", "weights", "tokenizer"):
            (draft / name).write_text("new")
        if error is not None:
            raise error


def test_files_move_into_the_folder_and_the_named_one_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, replace = [], os.replace

    def record(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    publish(tmp_path)
    assert sorted(moved[:-1]) == ["tokenizer", "weights"]
    assert moved[-1] == "config.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(moved)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("full")])
def test_a_refused_write_leaves_the_earlier_files(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "config.json").write_text("earlier")
    with pytest.raises(StorageError, match=r"not saved: .*\. Free space\.") as raised:
        publish(tmp_path, error)
    assert raised.value.__cause__ is error
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "earlier"


def test_an_interruption_passes_through_and_leaves_no_draft(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
