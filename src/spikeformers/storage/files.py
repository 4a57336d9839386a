"""Atomic writes: a file appears complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spikeformers.errors import StorageError
from spikeformers.storage.writable import why_not

LEFT_OVER = ".*.tmp"
"""Names of what `replacing` leaves of a process that was killed while it wrote."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; it becomes ``path`` when the block ends without an error.

    Creates the folder if it is missing. Raises ``StorageError`` for an ``OSError`` in the block;
    after any exception the old file is unchanged and the temporary one removed. Each process has a
    temporary name of its own, so two processes may write the same file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"could not write {path}: {why_not(error)}. An existing file is unchanged; free some "
            "space, or name another folder."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``path`` atomically; errors as in `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` atomically; errors as in `replacing`."""
    write_bytes(path, text.encode("utf-8"))
