"""A place is tried by writing there, and left as it was."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from spikeformers.errors import StorageError, UsageError
from spikeformers.storage import check_file, check_folder, write_text


def test_a_writable_place_is_left_unchanged(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    check_file(tmp_path / "a" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UsageError, match=r"^--out .*/file is a file; name a folder\.$"):
        check_folder(file)
    with pytest.raises(UsageError, match=r"a/b cannot be made: .*/file is a file; name a folder"):
        check_folder(file / "a" / "b")
    with pytest.raises(UsageError, match=r"^--report .*/file is a file"):
        check_file(file / "page.html", "--report")
    with pytest.raises(UsageError, match=r"is a folder; name a file"):
        check_file(tmp_path)


def test_a_file_system_that_takes_no_files_is_refused() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(StorageError, match=r"^--out /proc/mine/run cannot be written: /proc takes"):
        check_folder(Path("/proc/mine/run"))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_the_reason_of_the_system_is_passed_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(StorageError, match=f"run cannot be written: {os.strerror(number)}"):
        check_folder(tmp_path / "run")


def test_two_processes_do_not_meet_in_a_temporary_file(tmp_path: Path) -> None:
    (tmp_path / ".page.html.tmp").mkdir()  # another process's
    write_text(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "new"
