"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from spikeformers.storage import draft_of


def test_what_is_renamed_stays_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    with draft_of(folder) as draft:
        assert draft.parent == folder.parent
        (draft / "file").write_text("whole")
        os.rename(draft, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert (folder / "file").read_text() == "whole"
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_draft_is_removed_if_it_fails_or_is_not_renamed(tmp_path: Path) -> None:
    with suppress(KeyError), draft_of(tmp_path / "model") as draft:
        (draft / "file").write_text("half")
        raise KeyError
    with draft_of(tmp_path / "model"):
        pass
    assert list(tmp_path.iterdir()) == []
