"""Whether a place can be written, found out by writing there: before the computing, not after.

Permission bits are not asked: root passes them all, and a read-only file system, a quota or a
folder of the kernel refuses whatever they say.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from spikeformers.errors import StorageError, UsageError


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise unless files can be made in ``folder``, or it in the nearest folder that is there.

    ``option`` names it in messages. ``UsageError`` where a file stands in its place or above it,
    ``StorageError`` where the system refuses. Nothing is left behind.
    """
    place = folder
    try:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if place.exists() and not place.is_dir():
            what = "is a file" if place == folder else f"cannot be made: {place} is a file"
            raise UsageError(f"{option} {folder} {what}; name a folder.".lstrip())
        # mkdtemp, because a folder that has to be made later takes the right to make folders.
        os.rmdir(tempfile.mkdtemp(prefix=".spikeformers-", dir=place))
    except FileNotFoundError as error:  # such as /proc
        said = f"{option} {folder} cannot be written: {place} takes no files.".lstrip()
        raise StorageError(said) from error
    except OSError as error:
        raise refused(folder, error, option) from error


def check_file(path: Path, option: str = "--out") -> None:
    """Raise unless a file can be written at ``path``; as `check_folder` of its folder."""
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file.")
    check_folder(path.parent, option)


def refused(place: Path, error: OSError, option: str = "") -> StorageError:
    """What to raise for a place that the system does not let us write."""
    return StorageError(
        f"{option} {place} cannot be written: {why_not(error)}. Name a folder that can.".lstrip()
    )


def why_not(error: OSError) -> str:
    """The system's reason, without the number."""
    return str(error.strerror or error)
