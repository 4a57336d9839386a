"""Atomic writes: a file appears complete or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from spikeformers.errors import StorageError
from spikeformers.storage.writable import why_not


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``path`` through a temporary file. On ``StorageError`` the old file is unchanged.

    Each process has a temporary name of its own, so two processes may write the same file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"could not write {path}: {why_not(error)}. An existing file is unchanged; free some "
            "space, or name another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` through a temporary file; errors as in `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))
