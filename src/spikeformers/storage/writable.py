"""Check that a place can be written by writing there, before the computation and not after it.

Permission bits are not enough: they do not stop root, and a read-only file system, a quota or a
folder of the kernel refuses writes regardless of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from spikeformers.errors import StorageError, UsageError


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise unless files can be created in ``folder``, or ``folder`` in its nearest parent.

    ``option`` names the folder in messages. Raises ``UsageError`` if it or one of its parents is a
    file, ``StorageError`` if the system refuses. Nothing is left behind.
    """
    place = folder
    try:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if place.exists() and not place.is_dir():
            problem = "is a file" if place == folder else f"cannot be made: {place} is a file"
            raise UsageError(f"{option} {folder} {problem}; name a folder.".lstrip())
        # mkdtemp, because creating folders may need other rights than creating files.
        os.rmdir(tempfile.mkdtemp(prefix=".spikeformers-", dir=place))
    except FileNotFoundError as error:  # such as /proc
        message = f"{option} {folder} cannot be written: {place} takes no files.".lstrip()
        raise StorageError(message) from error
    except OSError as error:
        raise refused(folder, error, option) from error


def check_file(path: Path, option: str = "--out") -> None:
    """Raise unless a file can be written at ``path``; errors as in `check_folder`."""
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file.")
    check_folder(path.parent, option)


def refused(place: Path, error: OSError, option: str = "") -> StorageError:
    """The error to raise for a place where the system refuses a write."""
    return StorageError(
        f"{option} {place} cannot be written: {why_not(error)}. Name a folder that can.".lstrip()
    )


def why_not(error: OSError) -> str:
    """The system's reason, without its error number."""
    return str(error.strerror or error)
